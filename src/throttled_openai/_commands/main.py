"""The command `throttled-openai` and its exit codes."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from throttled_openai._commands.versions import versions
from throttled_openai._spelling import did_you_mean
from throttled_openai.simulator import _cli as simulator

from . import exec as _exec
from .bench import cli as bench
from .demo import cli as demo
from .parser import Parser
from .proxy import cli as proxy
from .run import cli as run
from .run import validate
from .top import cli as top

if TYPE_CHECKING:
    from collections.abc import Sequence

# Exit codes that shells report for a command ended by Ctrl-C, or by a closed pipe: 128 plus the number of the signal.
INTERRUPTED = 130
PIPE_CLOSED = 141

# A full disk, a full quota, a file that may not grow, a broken device.
_UNWRITABLE: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EIO}

COMMANDS: Final = (
    ("demo", "make the same calls with AsyncOpenAI and ThrottledAsyncOpenAI, and compare", demo),
    ("exec", "run a program unchanged, with every client of the SDK throttled", _exec),
    ("proxy", "serve any program on this machine: admit its calls, pace them and pass them on", proxy),
    ("top", "look at a running program: its limits, why its calls wait, and for how long", top),
    ("run", "send a file of requests and write a file of results, losing nothing", run),
    ("validate", "check a file of requests without sending any", validate),
    ("bench", "measure a live endpoint, and find how many calls in flight it handles best", bench),
    (
        "simulate",
        "serve OpenAI's interface with rate limits, for tests and for use without a key",
        simulator,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 failure, 2 usage, 130 Ctrl-C, 141 closed pipe.

    `simulate` and `proxy` serve until Ctrl-C, so their exit code is then 0.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, because a failure at exit could not be reported
    except KeyboardInterrupt:
        with suppress(OSError):
            print(flush=True)  # the shell's prompt starts on a new line, not behind ^C
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except OSError as problem:
        if problem.errno not in _UNWRITABLE:
            raise
        _drop_output()
        print(f"throttled-openai: cannot write: {problem.strerror}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    names = [name for name, _, _ in COMMANDS]
    if argv and not argv[0].startswith("-") and argv[0] not in names:
        parser.error(f"there is no command {argv[0]!r}{did_you_mean(argv[0], names)}")
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    code: int = arguments.run(arguments)
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="throttled-openai",
        description="AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version="throttled-openai {throttled-openai}, openai {openai}, Python {python}".format(**versions()),
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, summary, command in COMMANDS:
        subparser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _drop_output() -> None:
    """Discard the rest of stdout, because Python would try to write it again at exit, and print an error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
