"""How fast requests have become more."""

from __future__ import annotations

from collections import deque
from typing import Final

# Seconds: what is meant by now, and by lately.
_NOW: Final = 10
_LATELY: Final = 900

# A rate this many times the one of lately is too sudden.
_TOO_MUCH: Final = 1.5


class Ramp:
    """Arrivals of the last quarter of an hour, counted by the second. Silence counts: a start is sudden too."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        self._total = 0

    def arrive(self, now: float, above: float) -> bool:
        """Count one arrival; whether that makes more than `above` a second, and too many too suddenly."""
        second = int(now // 1)
        if self._seconds and self._seconds[-1][0] > second:  # the clock has started again
            self._seconds.clear()
            self._total = 0
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))
        self._total += 1
        while self._seconds[0][0] <= second - _LATELY:
            self._total -= self._seconds.popleft()[1]
        rate = self._count(second - _NOW) / _NOW
        return rate > max(above, _TOO_MUCH * self._total / _LATELY)

    def _count(self, after: int) -> int:
        count = 0
        for second, arrivals in reversed(self._seconds):
            if second <= after:
                break
            count += arrivals
        return count
