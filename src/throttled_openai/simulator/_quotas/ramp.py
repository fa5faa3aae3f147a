"""The ramp: how fast the request rate has grown, for the limit on sudden growth."""

from __future__ import annotations

from collections import deque
from typing import Final

# Seconds over which the present rate is taken, and the mean it is compared with.
_PRESENT: Final = 10
_RECENT: Final = 900

# Growth beyond this factor is too sudden.
_MAX_GROWTH: Final = 1.5


class Ramp:
    """Arrivals of the last 15 minutes, counted by the second. Silence counts as a rate of 0: a start is sudden too."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()
        self._total = 0

    def arrive(self, now: float, above: float) -> bool:
        """Count one arrival. True if the rate is above `above` per second and has grown too suddenly."""
        second = int(now // 1)
        if self._seconds and self._seconds[-1][0] > second:  # the clock has restarted
            self._seconds.clear()
            self._total = 0
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((second, 1))
        self._total += 1
        while self._seconds[0][0] <= second - _RECENT:
            self._total -= self._seconds.popleft()[1]
        rate = self._count(second - _PRESENT) / _PRESENT
        return rate > max(above, _MAX_GROWTH * self._total / _RECENT)

    def _count(self, after: int) -> int:
        count = 0
        for second, arrivals in reversed(self._seconds):
            if second <= after:
                break
            count += arrivals
        return count
