"""The command `exec`: a program that knows nothing of throttling, run with throttled clients."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import argparse
import atexit
import runpy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._core.stats import spell
from ._install import VARIABLES, install, installed_stats

if TYPE_CHECKING:
    from types import TracebackType

_HELP: Final = {
    "rpm": "requests per minute of each model",
    "tpm": "tokens per minute of each model",
    "rpd": "requests per day of each model",
    "tpd": "tokens per day of each model",
    "max_wait": "seconds a call may wait before it fails",
    "max_concurrency": "most calls in flight; found by itself where left out",
    "max_refusals": "how often one call may be refused",
    "max_queued": "most calls that may wait",
    "priority": "of all calls; higher goes first",
    "dialect": "how the server counts tokens, such as openai or self-hosted",
    "pool": "connections: httpx, aiohttp or sdk",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] script.py [argument ...]\n       %(prog)s [options] -m module [argument ...]"
    parser.epilog = (
        "Each option can also be set in the environment, as THROTTLED_OPENAI_RPM=500. Limits that are not given are "
        "learnt from the server. Clients of one account share its limits; other processes that the program starts "
        "do not."
    )
    for name, read in VARIABLES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=read, metavar="N" if read is not str else "NAME",
                            help=_HELP[name])  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no summary at the end")
    parser.add_argument("-m", dest="is_module", action="store_true", help="run a module, as python -m does")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Run the program as `python` would, and end with its exit code."""
    if not arguments.program:
        print("throttled-openai exec: name a script, or -m and a module", file=sys.stderr)
        return 2
    try:
        install(**{name: getattr(arguments, name) for name in VARIABLES})
    except (TypeError, ValueError, ImportError) as error:
        print(f"throttled-openai exec: {error}", file=sys.stderr)
        return 2
    if not arguments.quiet:
        atexit.register(_summarise, time.monotonic())  # after the program's threads
    return _run(arguments.program, is_module=arguments.is_module)


def _run(program: list[str], *, is_module: bool) -> int:
    sys.argv = list(program)
    try:
        if is_module:
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(program[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(program[0]).resolve().parent))
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as end:
        return _exit_code(end.code)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # whatever the program did not catch
        theirs = _from_program(error)
        sys.excepthook(type(error), error.with_traceback(theirs), theirs)
        return 1
    return 0


def _exit_code(code: Any) -> int:
    """What Python makes of the argument of `sys.exit`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _from_program(error: BaseException) -> TracebackType | None:
    """The traceback without us and `runpy`, if there is anything left."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    here = error.__traceback__
    while here is not None and here.tb_frame.f_code.co_filename in ours:
        here = here.tb_next
    return here


def _summarise(began: float) -> None:
    seconds, found = time.monotonic() - began, installed_stats()
    if not found:
        print("throttled-openai: the program made no client of the SDK", file=sys.stderr)
    for host, stats in found:
        print(
            f"throttled-openai: {host}: {stats.succeeded:,} requests succeeded in {spell(seconds)}; "
            f"{stats.refused:,} refusals on the way",
            file=sys.stderr,
        )
        for budget in stats.budgets:
            print(f"    {budget}", file=sys.stderr)
