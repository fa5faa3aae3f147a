"""The server's token bucket. It shares no code with the client's, so that neither hides the other's mistakes."""

from __future__ import annotations

from typing import Final

# Units. A shortfall below this is float rounding: refusing for it would tell the client to wait 0 ms.
ROUNDING: Final = 1e-6


class Bucket:
    """A bucket that refills continuously at `rate` units per second, up to `capacity` units.

    Instants are seconds on one clock. If the clock restarts (a second event loop uses the same
    simulator), nothing is refilled and nothing is lost.
    """

    __slots__ = ("_at", "_level", "capacity", "rate")

    def __init__(self, *, rate: float, capacity: float, level: float, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._level = level
        self._at = now

    def level(self, now: float) -> float:
        """Units in the bucket; negative: debt."""
        elapsed = max(0.0, now - self._at)
        self._level = min(self.capacity, self._level + elapsed * self.rate)
        self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 if now. An amount above the capacity needs a full bucket."""
        missing = min(amount, self.capacity) - self.level(now)
        return missing / self.rate if missing > ROUNDING else 0.0

    def reset(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return (self.capacity - self.level(now)) / self.rate

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def drain(self, amount: float, now: float) -> None:
        """Take `amount`, or what is left if that is less: this never leaves a debt."""
        level = self.level(now)
        self._level = min(level, max(0.0, level - amount))

    def resize(self, *, rate: float, capacity: float, now: float) -> None:
        """Change the limit; the level is kept, up to the new capacity."""
        self._level = min(self.level(now), capacity)
        self.rate = rate
        self.capacity = capacity
