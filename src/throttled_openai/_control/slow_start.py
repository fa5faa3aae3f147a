"""Slow start: how fast the first attempts leave, before the server has answered any."""

from __future__ import annotations

import math
from typing import Final

from .bucket import ROUNDING

# Seconds in which the number of attempts that may have left doubles. A refusal comes back within one round trip, so
# silence for that time is the first good sign. 1,000 attempts may leave within half a second; were the server's bucket
# empty, one or two of them would be refused.
DOUBLING: Final = 0.05


class SlowStart:
    """Lets attempts leave one by one at first, then ever faster, until the server answers one of them."""

    __slots__ = ("_began_at",)

    def __init__(self) -> None:
        self._began_at: float | None = None  # when the first attempt left; None: not yet, or it is over

    def sent(self, number: int, now: float) -> None:
        """Attempt `number` leaves."""
        if number == 1:
            self._began_at = now

    def delay(self, sent: int, now: float) -> float:
        """Seconds until one more attempt may leave, after `sent` of them."""
        if self._began_at is None:
            return 0.0
        delay = self._began_at + DOUBLING * math.log2(sent + 1) - now
        return delay if delay > ROUNDING else 0.0

    def end(self) -> None:
        """The server has answered, or instants are of another clock."""
        self._began_at = None
