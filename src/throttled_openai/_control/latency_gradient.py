"""The knee: where a server that queues instead of refusing stops getting faster with more calls."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

# The first ramp ends when latency has grown this much: queueing has begun.
FLAT: Final = 1.3
# The most a call may take, in multiples of the shortest: beyond it little is gained by waiting
# inside the server rather than here.
LONGEST: Final = 1.5
# The most that is taken away in one step.
STEEPEST: Final = 0.75
# Elasticity of throughput: what share of one more call in flight comes out as throughput.
GROW_ABOVE: Final = 0.35
SHRINK_BELOW: Final = 0.10
GROW: Final = 1.15
SHRINK: Final = 1 / 1.1
# Outcomes in one window: the median of fewer says little, and the server may have changed over more.
FEWEST: Final = 32
MOST: Final = 100
# Windows whose slope is looked at.
WINDOWS: Final = 3
# How far a window with a shorter latency is believed.
LESS: Final = 0.3
# The shortest latency seen is forgotten at this share per window, as servers and prompts change.
FORGETTING: Final = 0.002


class LatencyGradient:
    """Finds how many calls a queueing server can work on, from latency and calls in flight alone.

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
        elif typical < self._shortest:  # in part: of many windows the least is less than the truth
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
            # A server that only queues could serve `in_flight / stretch` without.
            return min(1.0, GROW * in_flight / stretch / limit)
        if stretch < LONGEST and in_flight < 0.75 * math.floor(limit):
            return 1.0  # nobody asked for more: this window says nothing about the limit
        self._points.append((in_flight, latency))
        if stretch > LONGEST:
            return self._shrink(latency, in_flight, stretch)
        self._too_long = None
        elasticity = self._elasticity()
        if elasticity is None:  # any change will tell
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
        """None: the windows are too much alike to tell."""
        if len(self._points) < WINDOWS:
            return None
        xs = [math.log(in_flight) for in_flight, _ in self._points]
        ys = [math.log(latency) for _, latency in self._points]
        x_mean, y_mean = sum(xs) / WINDOWS, sum(ys) / WINDOWS
        variance = sum((x - x_mean) ** 2 for x in xs)
        if variance < 0.002 * WINDOWS:
            return None
        return 1 - sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / variance
