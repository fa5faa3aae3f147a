"""Promises over random calls, limits and endings: every call ends once, and no minute exceeds its limit."""

import asyncio
import collections
import contextlib
import itertools
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import (
    Call,
    Limits,
    Outcome,
    QueueOptions,
    announcement,
    answer,
    call,
    gather,
    lane,
    proven,
    refusal,
    start,
    throttle,
    ticks,
    virtual_run,
)
from throttled_openai import AccountBlocked, AdmissionTimeout
from throttled_openai._admission import limiter as module
from throttled_openai._control.budget import Budget


class Walk:
    """Many calls with random costs, queue options and endings, under random limits, all from one seed."""

    def __init__(self, seed):
        self.random = Random(seed)
        pick = self.random.choice
        limits = pick([None, Limits(rpm=600), Limits(rpm=60, tpm=6000), Limits(tpm=3000, burst=5), Limits(rpd=40)])
        self.t = throttle(limits, max_concurrency=pick([None, 1, 3, 50]))
        self.t._dispatcher.random = self.random.random
        self.endings = collections.Counter()
        self.ledger = collections.Counter()  # by budget: reserved less refunded
        self.admitted = collections.Counter()  # by limiter
        self.kept = collections.Counter()  # by limiter: tokens not to be given back
        self.kept_requests = collections.Counter()

    def check(self):
        t = self.t
        assert 0 <= t.in_flight <= t._dispatcher.in_flight.unproven_ceiling
        for one in t._dispatcher.limiters.by_key.values():
            assert one.in_flight >= 0
            assert one.queue.waiting >= 0
            assert one.limit >= 1
        assert len(timers_of_lanes(t)) <= len(t._dispatcher.limiters.by_key)

    async def one(self, number):
        random = self.random
        max_wait = random.choice([None, None, None, random.uniform(0.1, 40)])
        asked = Call(
            random.choice("ab"), random.choice([0, 1, 20, 300, 2000]), QueueOptions(random.choice([0, 0, 3]), max_wait)
        )
        try:
            await asyncio.sleep(random.uniform(0, 20))
            for _ in range(random.randint(1, 4)):
                if not await self.attempt(asked):
                    break
        except AdmissionTimeout as error:
            self.endings["timed out"] += error.waited == pytest.approx(max_wait, abs=1e-3)
        except AccountBlocked:
            self.endings["blocked"] += 1
        except asyncio.CancelledError:
            self.endings["cancelled"] += 1
        else:
            self.endings["done"] += 1
        finally:
            self.check()

    async def attempt(self, asked):
        """Whether the call is to be tried again."""
        random, key = self.random, lane(self.t, asked.model)
        permit = await self.t._dispatcher.admit(asked)
        self.check()
        self.admitted[key] += 1
        outcome = Outcome.IGNORED
        told = None
        try:
            await asyncio.sleep(random.choice([0, random.expovariate(1)]))
            if random.random() < 0.3:
                limit = random.choice([60.0, 600.0])
                permit.observe(announcement(rpm=limit, rpm_left=random.uniform(0, limit)))
            outcome = random.choice([*[Outcome.SUCCESS] * 5, *Outcome])
            if outcome is Outcome.REFUSED:
                kind = random.choice(["rate", "rate", "overload", "billing", "too_large"])
                dimension = random.choice([None, "requests", "tokens"]) if kind == "rate" else None
                told = refusal(dimension, random.choice([None, 0.01, 3.0]), kind=kind)
        finally:
            permit.settle(outcome, told, told and answer())
            self.check()
            self.kept[key] += 0 if outcome in (Outcome.REFUSED, Outcome.UNSENT) else asked.tokens
            self.kept_requests[key] += outcome is not Outcome.UNSENT
        return outcome in (Outcome.REFUSED, Outcome.OVERLOADED)

    async def run(self, count):
        tasks = [start(self.one(number)) for number in range(count)]
        loop = asyncio.get_running_loop()
        for task in self.random.sample(tasks, count // 4):
            loop.call_later(self.random.choice([1, 2, 3, self.random.uniform(0, 30)]), task.cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if task.cancelled():  # before it began
                self.endings["cancelled"] += 1
            elif task.exception():
                raise task.exception()

        stats = self.t.stats()
        assert (stats.waiting, stats.in_flight) == (0, 0)
        assert sum(self.endings.values()) == count
        for one in self.t._dispatcher.limiters.by_key.values():
            # What was granted to a call cancelled in that tick was given back whole.
            assert one.admitted >= self.admitted[one]
            assert self.ledger[one.budget, "requests"] == self.kept_requests[one]
            assert self.ledger[one.budget, "tokens"] == self.kept[one]
        assert timers_of_lanes(self.t) == []


def timers_of_lanes(t):
    return [one.timer.handle for one in t._dispatcher.limiters.by_key.values() if one.timer.handle is not None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_over_any_mix_of_endings_every_call_ends_once_and_what_is_reserved_is_used_or_refunded(seed):
    walk = Walk(seed)
    grant, reserve, refund = module.Limiter._grant, Budget.reserve, Budget.refund

    def granted(self, asked, at):
        assert self.in_flight < self.limit
        assert walk.t.in_flight < walk.t._dispatcher.in_flight.unproven_ceiling
        return grant(self, asked, at)

    def reserved(self, tokens, at):
        walk.ledger[self, "requests"] += 1
        walk.ledger[self, "tokens"] += tokens
        return reserve(self, tokens, at)

    def refunded(self, reservation, *, request):
        walk.ledger[self, "requests"] -= request
        walk.ledger[self, "tokens"] -= reservation.tokens
        refund(self, reservation, request=request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Limiter, "_grant", granted)
        patch.setattr(Budget, "reserve", reserved)
        patch.setattr(Budget, "refund", refunded)
        virtual_run(walk.run(40))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200)), min_size=1, max_size=40), st.sampled_from([1, 10, 60]))
