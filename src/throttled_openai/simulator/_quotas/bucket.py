"""The server's token bucket. It shares no code with the client's, so that neither hides the other's mistakes."""

from __future__ import annotations

from .constraint import ROUNDING, Constraint


class Bucket(Constraint):
    """A bucket that refills continuously at `rate` units per second, up to `capacity` units."""

    __slots__ = ("_at",)

    def __init__(self, *, rate: float, capacity: float, level: float, now: float) -> None:
        self.rate = rate
        self.capacity = capacity
        self._level = level
        self._at = now

    def level(self, now: float) -> float:
        elapsed = max(0.0, now - self._at)
        self._level = min(self.capacity, self._level + elapsed * self.rate)
        self._at = now
        return self._level

    def wait(self, amount: float, now: float) -> float:
        missing = min(amount, self.capacity) - self.level(now)
        return missing / self.rate if missing > ROUNDING else 0.0

    def reset(self, now: float) -> float:
        return (self.capacity - self.level(now)) / self.rate

    def resize(self, *, rate: float, capacity: float, now: float) -> None:
        self._level = min(self.level(now), capacity)
        self.rate = rate
        self.capacity = capacity
