"""One client on several event loops: one after the other, at the same time, and on uvloop."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from async_clients import blocked
from scripted import Script, families, say, throttled
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai._pool.loops import _lifetime
from throttled_openai.simulator import Simulator, serve, virtual_run

# Event loops.


@families
def test_one_client_serves_several_event_loops_in_turn(family):
    client = throttled(Script(), family, rpm=6000)

    async def main():
        await asyncio.gather(*(say(client) for _ in range(3)))
        assert client.throttle.in_flight == client.throttle.waiting == 0

    for _ in range(3):
        virtual_run(main())
    asyncio.run(main())
    assert client.throttle.stats().succeeded == 12


def test_calls_of_a_closed_loop_do_not_block_the_next_loop():
    client = throttled(blocked(), max_concurrency=2)

    async def leave():
        asyncio.ensure_future(say(client))  # noqa: RUF006  # cancelled with its loop
        stream = asyncio.ensure_future(say(client, stream=True))
        waiting = asyncio.ensure_future(say(client))
        await asyncio.sleep(0.5)
        assert (client.throttle.in_flight, client.throttle.waiting) == (2, 1)
        return await stream, waiting

    async def go_on():
        await asyncio.gather(say(client), say(client), say(client))
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)

    kept = virtual_run(leave())
    virtual_run(go_on())
    del kept
    virtual_run(go_on())


def test_connections_are_dropped_silently_if_the_loop_is_never_closed():
    """At the interpreter's exit, with nest_asyncio: their generator is ended, and nothing can be awaited."""

    class Connections:
        async def aclose(self):
            await asyncio.sleep(0)

    lifetime = _lifetime(Connections())
    for step in (lifetime.__anext__(), lifetime.aclose()):
        with pytest.raises(StopIteration):
            step.send(None)


def test_two_loops_at_once_share_one_client():
    client = throttled(Simulator(latency=0.05), max_concurrency=3)

    async def main():
        await asyncio.gather(*(say(client) for _ in range(10)))

    async def both():
        await asyncio.gather(main(), asyncio.to_thread(lambda: asyncio.run(main())), main())

    asyncio.run(both())
    stats = client.throttle.stats()
    assert (stats.succeeded, stats.waiting, stats.in_flight) == (30, 0, 0)


def test_a_loop_that_stands_still_for_another_one_does_not_hold_it_up():
    """As when a coroutine runs `asyncio.run` in a thread and waits for it, blocking."""
    client = throttled(Simulator(latency=0.05), max_concurrency=3)

    async def main():
        call = asyncio.create_task(say(client))
        await asyncio.sleep(0.01)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, say(client)).result(10)
        await call

    asyncio.run(main())
    assert (client.throttle.stats().succeeded, client.throttle.stats().in_flight) == (2, 0)


# Usage.


def test_it_works_on_uvloop():
    uvloop = pytest.importorskip("uvloop", reason="there is none for Windows")
    simulator = Simulator(rpm=6000, burst=1.0, latency=0.01)

    async def main():
        async with serve(simulator) as url, ThrottledAsyncOpenAI(base_url=url, api_key="any", rpm=6000) as client:
            answers = await asyncio.gather(*(say(client) for _ in range(150)))
            stream = await say(client, stream=True)
            assert [chunk async for chunk in stream]
            assert len(answers) == 150
            assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
