"""The token bucket: units that come back at a steady rate, on `aiolimiter.AsyncLimiter`."""

from __future__ import annotations

from typing import Final

from aiolimiter import AsyncLimiter

# Seconds. A shortfall that refills within this is float rounding, not debt. Waiting for it might not move the clock,
# and a waiting call would wake at the same instant for ever.
ROUNDING: Final = 1e-6


class TokenBucket:
    """A bucket that fills at `rate` units per second up to `capacity` units.

    It starts full. The level falls below zero when more is spent than the bucket has; the debt delays later spending.
    In any `w` seconds at most `capacity + rate * w` units leave, plus the excess of one amount larger than the
    capacity.

    `AsyncLimiter` does the arithmetic on the running loop's clock. Its own queue is not used: it wakes the smallest
    waiting call first, so that large ones starve.
    """

    __slots__ = ("_limiter", "rate")

    def __init__(self, rate: float, capacity: float) -> None:
        self.rate = rate
        self._limiter = AsyncLimiter(capacity, capacity / rate)

    @property
    def capacity(self) -> float:
        return self._limiter.max_rate

    @property
    def level(self) -> float:
        """Units available now; negative: debt."""
        self._limiter.has_capacity()  # refills it by the time since the last call
        return self.last_level

    @property
    def last_level(self) -> float:
        """The level when it was last read or changed; needs no running loop."""
        return self._limiter.max_rate - self._limiter._level  # noqa: SLF001

    def delay(self, amount: float, held: float = 0.0) -> float:
        """Seconds until `amount` may be spent, leaving `held` for another attempt; 0 if it may be now.

        An amount larger than the capacity may be spent when the bucket is full.
        """
        missing = min(amount + held, self._limiter.max_rate) - self.level
        seconds = missing / self.rate
        return seconds if seconds > ROUNDING else 0.0

    def spend(self, amount: float) -> None:
        """Take `amount`, into debt if need be. A negative amount gives back."""
        level = self.level - amount
        # AsyncLimiter counts what is used, from 0; there is no public name for it.
        self._limiter._level = max(0.0, self._limiter.max_rate - level)  # noqa: SLF001

    def set_level(self, level: float) -> None:
        self._limiter.has_capacity()  # or it would refill by the time until now, too
        self._limiter._level = max(0.0, self._limiter.max_rate - level)  # noqa: SLF001

    def resize(self, rate: float, capacity: float) -> None:
        """Change rate and capacity; what has been used stays used.

        A larger capacity adds its difference to the level, a smaller one takes it away.
        """
        used = self.capacity - self.level
        self.rate = rate
        self._limiter = AsyncLimiter(capacity, capacity / rate)
        self._limiter.has_capacity()  # starts its clock now
        self.set_level(capacity - used)

    def rebind(self, *, same_clock: bool) -> None:
        """Continue on the running loop; `same_clock`: what refilled in the meantime counts."""
        old = self._limiter
        self._limiter = AsyncLimiter(old.max_rate, old.time_period)
        self._limiter.has_capacity()
        self._limiter._level = old._level  # noqa: SLF001
        if same_clock:
            self._limiter._last_check = old._last_check  # noqa: SLF001
