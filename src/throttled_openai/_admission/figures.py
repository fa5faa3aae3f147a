"""The figures of one limiter: its counts, and what its calls waited lately."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from throttled_openai._protocol.durations import MINUTE
from throttled_openai._stats import PauseStats, WaitStats, WindowStats

if TYPE_CHECKING:
    from throttled_openai._control.budget import Budget
    from throttled_openai._control.pacer import Pacer
    from throttled_openai._control.server_window import ServerWindow
    from throttled_openai._protocol.headers import Dimension

    from .gate import Gate

# Waits that are remembered, for percentiles of the present rather than of all time.
WAITS: Final = 500
# Share of a new error in the smoothed one.
GAIN: Final = 1 / 20


class Figures:
    """Counts of attempts since the start, the latest waits, and how well costs were estimated."""

    __slots__ = ("_errors", "estimate_error", "latest", "refused_by", "settled", "turned_away")

    def __init__(self) -> None:
        self.settled = 0
        self.turned_away = 0  # calls that failed in the queue
        self.refused_by: Counter[str] = Counter()
        self.estimate_error: float | None = None
        self._errors = 0
        self.latest: deque[float] = deque(maxlen=WAITS)  # waits of admitted attempts

    def charged(self, estimated: float, charged: float) -> None:
        """The server charged `charged` tokens where `estimated` were reserved."""
        if estimated > 0:
            self._errors += 1
            before = self.estimate_error or 0.0
            self.estimate_error = before + (charged / estimated - 1 - before) * max(GAIN, 1 / self._errors)

    def waits(self) -> WaitStats:
        waits = sorted(self.latest)
        if not waits:
            return WaitStats()
        p50, p90, p99 = (waits[math.ceil(share * len(waits)) - 1] for share in (0.5, 0.9, 0.99))
        return WaitStats(len(waits), p50, p90, p99, waits[-1])


def windows_of(budget: Budget, now: float) -> tuple[WindowStats, ...]:
    """The limits of `budget`, and what is used of them."""
    found = []
    windows = dict(budget.windows)  # another thread may be changing it
    lately = _spent_lately(budget, now)
    for dimension, pacer in budget.pacers.items():
        if pacer.rate is not None:
            found.append(_per_minute(dimension, pacer, windows.get((dimension, MINUTE)), lately[dimension]))
        found += [
            budget.window_stats(key, window)
            for key, window in windows.items()
            if key[0] == dimension and key[1] != MINUTE
        ]
    return tuple(found)


def _spent_lately(budget: Budget, now: float) -> dict[Dimension, float]:
    """Units that left within the last minute, as far as they are charged."""
    spent = budget.spent
    for at, requests, tokens in tuple(budget.spent_before):
        if now - at < MINUTE:
            return {"requests": spent["requests"] - requests, "tokens": spent["tokens"] - tokens}
    return {"requests": 0.0, "tokens": 0.0}


def _per_minute(dimension: Dimension, pacer: Pacer, window: ServerWindow | None, used: float) -> WindowStats:
    assert pacer.rate is not None
    left, level, refill = None, pacer.last_level, pacer.rate
    if window is not None:
        left, refill = window.last_level, min(refill, window.refill)
        level = min(level, left)
        if pacer.source == "announced":
            used = max(0.0, window.limit - window.reserve - left)
    return WindowStats(
        *(dimension, MINUTE, pacer.rate * MINUTE, level),
        source=pacer.source,
        used=used,
        left=left,
        refill=refill,
        opens_in=pacer.opens_in,
    )


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
