"""Client, SDK and simulator under everything at once: whatever happens, nothing is left behind."""

import asyncio
import functools
import gc
import importlib
import itertools
import random
import time
from collections import Counter

import openai
import pytest

from scripted import FAMILIES, HI, cancelled_at_the_end, say, settled, throttled
from throttled_openai._admission import dispatcher as _dispatcher
from throttled_openai._admission import limiter as _limiter
from throttled_openai.simulator import Fault, Simulator, virtual_run

CALLS, CEILING = 300, 24
MODELS = ("gpt-4o", "gpt-4o-mini", "o9")

# What a call may end with; SDKs before 3.14 let the HTTP client's own error through where a stream breaks.
ENDS = (openai.APIError, *(importlib.import_module(family).HTTPError for family in FAMILIES))

FAULTS = [
    Fault(status=429, retry_after=2.0, share=0.04),
    Fault(status=429, share=0.03),
    Fault(status=429, code="insufficient_quota", share=0.01),
    Fault(status=503, share=0.03),
    Fault(status=500, share=0.04),
    Fault(status=400, share=0.04),
    Fault("disconnect", share=0.04),
    Fault("hang", share=0.03),
    Fault("stream_cut", share=0.08),
    Fault("stream_error", share=0.05),
]


class Fuzz:
    """One run. Its dice decide when calls come, how they are made, and when they are given up."""

    def __init__(self, seed, family):
        self.seed = seed
        self.dice = random.Random(seed)
        self.server = Simulator(rpm=6000, tpm=200_000, latency=0.8, latency_sigma=0.5, faults=FAULTS, seed=seed)
        limits = self.dice.choice([{}, {"rpm": 3000}, {"rpm": 9000, "tpm": 400_000}])
        self.client = throttled(self.server, family, max_concurrency=CEILING, max_retries=1, timeout=20.0, **limits)
        self.client.throttle._dispatcher.random = random.Random(seed).random
        self.ended = Counter()
        self.ends = Counter()
        self.peak = 0

    def __str__(self):
        return f"seed {self.seed}: {dict(self.ends)}, peak {self.peak}, {self.server!r}, {self.client.throttle!r}"

    async def run(self):
        # All dice are rolled before anything runs, so that a seed is one story.
        calls = [self.call(number, **self.draw()) for number in range(CALLS)]
        async with asyncio.timeout(3600), cancelled_at_the_end(self.watch(), self.collect()):
            await asyncio.gather(*calls)
        for _ in range(3):
            gc.collect()
            await settled()

    def draw(self):
        dice = self.dice
        client = self.client
        if dice.random() < 0.3:
            client = client.with_throttle(max_wait=dice.uniform(0.1, 10), priority=dice.randint(-1, 1))
        if dice.random() < 0.1:
            client = client.with_options(max_retries=dice.randint(0, 3), timeout=dice.uniform(0.5, 5))
        way = dice.choice([self.plain, self.plain, self.read, self.leave, self.forget, self.close, self.helper])
        return {
            "way": functools.partial(way, client, "x" * dice.randint(1, 4000), dice.choice(MODELS)),
            "comes_after": dice.choice([0.0, dice.uniform(0, 30)]),
            "gives_up_after": dice.choice([None, None, None, dice.expovariate(1 / 3)]),
        }

    async def call(self, number, *, way, comes_after, gives_up_after):
        await asyncio.sleep(comes_after)
        task = asyncio.create_task(way())
        if gives_up_after is not None:
            await asyncio.wait([task], timeout=gives_up_after)
            task.cancel()
        try:
            await task
        except ENDS as error:
            end = type(error).__name__
        except asyncio.CancelledError:
            end = "cancelled"
        else:
            end = "done"
        self.ended[number] += 1
        self.ends[end] += 1

    async def watch(self):
        while True:
            self.peak = max(self.peak, self.client.throttle.in_flight)
            await asyncio.sleep(0.05)

    async def collect(self):
        """As the collector would now and then."""
        while True:
            await asyncio.sleep(2.0)
            gc.collect()

    async def plain(self, client, text, model):
        assert (await say(client, text, model)).choices

    async def read(self, client, text, model):
        stream = await say(client, text, model, stream=True)
        assert len([chunk async for chunk in stream]) == 18

    async def leave(self, client, text, model):
        async for _ in await say(client, text, model, stream=True):
            break

    async def forget(self, client, text, model):
        await say(client, text, model, stream=True)

    async def close(self, client, text, model):
        async with await say(client, text, model, stream=True) as stream:
            async for _ in stream:
                break

    async def helper(self, client, text, model):
        del text
        async with client.chat.completions.stream(model=model, messages=HI) as stream:
            async for _ in stream:
                pass


