"""The command `exec`: run an unchanged program with throttled clients.

The program replaces this process, so it runs exactly as without us: same Python, arguments, exit code. The environment
makes Python import `startup/sitecustomize.py`, which throttles the program and the Python processes that it starts.
"""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._clients.install import VARIABLES, checked, first_process, install, installed_stats
from throttled_openai._clients.live import VARIABLE as TOP
from throttled_openai._stats import spell

if TYPE_CHECKING:
    import argparse

    from .parser import Parser

_HELP: Final = {
    "rpm": "requests per minute of each model",
    "tpm": "tokens per minute of each model",
    "rpd": "requests per day of each model",
    "tpd": "tokens per day of each model",
    "max_wait": "seconds a call may wait before it fails",
    "max_concurrency": "most calls in flight; found automatically if left out",
    "max_refusals": "most refusals of one call before it fails",
    "max_queued": "most calls waiting; further calls fail",
    "priority": "priority of all calls; higher goes first",
    "dialect": "how the server counts tokens, such as openai or self-hosted",
    "pool": "connection pool: httpx, aiohttp or sdk",
}

_STARTUP: Final = str(Path(__file__).with_name("startup"))
# Exit code that shells report for a program that they found and cannot run.
_CANNOT_RUN: Final = 126


def add_arguments(parser: Parser) -> None:
    parser.usage = (
        "%(prog)s [options] script.py [argument ...]\n"
        "       %(prog)s [options] -m module [argument ...]\n"
        "       %(prog)s [options] command [argument ...]"
    )
    parser.epilog = (
        "A command is a program such as pytest, python or gunicorn. Python processes that it starts are throttled too. "
        "Each option can also be set in the environment, as THROTTLED_OPENAI_RPM=500. Limits that are not set are "
        "learnt from the server. Clients of one account share its limits; each process has the whole limit."
    )
    add_options(parser)
    parser.add_argument("--shadow", action="store_true", help="only observe: report what throttling would have done")
    parser.add_argument("--top", action="store_true", help="let `throttled-openai top` look at the program")
    parser.add_argument("--quiet", action="store_true", help="print no summary at the end")
    parser.allow_abbrev = False
    parser.program = "program"
    parser.set_defaults(fail=parser.error)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of throttled clients that can be written as text."""
    for name, read in VARIABLES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=read, metavar="N" if read is not str else "NAME",
                            help=_HELP[name])  # fmt: skip


def options_in(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, of those that `add_options` added."""
    return {name: value for name in VARIABLES if (value := getattr(arguments, name)) is not None}


def run(arguments: argparse.Namespace) -> int:
    """Become the program. Returns an exit code only if that fails."""
    if not arguments.program:
        arguments.fail("name a script, a command, or -m and a module")
    given = options_in(arguments)
    try:
        checked(given)
    except (TypeError, ValueError, ImportError) as error:
        arguments.fail(str(error))
    command = command_of(arguments.program)
    if ignored := _ignores_environment(command):
        arguments.fail(
            f"with {ignored} Python ignores the environment, through which programs are throttled; leave {ignored} out"
        )
    environment = environment_of(given, quiet=arguments.quiet)
    if vars(arguments).get("top"):
        environment[TOP] = "1"
    if vars(arguments).get("shadow"):
        environment["THROTTLED_OPENAI_ENFORCE"] = "0"
    try:
        try:
            return _become(command, environment)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # An executable script whose first line names no interpreter.
            return _become([*_python(), *command], environment)
    except OSError as error:
        print(f"throttled-openai exec: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return _CANNOT_RUN


def command_of(program: list[str]) -> list[str]:
    """The whole command line of `program`, which is a script, module, code or stdin for Python, or another command.

    As with `uv run`, commands are also looked for in the directory of this Python. If none is found, `program` goes
    to Python, which then reports the error.
    """
    name = program[0]
    if name.startswith("-") or name.lower().endswith((".py", ".pyw", ".pyc", ".pyz")):
        return [*_python(), *program]
    path = Path(name)
    if path.is_file() and not os.access(path, os.X_OK):
        return [*_python(), *program]
    found = str(path.absolute()) if path.is_file() else shutil.which(name, path=_search_path())
    return [*_python(), *program] if found is None else [found, *program[1:]]


def environment_of(given: dict[str, object], *, quiet: bool) -> dict[str, str]:
    """The environment that makes a Python process throttle, with the options `given`."""
    environment = dict(os.environ)
    environment |= {f"THROTTLED_OPENAI_{name.upper()}": str(value) for name, value in given.items()}
    environment["THROTTLED_OPENAI_EXEC"] = "quiet" if quiet else "summary"
    environment.pop("THROTTLED_OPENAI_EXEC_PID", None)
    environment["PATH"] = _search_path()
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (_STARTUP, environment.get("PYTHONPATH"))))
    return environment


def begin() -> None:
    """Throttle this process. The modules in `startup` call this when the SDK has been imported."""
    install()
    if os.environ.get("THROTTLED_OPENAI_EXEC") == "summary":
        atexit.register(_summarise, time.monotonic())  # runs after the program's threads have ended


def _summarise(began: float) -> None:
    seconds, found = time.monotonic() - began, installed_stats()
    is_first = first_process() == os.getpid()
    who = "throttled-openai" if is_first else f"throttled-openai: process {os.getpid()}"
    lines = []
    if not found and is_first:
        lines.append(f"{who}: the program made no client of the SDK")
    for host, stats in found:
        lines.append(
            f"{who}: {host}: {stats.succeeded:,} requests succeeded in {spell(seconds)}; "
            f"{stats.refused:,} refusals on the way"
        )
        lines += (f"    {budget}" for budget in stats.budgets)
    if lines and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # stderr may be closed
            print("\n".join(lines), file=sys.stderr)


def _python() -> list[str]:
    """The Python that runs this process, with its own flags, such as `-X dev`."""
    return [sys.executable, *_flags()]


def _flags() -> list[str]:
    # `orig_argv` ends with `sys.argv`, in which it has the script, or the module after `-m`, as the user wrote it.
    flags = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    return flags[:-1] if flags[-1:] == ["-m"] else flags


def _search_path() -> str:
    """PATH with this Python's directory, as if its environment were activated, unless another environment is."""
    path, here = os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)
    activated = os.environ.get("VIRTUAL_ENV")
    if here in path.split(os.pathsep) or (activated and Path(activated).resolve() != Path(sys.prefix).resolve()):
        return path
    return os.pathsep.join((here, path))


def _ignores_environment(command: list[str]) -> str:
    """The flag that would make this command ignore PYTHONPATH, if the command is Python; else empty."""
    if not re.fullmatch(r"(python|pypy)[\d.]*w?(\.exe)?", Path(command[0]).name.lower()):
        return ""
    for argument in command[1:]:
        if not argument.startswith("-"):
            return ""
        if found := re.match("-[a-zA-Z]*?([IES])", re.sub("[mcXW].*", "", argument)):
            return f"-{found[1]}"
    return ""


def _become(command: list[str], environment: dict[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform == "win32":  # `execve` starts a new process there, and the shell would not wait for it
        return _wait_for(command, environment)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these signals, and the program would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    return os.execve(command[0], command, environment)  # noqa: S606


def _wait_for(command: list[str], environment: dict[str, str]) -> int:
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603  # the user's own command
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the program receives it too, and decides
                return process.wait()
