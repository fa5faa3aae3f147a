"""Blocking calls in many threads, beside tasks on event loops."""

import asyncio
import gc
import random
from collections import Counter

import httpx
import openai
import pytest

from scripted import FAMILIES, HI, refuses
from sync_clients import Script, module_of, say, serving, soon, threads, throttled
from throttled_openai import Throttle, ThrottledAsyncOpenAI, ThrottledOpenAI
from throttled_openai.simulator import Fault, Simulator

# Many threads.


def test_64_threads_share_the_limits_and_lose_nothing():
    simulator = Simulator(rpm=6000, latency=0.05)
    with serving(simulator) as url, ThrottledOpenAI(api_key="x", base_url=url, rpm=6000) as client:
        with threads(64, lambda number: [say(client, f"{number}") for _ in range(5)]) as futures:
            pass
        assert sum(len(future.result()) for future in futures) == 320
        stats = client.throttle.stats()
    assert (stats.admitted, stats.succeeded, stats.refused) == (320, 320, 0)
    assert (stats.waiting, stats.in_flight) == (0, 0)
    assert (simulator.succeeded, simulator.attempts) == (320, 320)


def test_threads_that_are_refused_together_are_all_served_in_the_end():
    simulator = Simulator(latency=0.05, faults=[Fault(status=429, share=0.2, retry_after=0.05)])
    with serving(simulator) as url, ThrottledOpenAI(api_key="x", base_url=url, rpm=6000) as client:
        with threads(32, lambda _: [say(client) for _ in range(3)]):
            pass
        stats = client.throttle.stats()
    assert simulator.succeeded == stats.succeeded == 96
    assert stats.refused == simulator.attempts - 96 > 0
    assert (stats.waiting, stats.in_flight) == (0, 0)


def test_threads_and_tasks_on_two_event_loops_share_one_throttle():
    simulator = Simulator(rpm=12_000, latency=0.05)
    throttle = Throttle(rpm=6000, max_concurrency=20, threads=True)
    peak = []

    def watch():
        peak.append(throttle.stats().in_flight)

    with serving(simulator) as url:

        async def main():
            async with ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
                await asyncio.gather(*(client.chat.completions.create(model="gpt-4o", messages=HI) for _ in range(60)))

        def work(number):
            if number < 2:
                asyncio.run(main())
            elif number < 12:
                with ThrottledOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
                    for _ in range(6):
                        say(client)
                        watch()

        with threads(12, work):
            pass
    stats = throttle.stats()
    assert (stats.admitted, stats.succeeded, stats.refused) == (180, 180, 0)
    assert (stats.waiting, stats.in_flight) == (0, 0)
    assert simulator.attempts == 180
    assert max(peak) <= 20


def test_a_client_on_a_thread_with_an_event_loop_blocks_it_and_nothing_else():
    client = throttled(Script(refuses(headers={"retry-after-ms": "50"})), rpm=6000)

    async def main():
        return [say(client) for _ in range(3)]

    assert len(asyncio.run(main())) == 3


def test_tasks_that_are_cancelled_give_their_permits_back():
    simulator = Simulator(latency=0.2)
    throttle = Throttle(max_concurrency=3, threads=True)

    async def main(url):
        async with ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
            calls = [
                asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=HI)) for _ in range(20)
            ]
            await asyncio.sleep(0.1)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert sum(not call.cancelled() for call in calls) == 10

    with serving(simulator) as url:
        asyncio.run(main(url))
    soon(lambda: throttle.stats().in_flight == throttle.stats().waiting == 0)


def test_a_stream_that_outlives_its_event_loop_is_settled():
    simulator = Simulator(latency=0.0)
    throttle = Throttle(max_concurrency=1, threads=True)

    async def main(url):
        client = ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle)
        return await client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)

    with serving(simulator) as url:
        stream = asyncio.run(main(url))
        assert throttle.stats().in_flight == 0  # it cannot be read any more
        del stream
        gc.collect()
        soon(lambda: throttle.stats().in_flight == 0)


# Everything at once.

FAULTS = [
    Fault(status=429, retry_after=0.05, share=0.05),
    Fault(status=429, share=0.02),
    Fault(status=503, share=0.03),
    Fault(status=500, share=0.04),
    Fault(status=400, share=0.04),
    Fault("disconnect", share=0.04),
    Fault("stream_cut", share=0.08),
    Fault("stream_error", share=0.05),
]


class Fuzz:
    """One run of forty threads and a hundred tasks. The dice decide how calls are made and how they are left."""

    def __init__(self, seed, url):
        self.seed, self.url = seed, url
        self.throttle = Throttle(rpm=60_000, max_concurrency=12, threads=True)
        self.ended = Counter()
        self.ends = openai.APIError, httpx.HTTPError, module_of(FAMILIES[-1]).HTTPError

    def work(self, number):
        dice = random.Random(f"{self.seed} {number}")
        with ThrottledOpenAI(
            api_key="x", base_url=self.url, throttle=self.throttle, max_retries=1, timeout=20.0
        ) as client:
            for _ in range(6):
                manner = client.with_throttle(max_wait=dice.uniform(0.01, 5), priority=dice.randint(-1, 1))
                way = dice.choice([self.plain, self.plain, self.read, self.leave, self.forget, self.close])
                try:
                    way(dice.choice([client, manner]), "x" * dice.randint(1, 2000))
                except self.ends as error:
                    self.ended[type(error).__name__] += 1
                else:
                    self.ended["done"] += 1

    async def tasks(self):
        dice = random.Random(self.seed)
        # The SDK's own connections: ours send a second time what a dying one never answered.
        given = {"throttle": self.throttle, "pool": "sdk", "max_retries": 1}
        async with ThrottledAsyncOpenAI(api_key="x", base_url=self.url, **given) as client:

            async def call():
                async with asyncio.timeout(dice.choice([0.01, 0.05, 5.0])):
                    await client.chat.completions.create(model="gpt-4o", messages=HI, stream=dice.random() < 0.3)

            await asyncio.gather(*(call() for _ in range(100)), return_exceptions=True)

    def plain(self, client, text):
        say(client, text)

    def read(self, client, text):
        list(say(client, text, stream=True))

    def leave(self, client, text):
        next(iter(say(client, text, stream=True)))

    def forget(self, client, text):
        say(client, text, stream=True)

    def close(self, client, text):
        with say(client, text, stream=True) as stream:
            next(iter(stream))


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_in_forty_threads_and_a_loop_nothing_is_left_behind(seed, monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.2)
    simulator = Simulator(rpm=60_000, latency=0.02, latency_sigma=0.8, faults=FAULTS, seed=seed)
    with serving(simulator) as url:
        fuzz = Fuzz(seed, url)
        with threads(41, lambda number: fuzz.work(number) if number else asyncio.run(fuzz.tasks())):
            pass
    gc.collect()
    soon(lambda: gc.collect() >= 0 and fuzz.throttle.stats().waiting == fuzz.throttle.stats().in_flight == 0)
    assert sum(fuzz.ended.values()) == 240, fuzz.ended
    assert fuzz.ended["done"] > 100, fuzz.ended
    assert fuzz.throttle.stats().admitted >= simulator.attempts  # the others were given up on their way
