"""The command `completion`: the script by which a shell completes commands and options."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

_SHELLS: Final = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = 'For bash: eval "$(throttled-openai completion bash)" in ~/.bashrc.'
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=f"one of {', '.join(_SHELLS)}")


def run(arguments: argparse.Namespace) -> int:
    """Print the script. Returns 1 where the library that writes it is not installed."""
    try:
        import shtab  # noqa: PLC0415  # an extra
    except ImportError:
        print(
            "throttled-openai completion: shtab is missing; pip install shtab",
            file=sys.stderr,
        )
        return 1
    print(shtab.complete(arguments.parser, shell=arguments.shell))
    return 0
