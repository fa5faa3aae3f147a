"""Doubt: whether doing less has helped against refusals, or whether they do not depend on it."""

from __future__ import annotations

import math
from typing import Final

# If no more attempts than this left since the last event, including the refused one, the server accepts nothing at the
# moment: then the share of refusals does not show whether less helps.
DRY: Final = 3
# Refusals in a row after which we ask whether less has helped.
ROW: Final = 6
# "Less" means a level of at most this share of the one at which the row began.
FEWER: Final = 0.7
# "Helped" means that the share of refusals has fallen to this share of what it was.
HELPED: Final = 0.25
# Attempts for which refusals are ignored once less has not helped; twice as many each further time.
UNHEARD: Final = 400


class Doubt:
    """The refusals in a row against which a level (attempts in flight, or a rate) was lowered again and again.

    If the level was too high, lowering it reduces the share of refusals. If that share stays the same, refusals have
    another reason: a gateway that fails at random, or one broken server among good ones. Lowering further would stop
    everything and cure nothing. So the level returns to what it was before the row, and refusals are ignored for a
    while, unless their share grows.

    `gap`: attempts since the last event up to the refused one.
    """

    __slots__ = ("_bad", "_before", "_gaps", "_good", "_row", "_share", "_unheard", "_unheard_until")

    def __init__(self) -> None:
        self._row = 0  # events in a row
        self._before = math.inf  # the level when the row began
        self._gaps = 0  # attempts between the events of this half of the row
        self._share = 0.0  # of events among attempts, in the first half of the row
        self._good = self._bad = 0  # outcomes of what was sent since the last event
        self._unheard = UNHEARD
        self._unheard_until = 0  # number of the attempt from which refusals are heard again

    @property
    def row(self) -> int:
        """Events in a row; 0: the next one begins a row."""
        return self._row

    @property
    def answered(self) -> int:
        """Attempts that were answered, of those sent since the last event."""
        return self._good

    def went_well(self) -> None:
        """An attempt was answered."""
        self._good += 1

    def went_badly(self) -> None:
        """An attempt was refused."""
        self._bad += 1

    def hears(self, number: int) -> bool:
        """Whether the refusal of attempt `number` counts."""
        return number > self._unheard_until or self._is_worse()

    def _is_worse(self) -> bool:
        """Whether a larger share is refused than when less did not help; then refusals count again."""
        if self._good + self._bad > UNHEARD // 2:  # what was long ago counts less
            self._good //= 2
            self._bad //= 2
        if self._bad < 2 * ROW or self._bad < 3 * self._share * (self._good + self._bad):
            return False
        self._unheard_until = 0
        return True

    def end_row(self) -> None:
        """The level had returned to where it was refused before: the refusal that follows was to be expected."""
        self._row = 0

    def event(self, gap: int, level: float) -> None:
        """A refusal at this level, which is lowered for it."""
        if self._row == 0:
            self._before, self._gaps = level, 0
        if gap > DRY or self._row == 0:
            self._row += 1
            if self._row > 1:  # what left before the row began is no evidence
                self._gaps += gap - DRY
            if self._row == ROW // 2:
                self._share, self._gaps = (self._row - 1) / self._gaps, 0
        self._good = self._bad = 0

    def in_vain(self, gap: int, level: float, newest: int, *, alone: bool = False) -> bool:
        """Whether lowering to this level has not helped; asked before `event`. If so, refusals are then ignored.

        `newest`: number of the newest attempt. `alone`: the level cannot get any lower.
        """
        if gap <= DRY or level > FEWER * self._before or self._row < (1 if alone else ROW):
            return False
        events = self._row + 1 - (ROW // 2 if self._row >= ROW // 2 else 1)
        share = events / (self._gaps + gap - DRY)
        if share < HELPED * self._share and not alone:
            self._row, self._share, self._gaps = (
                ROW // 2,
                share,
                0,
            )  # it helped: would going lower help more?
            return False
        self._row = self._good = self._bad = 0
        self._share = share
        self._unheard_until = newest + self._unheard
        self._unheard *= 2
        return True
