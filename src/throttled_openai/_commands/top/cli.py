"""The command `top`: look at a running program, and change or pause its limits."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._stats import Stats

from .source import processes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from throttled_openai._commands.parser import Parser

    from .source import ProcessSource, Shown, Snapshot, Source

# Seconds between two pictures.
_EVERY: Final = 0.5
_STEP: Final = 1.1

_EPILOG: Final = """\
What am I looking at? One panel for each budget: a model, or models that share their limits.
requests, tokens: what counts against the limit now, and where the limit comes from: configured by you, announced by
the server, or learnt from its refusals. in flight: attempts under way, of as many as the server has room for; room:
how that changed. refusals: by kind. waits: how long the latest calls waited. why: the limit that holds calls back
most, when the next call goes, and when all that wait are done if limits stay as they are.

The program must allow it: start it with `throttled-openai exec --top`, call install(top=True), or set
THROTTLED_OPENAI_TOP=1. Only the same user can look."""


def add_arguments(parser: Parser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("process", nargs="?", type=int, help="its number; may be left out if there is only one")
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    parser.add_argument("--json", action="store_true", help="print the figures once, as JSON")
    parser.add_argument("--budget", metavar="NAME", help="change this budget only (default: all)")
    parser.add_argument("--rpm", type=float, metavar="N", help="set the requests per minute, and end")
    parser.add_argument("--tpm", type=float, metavar="N", help="set the tokens per minute, and end")
    parser.add_argument("--pause", action="store_true", help="send no further call until --resume, and end")
    parser.add_argument("--resume", action="store_true", help="send calls again, and end")


def run(arguments: argparse.Namespace) -> int:
    """Show a running program until it ends, or change its limits."""
    source = _chosen(arguments.process)
    if source is None:
        return 1
    try:
        if arguments.pause or arguments.resume or arguments.rpm or arguments.tpm:
            return _change(source, arguments)
        if arguments.json:
            print(json.dumps([_plain(shown) for shown in source.read().budgets], indent=2))
            return 0
        return _look(source, once=arguments.once)
    except OSError as problem:
        print(f"throttled-openai top: process {source.process} has ended ({problem})", file=sys.stderr)
        return 1


def _chosen(process: int | None) -> ProcessSource | None:
    try:
        found = processes()
    except (OSError, AttributeError) as problem:
        print(f"throttled-openai top: {problem}", file=sys.stderr)
        return None
    named = [source for source in found if process in (None, source.process)]
    if len(named) == 1:
        return named[0]
    if named:
        print("Several programs can be looked at; name one by its number:", file=sys.stderr)
        for source in named:
            print(f"  {source.process}  {source.read().title}", file=sys.stderr)
    else:
        what = "No program" if process is None else f"No process {process}"
        print(
            f"{what} can be looked at. Start one with `throttled-openai exec --top`, call install(top=True) in it, "
            "or set THROTTLED_OPENAI_TOP=1.",
            file=sys.stderr,
        )
    return None


def _change(source: Source, arguments: argparse.Namespace) -> int:
    shown = [each for each in source.read().budgets if arguments.budget in (None, each.stats.name)]
    if not shown:
        print(f"throttled-openai top: there is no budget {arguments.budget!r}", file=sys.stderr)
        return 1
    for each in shown:
        if arguments.rpm or arguments.tpm:
            after = source.change(each, "adjust", rpm=arguments.rpm, tpm=arguments.tpm)
        else:
            after = source.change(each, "pause" if arguments.pause else "resume")
        if after.error:
            print(f"throttled-openai top: {after.error}", file=sys.stderr)
            return 1
    for each in source.read().budgets:
        print(each.stats)
    return 0


def _plain(shown: Shown) -> dict[str, Any]:
    stats = Stats(shown.stats.waiting, shown.stats.in_flight, (shown.stats,))
    found: dict[str, Any] = stats.as_dict()["budgets"][0]
    return found


def _look(source: Source, *, once: bool) -> int:
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
        from rich.live import Live  # noqa: PLC0415

        from .view import History, picture  # noqa: PLC0415
    except ImportError:
        print(
            "throttled-openai top needs rich: pip install 'throttled-openai[top]', or look with --json", file=sys.stderr
        )
        return 1
    history, console, chosen = History(), Console(), 0
    snapshot = source.read()
    history.add(snapshot)
    if once or not console.is_terminal:
        console.print(picture(snapshot, history, keys=False))
        return 0
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(snapshot, history, chosen), refresh=True)
            pressed = key(_EVERY)
            if pressed in ("q", "\x03"):
                return 0
            snapshot = source.read()
            if snapshot.budgets:
                chosen = _moved(chosen, pressed, len(snapshot.budgets))
                snapshot = _pressed(source, snapshot, snapshot.budgets[chosen], pressed)
            history.add(snapshot)


def _moved(chosen: int, pressed: str, count: int) -> int:
    return min(count - 1, max(0, chosen + {"\x1b[A": -1, "k": -1, "\x1b[B": 1, "j": 1}.get(pressed, 0)))


def _pressed(source: Source, snapshot: Snapshot, shown: Shown, pressed: str) -> Snapshot:
    """The figures after the change that a key stands for."""
    if pressed == "p":
        pause = shown.stats.pause
        return source.change(shown, "resume" if pause is not None and pause.reason == "user" else "pause")
    if pressed in ("+", "-"):
        factor = _STEP if pressed == "+" else 1 / _STEP
        limits = {each.dimension: each.limit * factor for each in shown.stats.windows if each.unit == "min"}
        if limits:
            return source.change(shown, "adjust", rpm=limits.get("requests"), tpm=limits.get("tokens"))
    return snapshot


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits some seconds for a key, and returns it, or an empty string."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios  # noqa: PLC0415  # not on Windows, where there is no socket either
    import tty  # noqa: PLC0415

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)

    def key(seconds: float) -> str:
        if not select.select([file], [], [], seconds)[0]:
            return ""
        return os.read(file, 8).decode(errors="replace")

    tty.setcbreak(file)
    try:
        yield key
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
