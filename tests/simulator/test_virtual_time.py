"""The clock of the tests, and the time that answers take on it."""

import asyncio
import subprocess
import sys
import time
from functools import partial

import pytest

from simulated import HI, chat, http_client, post, sdk, steady
from throttled_openai.simulator import Simulator, VirtualTimeLoop, virtual_run


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_takes_its_latency_streamed_or_not(stream):
    async def main():
        async with sdk(steady()) as client:
            answer = await client.chat.completions.create(model="m", messages=HI, stream=stream)
            if stream:
                assert asyncio.get_running_loop().time() == pytest.approx(0.3)
                async for _ in answer:
                    pass
        return asyncio.get_running_loop().time()

    assert virtual_run(main()) == pytest.approx(1.0)


def test_latencies_scatter_around_their_median_and_repeat_with_the_seed():
    def latencies(seed):
        server = Simulator(latency=2.0, latency_sigma=0.5, seed=seed)
        return [post(server, chat(10)).delay for _ in range(1001)]

    assert latencies(1) == latencies(1) != latencies(2)
    assert sorted(latencies(1))[500] == pytest.approx(2.0, rel=0.1)
    assert max(latencies(1)) > 4


def test_a_minute_of_retrying_on_advice_gets_what_the_limit_allows():
    """60 at once, then one a second: the hundredth is admitted at 40."""

    async def call(client):
        while True:
            response = await client.post("/chat/completions", json=chat(10))
            if response.status_code == 200:
                return
            await asyncio.sleep(int(response.headers["retry-after-ms"]) / 1000)

    async def main():
        async with http_client(server) as client:
            await asyncio.gather(*(call(client) for _ in range(100)))
        return asyncio.get_running_loop().time()

    server = steady(rpm=60)
    assert virtual_run(main()) == pytest.approx(40 + 1)
    assert server.succeeded == 100


def test_the_virtual_clock_jumps():
    async def main():
        before = time.monotonic()
        await asyncio.sleep(86_400 * 3)
        assert await asyncio.to_thread(lambda: 7) == 7
        assert time.monotonic() - before < 1
        return asyncio.get_running_loop().time()

    assert virtual_run(main()) == 86_400 * 3


def test_a_tick_passes_the_moments_that_the_clock_cannot_tell_apart():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1000)
        since, turns = loop.time(), 0
        while loop.time() == since and turns < 100:
            await asyncio.sleep(1e-14)  # no float after 1000 is so near
            turns += 1
        return turns

    assert virtual_run(main()) == 100
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, tick=1e-6)) as runner:
        assert runner.run(main()) == 1


def test_the_virtual_clock_raises_when_nothing_can_wake_a_task():
    # In its own process: the threads of other tests could still wake a task.
    waits = "import asyncio, throttled_openai.simulator as s; s.virtual_run(asyncio.Event().wait())"
    done = subprocess.run([sys.executable, "-c", waits], capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: deadlock" in done.stderr


def test_an_error_in_a_thread_function_reaches_its_caller():
    async def main():
        await asyncio.to_thread(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        virtual_run(main())


def test_a_loop_of_virtual_time_can_be_made_by_hand():
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(5))
        assert runner.get_loop().time() == 5


@pytest.mark.parametrize("power", [0, 23, 24, 30, 40, 50])
def test_virtual_time_advances_however_late_it_is(power):
    """At 2**24 s the next float is farther away than the loop's own resolution, at 2**40 than a short sleep."""

    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2.0**power)
        assert loop.time() == 2.0**power
        for seconds in (1e-9, 1e-6, 0.001, 0.3, 1.0, 100_000.0):
            before = loop.time()
            await asyncio.sleep(seconds)
            assert loop.time() > before or power == 0
        assert loop.time() - 2.0**power == pytest.approx(100_001.3, abs=1)
        return await asyncio.gather(*(asyncio.sleep(after, after) for after in (3, 1, 2)))

    assert virtual_run(main()) == [3, 1, 2]


def test_late_on_the_clock_a_wait_below_its_resolution_takes_its_next_instant():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(2.0**40)
        turns, until = 0, loop.time() + 0.01
        while loop.time() < until:
            over = loop.create_future()
            loop.call_at(loop.time() + 1e-6, over.set_result, None)
            await over
            turns += 1
        return turns

    assert virtual_run(main()) < 100
