"""What every Python process of a program run by `throttled-openai exec` begins with.

`exec` puts this directory on PYTHONPATH, for the program and the processes it starts. Python imports `sitecustomize`
from here at startup; where that of another tool is found first, it imports `openai` from here later. Any Python may
run this, also one without the SDK: only the standard library, only old syntax, no imports that cost time.
"""
# ruff: noqa: INP001, PTH100, PTH120  # pathlib would slow down every start

import atexit
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
# Where this package is, for a Python that does not find it by itself.
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))
# Once one of these is imported, and none is half imported, throttling is installed.
_NAMES = ("openai", "throttled_openai")


class _Finder:
    """Lets the other finders find the SDK, and installs throttling as soon as it is imported."""

    def __init__(self) -> None:
        self._loading = []  # type: ignore[var-annotated]

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in _NAMES:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)  # type: ignore[comparison-overlap]
            spec = find and find(name, path, target)
            if spec is not None:
                self._attend(name, spec.loader)
                return spec
        return None

    def _attend(self, name: str, loader: object) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None:  # a namespace
            return

        def exec_module(module: object) -> None:
            del loader.exec_module  # type: ignore[attr-defined]
            self._loading.append(name)
            try:
                execute(module)
            finally:
                self._loading.remove(name)
            if not self._loading and self in sys.meta_path:  # type: ignore[comparison-overlap]
                sys.meta_path.remove(self)  # type: ignore[arg-type]
                _begin()

        loader.exec_module = exec_module  # type: ignore[attr-defined]


def _begin() -> None:
    """Install throttling. If that fails the program goes on without it, and is told."""
    try:
        try:
            from throttled_openai._commands import exec as _exec  # noqa: PLC0415
        except ImportError:
            sys.path.append(_HOME)
            try:
                from throttled_openai._commands import exec as _exec  # noqa: PLC0415
            finally:
                sys.path.remove(_HOME)
        _exec.begin()
    except Exception as problem:  # noqa: BLE001  # the program is not ours to stop
        _say("NOT throttled: " + type(problem).__name__ + ": " + str(problem))


def _end() -> None:
    """Registered before the program has begun, so that all else is over by now."""
    if "throttled_openai._commands.exec" not in sys.modules and os.environ.get("THROTTLED_OPENAI_EXEC_PID") == str(
        os.getpid()
    ):
        _say("the program did not import the SDK")


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write("throttled-openai: " + text + "\n")


def start() -> None:
    """Have throttling installed as soon as the SDK is imported."""
    # The first Python process is the program; those that it starts find its number here.
    os.environ.setdefault("THROTTLED_OPENAI_EXEC_PID", str(os.getpid()))
    if os.environ.get("THROTTLED_OPENAI_EXEC") == "summary":
        atexit.register(_end)
    if hasattr(sys.modules.get("openai"), "OpenAI"):
        _begin()
    else:
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


def make_way(name: str) -> None:
    """Leave `sys.path` as it would be without us, and import the module `name` that ours stood before."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _HERE]
    ours = sys.modules.pop(name)
    try:
        __import__(name)
    except ImportError as problem:
        if name != "sitecustomize" or problem.name != name:
            raise
        sys.modules[name] = ours  # the import system looks for it when that file is done
