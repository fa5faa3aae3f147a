"""The command `help`: the same as `--help`, as people type it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from throttled_openai._spelling import did_you_mean

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="the command to explain (default: all)")
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Print the help of one command, or of all."""
    commands, name = arguments.commands, arguments.command
    if name is not None and name not in commands:
        arguments.fail(f"there is no command {name!r}{did_you_mean(name, commands)}")
    (arguments.parser if name is None else commands[name]).print_help()
    return 0
