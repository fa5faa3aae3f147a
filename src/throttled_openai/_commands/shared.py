"""The command `shared status`: the budgets that processes share, as their store has them now."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from throttled_openai._shared.place import read_place
from throttled_openai._shared.status import read_status
from throttled_openai._shared.store import reason_of

if TYPE_CHECKING:
    import argparse

    from .parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("what", choices=("status",), help="show budgets, processes, shares, pauses and who waits")
    parser.add_argument("place", metavar="URL", help="a Redis or Valkey address as in shared=, or 'local'")
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Print one paragraph for each budget. Returns 1 if the store does not answer."""
    try:
        place = read_place(arguments.place)
    except (TypeError, ValueError, ImportError) as error:
        arguments.fail(str(error))
        raise
    try:
        budgets = read_status(place)
    except Exception as error:  # noqa: BLE001  # of several packages, and of the system
        print(f"throttled-openai shared: no answer from {place.label} ({reason_of(error)})", file=sys.stderr)
        return 1
    print("\n".join(map(str, budgets)) or f"{place.label} has no budgets: no process has used any within the last hour")
    return 0
