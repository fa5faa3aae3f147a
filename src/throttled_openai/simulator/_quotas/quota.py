"""A quota: one limit per minute or per day, and the buckets and windows that enforce it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from .bucket import Bucket
from .constraint import ROUNDING
from .fixed_window import FixedWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._settings import Settings
    from .constraint import Constraint

# Seconds.
MINUTE: Final = 60
DAY: Final = 86_400


class Quota:
    """The constraint that headers show and, for a minute, hidden shorter ones. A day is always one bucket."""

    __slots__ = ("_hidden", "limit", "period", "shown")

    def __init__(self, limit: float, settings: Settings, now: float, period: int = MINUTE) -> None:
        self.limit = limit
        self.period = period
        self.shown = self._fitted(
            None, self._shown_kind(settings), self._shown_seconds(settings), limit * settings.initial_level, now
        )
        self._hidden = self._shorter({}, settings, now)

    def wait(self, amount: float, now: float) -> float:
        return max(constraint.wait(amount, now) for constraint in self._constraints)

    def take(self, amount: float, now: float) -> None:
        """Take `amount`; a negative amount is a refund, which is lost beyond the capacity."""
        for constraint in self._constraints:
            constraint.take(amount, now)

    def drain(self, amount: float, now: float) -> None:
        for constraint in self._constraints:
            constraint.drain(amount, now)

    def spare(self, wanted: float, seconds: float, now: float) -> float:
        """Units that neighbours who want `wanted` per second may take over `seconds`.

        All they want while more than half of the capacity is left, below that half of the refill,
        and never more than the level.
        """
        return min(_spare(constraint, wanted, seconds, now) for constraint in self._constraints)

    def remaining(self, now: float) -> int:
        """Whole units, as the headers show them."""
        return max(0, math.floor(self.shown.level(now) + ROUNDING))

    def resize(self, limit: float, settings: Settings, now: float) -> None:
        """Change the limit; levels are kept, up to the new capacities."""
        self.limit = limit
        seconds, level = self._shown_seconds(settings), self.shown.level(now)
        self.shown = self._fitted(self.shown, self._shown_kind(settings), seconds, level, now)
        self._hidden = self._shorter({type(hidden): hidden for hidden in self._hidden}, settings, now)

    @property
    def _constraints(self) -> tuple[Constraint, ...]:
        return (self.shown, *self._hidden)

    def _shown_kind(self, settings: Settings) -> type[Constraint]:
        return FixedWindow if settings.fixed_window == self.period else Bucket

    def _shown_seconds(self, settings: Settings) -> float:
        return settings.burst if self.period == MINUTE and settings.show_burst else self.period

    def _shorter(
        self, old: Mapping[type[Constraint], Constraint], settings: Settings, now: float
    ) -> tuple[Constraint, ...]:
        wanted: list[tuple[type[Constraint], float]] = []
        if self.period == MINUTE and settings.burst < MINUTE and not settings.show_burst:
            wanted.append((Bucket, settings.burst))
        if self.period == MINUTE and settings.fixed_window is not None and settings.fixed_window < MINUTE:
            wanted.append((FixedWindow, settings.fixed_window))
        level = self.shown.level(now)
        return tuple(self._fitted(old.get(kind), kind, seconds, level, now) for kind, seconds in wanted)

    def _fitted(
        self, old: Constraint | None, kind: type[Constraint], seconds: float, level: float, now: float
    ) -> Constraint:
        """`old` with the present limit if it is of this `kind`, else a new one that starts at `level`."""
        rate, capacity = self.limit / self.period, self.limit * seconds / self.period
        if not isinstance(old, kind):
            return kind(rate=rate, capacity=capacity, level=min(capacity, level), now=now)
        old.resize(rate=rate, capacity=capacity, now=now)
        return old


def _spare(constraint: Constraint, wanted: float, seconds: float, now: float) -> float:
    level = constraint.level(now)
    fair = max(0.0, level - constraint.capacity / 2) + constraint.rate / 2 * seconds
    return max(0.0, min(wanted * seconds, fair, level))
