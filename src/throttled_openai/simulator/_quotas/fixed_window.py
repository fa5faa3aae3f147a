"""The server's fixed window: a limit that is counted anew in each period of the clock."""

from __future__ import annotations

import math
from typing import Final

from .constraint import ROUNDING, Constraint

# Share of a window. An instant this close before a boundary is at the boundary but for float rounding.
_EDGE: Final = 1e-9


class FixedWindow(Constraint):
    """`capacity` units in each window of `capacity / rate` seconds; windows start at multiples of their length.

    It refills in steps. Unused units expire with their window; debt is carried over, so that an amount larger
    than one window uses up several.
    """

    __slots__ = ("_number", "_seconds")

    def __init__(self, *, rate: float, capacity: float, level: float, now: float) -> None:
        self._measure(rate, capacity)
        self._level = level
        self._number = self._window(now)

    def level(self, now: float) -> float:
        """Units left in this window; negative: debt."""
        number = self._window(now)
        passed = max(0, number - self._number)  # a restarted clock opens no windows
        self._level = min(self.capacity, self._level + passed * self.capacity)
        self._number = number
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken: to the end of this window, or of a later one after debt; 0 if now."""
        missing = min(amount, self.capacity) - self.level(now)
        if missing <= ROUNDING:
            return 0.0
        windows = math.ceil((missing - ROUNDING) / self.capacity)
        return self.reset(now) + (windows - 1) * self._seconds

    def reset(self, now: float) -> float:
        """Seconds until the window's end."""
        return (self._window(now) + 1) * self._seconds - now

    def resize(self, *, rate: float, capacity: float, now: float) -> None:
        """Change the limit or the length; the level is kept, up to the new capacity."""
        self._level = min(self.level(now), capacity)
        self._measure(rate, capacity)
        self._number = self._window(now)

    def _measure(self, rate: float, capacity: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._seconds = round(capacity / rate, 9)

    def _window(self, now: float) -> int:
        return math.floor(now / self._seconds + _EDGE)
