"""Statistics of a throttle: frozen snapshots without prompts or keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._numbers import number


def spell(seconds: float) -> str:
    """A duration in words for messages: `0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 days`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours / 24:.0f} days"


@dataclass(frozen=True, slots=True)
class WindowStats:
    """One limit: `limit` units per `period` seconds.

    `spendable`: units that may leave at once; negative is debt.
    `announced`: True if the server announced this limit, False if it was configured.
    """

    dimension: Literal["requests", "tokens"]
    period: float
    limit: float
    spendable: float
    announced: bool

    def __str__(self) -> str:
        unit = {60.0: "min", 3600.0: "h", 86_400.0: "day"}.get(self.period, f"{number(self.period)} s")
        return f"{self.limit:,.0f} {self.dimension}/{unit}"


@dataclass(frozen=True, slots=True)
class BudgetStats:
    """One budget: that of a model, or of several models that share their limits.

    `admitted`, `succeeded`, `refused`: attempts so far. `tokens_used`: tokens that the server reported.
    `tokens_per_call`: what an attempt takes from the token limit, on average.
    """

    name: str
    waiting: int
    in_flight: int
    concurrency_limit: int
    admitted: int
    succeeded: int
    refused: int
    tokens_used: int
    windows: tuple[WindowStats, ...]
    tokens_per_call: float = 0.0

    def __str__(self) -> str:
        limits = ", ".join(map(str, self.windows)) or "no limit known"
        return (
            f"{self.name}: {self.waiting} waiting, {self.in_flight} in flight of {self.concurrency_limit}, "
            f"{self.succeeded} succeeded, {self.refused} refused | {limits}"
        )


def sum_of(budgets: list[BudgetStats], name: str) -> BudgetStats:
    """The totals of budgets that are no longer kept, as one budget called `name`."""
    admitted, succeeded, refused, tokens = (
        sum(getattr(budget, counted) for budget in budgets)
        for counted in ("admitted", "succeeded", "refused", "tokens_used")
    )
    return BudgetStats(name, 0, 0, 0, admitted, succeeded, refused, tokens, ())


@dataclass(frozen=True, slots=True)
class Stats:
    """The state of a throttle. `waiting`: calls not yet admitted. `in_flight`: attempts not yet settled."""

    waiting: int
    in_flight: int
    budgets: tuple[BudgetStats, ...]

    @property
    def admitted(self) -> int:
        return sum(budget.admitted for budget in self.budgets)

    @property
    def succeeded(self) -> int:
        return sum(budget.succeeded for budget in self.budgets)

    @property
    def refused(self) -> int:
        return sum(budget.refused for budget in self.budgets)

    def summary(self) -> str:
        """The totals and every budget in one line."""
        parts = [f"{self.waiting} waiting, {self.in_flight} in flight, {self.succeeded} succeeded"]
        parts += [str(budget) for budget in self.budgets]
        return " | ".join(parts)

    def __str__(self) -> str:
        return "\n".join([f"{self.waiting} waiting, {self.in_flight} in flight", *map(str, self.budgets)])
