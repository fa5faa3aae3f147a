"""The latency gradient: where a server that queues instead of refusing gains nothing from more calls."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

# The first ramp ends when latency is this many times the shortest: the server has begun to queue.
FLAT: Final = 1.3
# The longest a call should take, in multiples of the shortest latency. Beyond that, waiting inside the server gains
# little over waiting here.
LONGEST: Final = 1.5
# The lowest factor that one step applies to the limit.
STEEPEST: Final = 0.75
# Elasticity of throughput (the share of one more call in flight that appears as throughput) above which the limit grows
# and below which it shrinks, and the factors of these steps.
GROW_ABOVE: Final = 0.35
SHRINK_BELOW: Final = 0.10
GROW: Final = 1.15
SHRINK: Final = 1 / 1.1
# Answers in one window: the median of fewer says little, and during more the server may have changed.
FEWEST: Final = 32
MOST: Final = 100
# Windows over which the slope is taken.
WINDOWS: Final = 3
# Share by which a shorter latency corrects the shortest one: the minimum of many windows is less than the truth.
LESS: Final = 0.3
# Share by which the shortest latency grows per window without a shorter one, as servers and prompts change.
FORGETTING: Final = 0.002


class LatencyGradient:
    """Finds how many calls a queueing server can work on, by latency and calls in flight only.

    Latencies are collected in windows of calls that began after the last change. With
    `e = 1 - slope of ln(latency) over ln(in flight)`, the elasticity of throughput, the limit grows
    while more calls bring more throughput, shrinks where they only queue, and a call never takes
    more than `LONGEST` times the shortest latency for long.
    """

    __slots__ = ("_changed_at", "_in_flight", "_latencies", "_points", "_shortest", "_too_long", "ramping")

    def __init__(self) -> None:
        self.ramping = True
        """Whether no queueing has been seen yet."""
        self._changed_at = -math.inf
        self._latencies: list[float] = []
        self._in_flight = 0.0
        self._points: deque[tuple[float, float]] = deque(maxlen=WINDOWS)
        self._shortest = math.inf
        self._too_long: tuple[float, float] | None = None  # in flight and latency when it first took too long

    def sample(self, began_at: float, latency: float, in_flight: float, limit: float) -> float | None:
        """A call that began at `began_at` took `latency`, with `in_flight` calls beside it on average.

        Returns the concurrency limit to go to, at the end of a window; None: as it is.
        """
        if began_at < self._changed_at:
            return None
        self._latencies.append(latency)
        self._in_flight += in_flight
        if len(self._latencies) < max(FEWEST, min(MOST, limit)):
            return None
        typical, beside = max(1e-9, median(self._latencies)), max(1.0, self._in_flight / len(self._latencies))
        self._latencies.clear()
        self._in_flight = 0.0
        if self._shortest == math.inf:
            self._shortest = typical
        elif typical < self._shortest:
            self._shortest += LESS * (typical - self._shortest)
        else:
            self._shortest *= 1 + FORGETTING
        change = self._change(typical, beside, limit)
        if change == 1.0:
            return None
        self._changed_at = began_at + latency
        return limit * change

    def _change(self, latency: float, in_flight: float, limit: float) -> float:
        """What to multiply the limit by, after one window."""
        stretch = latency / self._shortest
        if self.ramping:
            if stretch < FLAT:
                return 1.0
            self.ramping = False
            # What the server could work on without queueing.
            return min(1.0, GROW * in_flight / stretch / limit)
        if stretch < LONGEST and in_flight < 0.75 * math.floor(limit):
            return 1.0  # demand was lower than the limit: this window says nothing about it
        self._points.append((in_flight, latency))
        if stretch > LONGEST:
            return self._shrink(latency, in_flight, stretch)
        self._too_long = None
        elasticity = self._elasticity()
        if elasticity is None:  # any change will show it
            elasticity = 1.0 if stretch < FLAT else 0.0
        if elasticity > GROW_ABOVE and stretch * GROW < LONGEST:
            return GROW
        return SHRINK if elasticity < SHRINK_BELOW else 1.0

    def _shrink(self, latency: float, in_flight: float, stretch: float) -> float:
        """What to multiply the limit by where calls take too long."""
        first_in_flight, first_latency = self._too_long = self._too_long or (in_flight, latency)
        if in_flight < 0.5 * first_in_flight and latency > 0.8 * first_latency:
            # Fewer calls are as slow: it is not a queue that makes them so.
            self._shortest, self._too_long = latency, None
            return 1.0
        return max(STEEPEST, 0.95 * LONGEST / stretch)

    def _elasticity(self) -> float | None:
        """Share of one more call in flight that appears as throughput; None: the windows differ too little."""
        if len(self._points) < WINDOWS:
            return None
        xs = [math.log(in_flight) for in_flight, _ in self._points]
        ys = [math.log(latency) for _, latency in self._points]
        x_mean, y_mean = sum(xs) / WINDOWS, sum(ys) / WINDOWS
        variance = sum((x - x_mean) ** 2 for x in xs)
        if variance < 0.002 * WINDOWS:
            return None
        return 1 - sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / variance
