"""The latency gradient: how many calls a queueing server can work on, found from latency alone."""

import heapq
import itertools
import math
from collections import deque
from random import Random
from statistics import fmean

import pytest

from throttled_openai._control.concurrency import ConcurrencyLimit
from throttled_openai._control.latency_gradient import FEWEST, FLAT, GROW, LatencyGradient

# What a call takes at most on average, in multiples of what it takes where it never waits.
LONGEST = 1.8


class Server:
    """Works on `slots` calls at once, each the slower the more beside it; all others wait in line.

    Its client always has more to ask for than the limit lets through.
    """

    def __init__(self, slots, latency=1.0, *, slowdown=0.0, sigma=0.2, seed=1, ceiling=1000, demand=math.inf):
        self.slots, self.latency, self.slowdown, self.sigma = slots, latency, slowdown, sigma
        self.random, self.limit, self.demand = Random(seed), ConcurrencyLimit(ceiling), demand
        self.now = self.busy = 0.0
        self.in_flight = self.number = 0
        self.log = []  # (instant, seconds it took, limit)
        self._line, self._running, self._ids = deque(), [], itertools.count()

    @property
    def fastest(self):
        """Calls a second it can do at most."""
        return self.slots / self.slowest

    @property
    def slowest(self):
        """Mean seconds of a call that never waits, beside as many as there are slots."""
        beside = 1 + self.slowdown * (self.slots - 1) / self.slots
        return self.latency * math.exp(self.sigma**2 / 2) * beside

    def run(self, seconds):
        end = self.now + seconds
        self._admit()
        while self._running and self._running[0][0] <= end:
            self._finish()
        return self

    def _admit(self):
        value = self.limit.value()
        while self.in_flight < min(value, self.demand):
            self.in_flight += 1
            self.number += 1
            binding = self.in_flight >= math.floor(0.9 * value)
            self._line.append((self.now, self.busy, self.number, self.in_flight, binding))
        while self._line and len(self._running) < self.slots:
            took = self.latency * self.random.lognormvariate(0, self.sigma)
            took *= 1 + self.slowdown * len(self._running) / self.slots
            heapq.heappush(self._running, (self.now + took, next(self._ids), self._line.popleft()))

    def _finish(self):
        at, _, (began_at, busy, number, crowd, binding) = heapq.heappop(self._running)
        self.busy += self.in_flight * (at - self.now)
        self.now = at
        self.in_flight -= 1
        took = at - began_at
        beside = (self.busy - busy) / took
        self.limit.succeeded(number, began_at, took, beside, crowd=crowd, binding=binding)
        self.log.append((at, took, self.limit.value()))
        self._admit()

    def since(self, start):
        """Throughput and mean latency since then, in shares of what the server can do, and the limits."""
        part = [entry for entry in self.log if entry[0] >= start]
        throughput = len(part) / (self.now - start) / self.fastest
        return throughput, fmean(took for _, took, _ in part) / self.slowest, [limit for _, _, limit in part]


def fill(knee, latency, in_flight, limit, *, at):
    """One whole window; what comes of it, and when it was over."""
    for _ in range(1000):
        at += latency
        found = knee.sample(at - latency, latency, in_flight, limit)
        if found is not None or not knee._latencies:
            return found, at
    raise AssertionError("a window has no end")


# --- windows --------------------------------------------------------------------------------------


def test_before_a_window_is_full_nothing_is_decided():
    knee = LatencyGradient()
    assert [knee.sample(0.0, 1.0 + 9 * (n > 3), 16, 16) for n in range(FEWEST - 1)] == [None] * (FEWEST - 1)


def test_the_ramp_ends_when_latency_has_grown_and_never_raises_the_limit():
    knee = LatencyGradient()
    _, at = fill(knee, 1.0, 16, 16, at=0.0)
    _, at = fill(knee, FLAT - 0.01, 30, 30, at=at)
    assert knee.ramping
    found, at = fill(knee, 2.0, 60, 60, at=at)
    assert not knee.ramping
    assert found == pytest.approx(GROW * 30, rel=0.01)


