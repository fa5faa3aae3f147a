"""The command `throttled-openai`: programs throttled as they are, a server without a key, a demonstration."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import openai

from . import _exec, demo
from .bench import _cli as bench
from .simulator import _cli as simulator

if TYPE_CHECKING:
    from collections.abc import Sequence

# What shells report for a command that Ctrl-C ended: 128 and the number of SIGINT.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 fine, 1 failed, 2 usage, 130 Ctrl-C.

    `simulate` serves until Ctrl-C, which is how it is meant to end: 0.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print()  # the shell's prompt belongs on a line of its own, not behind ^C
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="throttled-openai",
        description="AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s.",
    )
    parser.add_argument("--version", action="version", version=_versions())
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, says, command in (
        ("demo", "the same calls through AsyncOpenAI and ThrottledAsyncOpenAI, side by side", demo),
        ("exec", "run a program as it is, with every client of the SDK throttled", _exec),
        ("bench", "measure a live endpoint, and find how many calls in flight suit it", bench),
        ("simulate", "serve OpenAI's interface with rate limits, for tests and people without a key", simulator),
    ):
        subparser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _versions() -> str:
    """All that a bug report needs."""
    try:
        ours = version("throttled-openai")
    except PackageNotFoundError:  # run from a checkout
        ours = "(not installed)"
    return f"throttled-openai {ours}, openai {openai.__version__}, Python {platform.python_version()}"
