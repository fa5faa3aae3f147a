"""The adaptive limit on attempts in flight: AIMD, one decrease per congestion event."""

from __future__ import annotations

import math
from typing import Final

from .knee import Knee

# Attempts in flight before anything is known: small enough not to flood an unknown server.
START: Final = 16.0
# Seconds of a known rate that may be in flight at the start; the buckets do the limiting.
START_SECONDS: Final = 10.0
# Little's law: rate x latency calls are in flight; 25 % for the spread of latencies, 2 for tiny rates.
HEADROOM: Final = 1.25
# Weight of one outcome in the smoothed share of failures (DCTCP's g is 1/16).
SHARE_GAIN: Final = 0.1
# A decrease is at least 10 %, at most half, by the share of attempts that failed (DCTCP).
LEAST_CUT: Final = 0.1
# The limit doubles at most once in this many seconds, whatever the latency: faster doubling
# overshoots by the refusals of a whole round trip.
DOUBLING: Final = 1.0
LATENCY_GAIN: Final = 1 / 20


class ConcurrencyLimit:
    """How many attempts may be in flight.

    It grows on success while it is what holds calls back, slowly near the point where it last
    failed, and shrinks once per congestion event. Before a server that neither announces nor
    refuses, latency tells where more calls only wait (`Knee`).
    """

    __slots__ = ("_ceiling", "_failed_at", "_failing", "_knee", "_limit", "_most", "_overloaded", "latency")

    def __init__(self, ceiling: int, most: int | None = None) -> None:
        """`ceiling`: what it may grow to by itself; `most`: what a known rate may need, by default no more."""
        self._ceiling = ceiling
        self._most = ceiling if most is None else most
        self._limit = min(START, ceiling)
        self._failed_at = math.inf  # the limit at the last decrease
        self._failing = 0.0  # smoothed share of attempts that met congestion
        self._overloaded = False
        self._knee: Knee | None = Knee()
        self.latency: float | None = None  # smoothed seconds of successful attempts

    def value(self, rate: float | None) -> int:
        """The limit now, given the rate (requests per second) the budget allows, if known.

        A rate limit is kept by its bucket: while rate refusals are all that was seen, the limit
        never falls below what Little's law needs to reach the rate.
        """
        limit = self._limit
        if rate is not None and not self._overloaded and self.latency is not None:
            limit = max(limit, min(HEADROOM * rate * self.latency + 2, self._most))
        return max(1, int(limit))

    def expect(self, rate: float) -> None:
        """The budget's rate became known: start from what it may need, and do not go by latency."""
        self._knee = None
        if self._failed_at == math.inf:
            self._limit = max(self._limit, min(self._ceiling, math.ceil(START_SECONDS * rate)))

    def ignore_latency(self) -> None:
        """The server has limits: its latency is its own affair, and going by it would throttle us."""
        self._knee = None

    def succeeded(self, began_at: float, latency: float, in_flight: float, *, binding: bool) -> None:
        """An attempt succeeded after `latency` seconds, beside `in_flight` attempts on average.

        `binding`: the limit was in use when it began.
        """
        self._failing *= 1 - SHARE_GAIN
        self.latency = latency if self.latency is None else self.latency + LATENCY_GAIN * (latency - self.latency)
        if self._knee is not None:
            found = self._knee.sample(began_at, latency, in_flight, self._limit)
            if found is not None:
                self._limit = min(max(1.0, found), self._ceiling)
            if not self._knee.ramping:
                return
        if not binding:
            return
        if self._failed_at == math.inf:
            step = min(1.0, latency / DOUBLING)
        elif self._limit < 0.5 * self._failed_at:
            step = 1.0
        elif self._limit < 0.9 * self._failed_at:
            step = 0.5
        elif self._limit < 1.5 * self._failed_at:
            self._overloaded = False
            step = 0.05
        else:  # the server has grown: where it once failed says nothing any more
            self._failed_at = math.inf
            step = min(1.0, latency / DOUBLING)
        # `step` more per success is `step` x limit more per round trip.
        self._limit = min(self._limit + step, self._ceiling)

    def congested(self, in_flight: int, *, event: bool, overload: bool, restart: bool = False) -> None:
        """An attempt met congestion; `event`: not the echo of one already answered.

        `overload`: the server lacks capacity (503, timeout), rather than counting a rate.
        `restart`: nothing paces the reopening, so begin again from one call and feel the way up.
        """
        self._failing += SHARE_GAIN * (1 - self._failing)
        if not event:
            return
        if not overload:
            self._knee = None
        self._overloaded = overload
        # What was in use when it went wrong; but one refusal of a nearly idle client is no reason to
        # start all over.
        used = min(self._limit, max(in_flight, START / 2))
        self._failed_at = max(2.0, used)
        cut = max(LEAST_CUT, self._failing / 2)
        self._limit = 1.0 if restart else max(1.0, used * (1 - cut))
