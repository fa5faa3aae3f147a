"""A constraint: what a bucket and a fixed window have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

# Units. A shortfall below this is float rounding: refusing for it would tell the client to wait 0 ms.
ROUNDING: Final = 1e-6


class Constraint(ABC):
    """Up to `capacity` units, refilled at a mean of `rate` units per second. Instants are seconds on one clock.

    If the clock restarts (a second event loop uses the same simulator), nothing is refilled and nothing is lost.
    """

    __slots__ = ("_level", "capacity", "rate")

    _level: float
    capacity: float
    rate: float

    @abstractmethod
    def __init__(self, *, rate: float, capacity: float, level: float, now: float) -> None: ...

    @abstractmethod
    def level(self, now: float) -> float:
        """Units that are left; negative: debt."""

    @abstractmethod
    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 if now. An amount above the capacity needs a full one."""

    @abstractmethod
    def reset(self, now: float) -> float:
        """Seconds until it is full."""

    @abstractmethod
    def resize(self, *, rate: float, capacity: float, now: float) -> None:
        """Change the limit; the level is kept, up to the new capacity."""

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def drain(self, amount: float, now: float) -> None:
        """Take `amount`, or what is left if that is less: this never leaves a debt."""
        level = self.level(now)
        self._level = min(level, max(0.0, level - amount))
