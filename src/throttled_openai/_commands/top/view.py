"""The picture of `top`: budgets as bars, the room as a sparkline, refusals, waits, and the reason to wait."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from throttled_openai._seeing.explanation import explain
from throttled_openai._stats import spell

if TYPE_CHECKING:
    from rich.console import RenderableType

    from throttled_openai._stats import BudgetStats

    from .source import Shown, Snapshot

_BAR: Final = 28
_HISTORY: Final = 60
_LEVELS: Final = "▁▂▃▄▅▆▇█"
KEYS: Final = "↑ ↓ choose   p pause or resume   + - limits by 10 %   q quit"


class History:
    """What was seen of each budget in the last minute or so."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], deque[tuple[float, BudgetStats]]] = {}

    def add(self, snapshot: Snapshot) -> None:
        for shown in snapshot.budgets:
            seen = self._seen.setdefault((shown.throttle, shown.stats.name), deque(maxlen=_HISTORY))
            seen.append((snapshot.seconds, shown.stats))

    def of(self, shown: Shown) -> list[tuple[float, BudgetStats]]:
        return list(self._seen.get((shown.throttle, shown.stats.name), ()))


def picture(snapshot: Snapshot, history: History, chosen: int = 0, *, keys: bool = True) -> RenderableType:
    """The whole screen."""
    waiting = sum(shown.stats.waiting for shown in snapshot.budgets)
    flying = sum(shown.stats.in_flight for shown in snapshot.budgets)
    head = Text.assemble(
        (snapshot.title, "bold"),
        f"   running {spell(snapshot.seconds)}   ",
        (f"{waiting:,} waiting", "yellow" if waiting else ""),
        f"   {flying:,} in flight",
    )
    parts: list[RenderableType] = [head]
    for number, shown in enumerate(snapshot.budgets):
        parts.append(_panel(shown, history.of(shown), chosen=keys and number == chosen))
    if not snapshot.budgets:
        parts.append(Text("no call so far", style="dim"))
    if snapshot.error:
        parts.append(Text(snapshot.error, style="red"))
    if keys:
        parts.append(Text(KEYS, style="dim"))
    return Group(*parts)


def _panel(shown: Shown, seen: list[tuple[float, BudgetStats]], *, chosen: bool) -> Panel:
    stats = shown.stats
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", min_width=12)
    table.add_column(min_width=_BAR)
    table.add_column()
    for window in stats.windows:
        share = window.used / window.limit if window.limit else 0.0
        used = f"{max(0.0, window.used):,.0f} of {window.limit:,.0f} per {window.unit} ({window.source})"
        table.add_row(window.dimension, bar(share), used)
    if not stats.windows:
        table.add_row("limits", Text("none known", style="dim"), "")
    room = stats.concurrency_limit
    table.add_row("in flight", bar(stats.in_flight / room if room else 0.0), f"{stats.in_flight:,} of {room:,} (room)")
    rooms = [each.concurrency_limit for _, each in seen]
    table.add_row(
        "room", Text(sparkline(rooms), style="cyan"), f"{min(rooms, default=room):,} to {max(rooms, default=room):,}"
    )
    lately = _lately(seen)
    refusals = ", ".join(f"{count:,} {kind}" for kind, count in sorted(stats.refused_by.items())) or "none"
    refused = [later.refused - earlier.refused for (_, earlier), (_, later) in itertools.pairwise(seen)]
    table.add_row("refusals", Text(sparkline(refused), style="red"), f"{refusals}{lately}")
    waits = stats.waits
    if waits.count:
        half = "would wait" if not stats.enforced else "waited"
        table.add_row(
            "waits",
            Text(f"half {half} up to {spell(waits.p50)}"),
            f"99 % {spell(waits.p99)}, longest {spell(waits.longest)}",
        )
    wait = explain(stats, stats.tokens_per_call)
    why = str(wait).removeprefix(f"{stats.name}: ")
    title = Text(stats.name, style="bold reverse" if chosen else "bold")
    if not stats.enforced:
        title.append("  observed only", style="magenta")
    if stats.pause is not None:
        title.append(f"  {stats.pause}", style="red")
    rows = Table.grid()
    rows.add_row(table)
    rows.add_row(Padding(Text(why, style="yellow" if stats.waiting else "dim"), (0, 0, 0, 2)))
    return Panel(rows, title=title, title_align="left", border_style="cyan" if chosen else "dim")


def _lately(seen: list[tuple[float, BudgetStats]]) -> str:
    if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
        return ""
    (since, first), (now, last) = seen[0], seen[-1]
    rate = 60 * (last.succeeded - first.succeeded) / (now - since)
    return f"; {rate:,.0f} answers/min"


def bar(share: float) -> Text:
    """A bar of `share`, green until it is nearly full."""
    share = min(1.0, max(0.0, share))
    filled = round(_BAR * share)
    style = "green" if share < 0.8 else "yellow" if share < 0.98 else "red"
    return Text.assemble(("█" * filled, style), ("░" * (_BAR - filled), "dim"))


def sparkline(values: list[int]) -> str:
    """The latest values as one row of blocks, the highest of them as a full one."""
    values = values[-_BAR:]
    most = max(values, default=0)
    if not most:
        return "·" * len(values)
    return "".join("·" if not value else _LEVELS[min(7, int(8 * value / (most + 1e-9)))] for value in values)