def test_only_smaller_calls_pass_and_no_minute_has_more_than_its_limit(arrivals, burst):
    """What leaves in a minute: its refill, the burst, and what one call larger than the bucket adds."""

    async def walk():
        t, admitted = await proven(Limits(tpm=600, burst=burst)), []

        async def one(number, tokens):
            admitted.append((await call(t, tokens, seconds=0.5), number, tokens))

        tasks = []
        for number, (pause, tokens) in enumerate(arrivals):
            await asyncio.sleep(pause)
            tasks.append(start(one(number, tokens)))
            await ticks()
        await gather(*tasks)
        return admitted

    admitted = sorted(virtual_run(walk()))
    for (_, first, tokens), (_, second, later) in itertools.combinations(admitted, 2):
        assert first < second or tokens < later
    capacity = 10 * burst
    for at, _, _ in admitted:
        minute = [tokens for other, _, tokens in admitted if at <= other < at + 60]
        assert sum(minute) <= 600 + capacity + max(0, max(minute) - capacity) + 1e-3


def test_the_same_seed_is_the_same_run():
    def story():
        walk, lines = Walk(7), []
        grant = module.Limiter._grant

        def granted(self, asked, at):
            lines.append((at, self.name, asked.tokens))
            return grant(self, asked, at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Limiter, "_grant", granted)
            with contextlib.suppress(AssertionError):  # the ledger is not kept here
                virtual_run(walk.run(60))
        return lines

    first = story()
    assert len(first) > 40
    assert story() == first


def test_nothing_depends_on_the_time_of_day(monkeypatch):
    wall = itertools.count(5e9, -977.0)  # runs backwards
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: next(wall))
    assert virtual_run(gather_of_a_minute()) == [0, 1, 2, 3, 4]


async def gather_of_a_minute():
    t = throttle(rpm=60)
    return await gather(*(call(t, seconds=0.3) for _ in range(5)))
