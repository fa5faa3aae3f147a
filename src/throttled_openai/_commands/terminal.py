"""The terminal of a command: aligned tables, a line of progress that is updated in place, and a question to confirm."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

# Seconds between two lines of progress: in place on a terminal, one below the other in a log.
_ON_TERMINAL: Final = 0.2
_IN_LOG: Final = 5.0


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of aligned cells: the first column to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))]).rstrip()
        for name, *cells in rows
    ]


async def report_progress(line: Callable[[], str], stream: TextIO) -> None:
    """Show `line()` again and again, until this task is cancelled."""
    while True:
        await asyncio.sleep(_ON_TERMINAL if stream.isatty() else _IN_LOG)
        show(line(), stream)


def show(line: str, stream: TextIO, *, last: bool = False) -> None:
    """Show a line of progress. On a terminal it replaces the one before, until the `last`."""
    if stream.isatty():
        # Exactly one row: a shorter line would leave the end of the one before it, a longer one would wrap.
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]:<{width}}", end="\n" if last else "", file=stream, flush=True)
    else:
        print(line, file=stream, flush=True)


def confirmed(stream: TextIO) -> bool:
    """Ask whether to send. No answer means no, and so does standard input that is not a terminal."""
    if not sys.stdin.isatty():
        print("Cannot ask: standard input is not a terminal; --yes sends without asking.", file=stream, flush=True)
        return False
    print("Send them? [y/N] ", end="", file=stream, flush=True)
    try:
        return input().strip().lower() in {"y", "yes"}
    except EOFError:
        print(file=stream, flush=True)
        return False