def test_calls_that_began_before_a_change_are_not_counted_after_it():
    knee = LatencyGradient()
    _, at = fill(knee, 1.0, 16, 16, at=0.0)
    _, at = fill(knee, 2.0, 60, 60, at=at)
    for _ in range(1000):
        assert knee.sample(at - 0.1, 9.0, 60, 30) is None
    assert not knee._latencies


@pytest.mark.parametrize("limit", [1.0, 1.1, 1.34, 1.5, 1.99, 2.5, 100.0])
def test_no_limit_is_a_trap_where_more_calls_bring_more_throughput(limit):
    """A limit of 1.5 lets one call through, and one is all that can be in flight."""
    knee = LatencyGradient()
    _, at = fill(knee, 1.0, 16, 16, at=0.0)
    _, at = fill(knee, 2.0, 60, 60, at=at)
    for _ in range(20):
        found, at = fill(knee, 1.0, math.floor(limit), limit, at=at)
        limit = found or limit
    assert limit >= 3


def test_a_window_without_demand_says_nothing_about_the_limit():
    knee = LatencyGradient()
    _, at = fill(knee, 1.0, 16, 16, at=0.0)
    _, at = fill(knee, 2.0, 60, 60, at=at)
    for _ in range(50):
        found, at = fill(knee, 1.0, 10, 30, at=at)
        assert found is None


# --- servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("slots", "slowdown"), [(32, 0.0), (64, 0.0), (256, 0.0), (64, 1.0), (128, 1.0), (32, 3.0)])
def test_it_finds_the_knee_of_a_server_with_slots(slots, slowdown, sigma, seed):
    """A call takes longer the more run beside it, up to `1 + slowdown` times as long."""
    server = Server(slots, slowdown=slowdown, sigma=sigma, seed=seed).run(300)
    throughput, stretch, limits = server.since(150)
    assert throughput >= (0.88 if sigma < 0.5 else 0.75)
    assert stretch <= LONGEST
    assert min(limits) >= 1


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_a_server_smaller_than_the_start_is_kept_busy(slots):
    """Its own latency is never seen, so calls wait there rather than here."""
    throughput, _, limits = Server(slots).run(600).since(300)
    assert throughput >= 0.97
    assert max(limits) <= 64


@pytest.mark.parametrize(("before", "after"), [(128, 32), (32, 128)])
def test_it_follows_a_server_that_shrinks_or_grows(before, after):
    server = Server(before).run(200)
    server.slots = after
    throughput, stretch, _ = server.run(400).since(400)
    assert throughput >= 0.9
    assert stretch <= LONGEST


@pytest.mark.parametrize("slots", [16, 64, 256])
def test_calls_that_take_five_times_as_long_from_now_on_are_not_taken_for_a_queue(slots):
    """Longer answers, a larger model, a slower card."""
    server = Server(slots).run(200)
    server.latency = 5.0
    throughput, stretch, _ = server.run(800).since(400)
    assert throughput >= 0.8
    assert stretch <= LONGEST


def test_calls_that_take_a_fifth_from_now_on_are_served_as_fast():
    server = Server(64, latency=5.0).run(300)
    server.latency = 1.0
    throughput, stretch, _ = server.run(300).since(400)
    assert throughput >= 0.9
    assert stretch <= LONGEST


def test_an_outage_leaves_it_where_it_can_come_back():
    server = Server(64).run(120)
    for _ in range(100):
        server.number += 1
        server.limit.refused(server.number, server.number, 0, server.now, 0.04)
    assert server.limit.value() == 1
    server.run(300)
    throughput, _, _ = server.run(200).since(420)
    assert throughput >= 0.9


def test_without_demand_it_does_not_grow():
    server = Server(64).run(60)
    before = server.limit.value()
    server.demand = 5
    server.run(600)
    assert server.limit.value() <= GROW * before


def test_one_slow_call_among_many_changes_nothing():
    server = Server(64, sigma=0.0).run(60)
    limit = server.limit
    before = limit.value()
    limit.succeeded(server.number, server.now, 500.0, before, crowd=1, binding=True)
    assert limit.value() == before
