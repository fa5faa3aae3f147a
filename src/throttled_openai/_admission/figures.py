"""The figures of one limiter: its counts, and what its calls waited lately."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from throttled_openai._stats import PauseStats, WaitStats

if TYPE_CHECKING:
    from .gate import Gate

# Waits that are remembered, for percentiles of the present rather than of all time.
WAITS: Final = 500
# Share of a new error in the smoothed one.
GAIN: Final = 1 / 20


class Figures:
    """Counts of attempts since the start, the latest waits, and how well costs were estimated."""

    __slots__ = ("_errors", "_waits", "estimate_error", "refused_by", "settled", "turned_away")

    def __init__(self) -> None:
        self.settled = 0
        self.turned_away = 0  # calls that failed in the queue
        self.refused_by: Counter[str] = Counter()
        self.estimate_error: float | None = None
        self._errors = 0
        self._waits: deque[float] = deque(maxlen=WAITS)

    def admitted(self, waited: float) -> None:
        self._waits.append(waited)

    def charged(self, estimated: float, charged: float) -> None:
        """The server charged `charged` tokens where `estimated` were reserved."""
        if estimated > 0:
            self._errors += 1
            before = self.estimate_error or 0.0
            self.estimate_error = before + (charged / estimated - 1 - before) * max(GAIN, 1 / self._errors)

    def waits(self) -> WaitStats:
        waits = sorted(self._waits)
        if not waits:
            return WaitStats()
        p50, p90, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.9, 0.99))
        return WaitStats(len(waits), p50, p90, p99, waits[-1])


def pause_of(gate: Gate, now: float) -> PauseStats | None:
    """Why nothing is sent at `now`."""
    if gate.held_until > now:
        return PauseStats(gate.held_until - now, "user")
    breaker = gate.breaker
    held = breaker.delay(now)
    if held > 0 and breaker.cause is not None:
        return PauseStats(held, breaker.cause)
    held = gate.rates.budget.paused_until - now
    if held > 0:
        return PauseStats(held, "refusals")
    held = gate.delay(now)
    return PauseStats(held, "silence") if held > 0 else None