def play(seed):
    """One run; a failure tells its seed and where it stood."""
    fuzz = Fuzz(seed, FAMILIES[seed % len(FAMILIES)])
    random.seed(seed)  # the SDK's own jitter
    try:
        virtual_run(fuzz.run())
    except BaseException as error:
        error.add_note(str(fuzz))
        raise
    return fuzz


@pytest.fixture
def watched(monkeypatch):
    """What must hold at every admission and after every look at the queue; how often each permit was settled."""
    settlements = Counter()
    limiter, dispatcher = _limiter.Limiter, _dispatcher.Dispatcher
    settle, grant, admit_waiting = limiter.settle, limiter._grant, dispatcher.admit_waiting

    def settled_once(self, attempt, *more, **late):
        settlements[attempt] += 1
        settle(self, attempt, *more, **late)

    def granted(self, call, now):
        assert self.in_flight < (CEILING if self.gate.aside else self.limit) <= CEILING
        assert now >= self.budget.paused_until
        assert self.gate.delay(now) == 0
        return grant(self, call, now)

    def looked(self, limiter):
        admit_waiting(self, limiter)
        assert limiter.in_flight >= 0
        assert limiter.queue.waiting >= 0
        # A timer, or an attempt that ends, will look again.
        assert not limiter.queue.waiting or limiter.timer.handle is not None or self.in_flight.attempts
        for mirror in limiter.budget.windows.values():
            assert mirror.level <= mirror.limit - mirror.reserve + 1e-6
            assert 0 < mirror.reserve <= mirror.limit / 4

    monkeypatch.setattr(limiter, "settle", settled_once)
    monkeypatch.setattr(limiter, "_grant", granted)
    monkeypatch.setattr(dispatcher, "admit_waiting", looked)
    return settlements


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_nothing_is_left_behind(seed, watched):
    fuzz = play(seed)

    server, stats = fuzz.server, fuzz.client.throttle.stats()
    assert (stats.in_flight, stats.waiting) == (0, 0), fuzz
    assert (server.in_flight, server.open_streams) == (0, 0), fuzz
    assert fuzz.ended == Counter(range(CALLS)), fuzz
    assert max(fuzz.peak, server.peak_in_flight) <= CEILING, fuzz
    assert set(watched.values()) == {1}, fuzz
    assert len(watched) == stats.admitted >= server.attempts, fuzz
    # It was a fuzz: all of this happened.
    assert set(fuzz.ends) >= {"done", "cancelled", "AdmissionTimeout", "BadRequestError"}, fuzz
    assert stats.refused > 0, fuzz


def test_the_same_seed_is_the_same_run_whatever_the_time_of_day(monkeypatch):
    gc.disable()  # it collects at its own pace; the runs do so by the clock
    try:
        stories = []
        for began in (0.0, 4e9):
            wall = itertools.count(began, 1234.5)
            monkeypatch.setattr(time, "time", lambda wall=wall: next(wall))
            monkeypatch.setattr(time, "monotonic", lambda wall=wall: next(wall))
            fuzz = play(4)
            stories.append((fuzz.ends, [(attempt.at, attempt.model, attempt.status) for attempt in fuzz.server.log]))
    finally:
        gc.enable()
    assert len(stories[0][1]) > CALLS / 3  # a refusal for billing fails what waits
    assert stories[0] == stories[1]
