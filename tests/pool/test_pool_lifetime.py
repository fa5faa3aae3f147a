"""The pool on several event loops, on trio, and at its end."""

import asyncio
import contextlib
import functools
import gc
import queue
import threading

import pytest

from pooled import module_of, pooled, soon
from scripted import families
from servers import Server, after, real
from throttled_openai._pool import PooledAsyncHttpxClient
from throttled_openai.simulator import Simulator, serve


@families
def test_event_loops_in_turn_each_have_their_own_connections(family):
    client = pooled(family)
    simulator = Simulator(latency=0.01)

    async def main():
        async with serve(simulator) as url:
            for _ in range(3):
                assert (await client.get(f"{url}/models")).status_code == 200
            await soon(lambda: simulator.counters.connections == 1)
        gc.collect()

    for _ in range(3):
        asyncio.run(main())
    assert simulator.counters.connections_made == 3


@real
async def test_event_loops_beside_each_other_have_their_own_connections():
    async with Server(after(0.1)) as server, pooled() as client:

        async def elsewhere():
            return (await client.get(server.url)).status_code

        codes = await asyncio.gather(*(asyncio.to_thread(asyncio.run, elsewhere()) for _ in range(3)), elsewhere())
        assert codes == [200] * 4
        assert (await client.get(server.url)).status_code == 200
        assert server.connections == 4


@real
async def test_the_end_of_a_loop_closes_its_connections():
    async with Server() as server:
        client = pooled()

        async def elsewhere():
            await client.get(server.url)
            assert server.open == 1

        await asyncio.to_thread(asyncio.run, elsewhere())
        await soon(lambda: server.open == 0)


@real
async def test_a_client_that_is_dropped_closes_its_connections():
    async with Server() as server:
        client = pooled()
        await client.get(server.url)
        assert server.open == 1
        del client
        gc.collect()
        await soon(lambda: server.open == 0)


@families
@real
async def test_closing_a_client_closes_its_connections_and_fails_running_exchanges(family):
    async with Server(after(5)) as server:
        client = pooled(family)
        call = asyncio.create_task(client.get(server.url))
        await soon(lambda: server.asked)
        await client.aclose()
        with pytest.raises(module_of(family).TransportError):
            await call
        await soon(lambda: server.open == 0)


def test_a_client_may_be_closed_on_a_loop_that_never_used_it():
    client = pooled()

    async def use(url):
        await client.get(url)

    async def main():
        async with Server() as server:
            await use(server.url)

    asyncio.run(main())
    asyncio.run(client.aclose())
    asyncio.run(pooled().aclose())


# On trio, which the SDK and httpx support too.


@families
def test_on_trio_httpcores_own_pool_sends(family):
    trio = pytest.importorskip("trio")
    with serving_in_a_thread() as url:
        client = pooled(family)

        async def main():
            for _ in range(3):
                assert (await client.get(url)).status_code == 200
            async with client.stream("GET", url) as response:
                assert await response.aread()
            await client.aclose()

        trio.run(main)


def test_a_client_that_was_not_used_can_be_closed_on_trio():
    trio = pytest.importorskip("trio")
    trio.run(pooled().aclose)
    trio.run(PooledAsyncHttpxClient().aclose)
    client = pooled()

    async def use():
        async with Server() as server:
            await client.get(server.url)

    asyncio.run(use())
    trio.run(client.aclose)


@families
def test_a_client_serves_both_trio_and_asyncio(family):
    trio = pytest.importorskip("trio")
    with serving_in_a_thread() as url:
        client = pooled(family)

        async def call():
            return (await client.get(url)).status_code

        async def call_and_close():
            try:
                return await call()
            finally:
                await client.aclose()

        assert asyncio.run(call()) == 200
        assert asyncio.run(call()) == 200
        assert trio.run(call_and_close) == 200


@families
def test_on_trio_within_asyncio_the_pool_is_httpcores(family):
    """A guest of asyncio's loop: both run in one thread, and a call is of one of them."""
    trio = pytest.importorskip("trio")

    async def main():
        async with Server() as server:
            client = pooled(family)

            async def call():
                return (await client.get(server.url)).status_code

            async def call_and_close():
                try:
                    return await call()
                finally:
                    await client.aclose()

            loop, over = asyncio.get_running_loop(), asyncio.Event()
            outcomes = []

            def done(outcome):
                outcomes.append(outcome)
                over.set()

            trio.lowlevel.start_guest_run(
                call_and_close, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done
            )
            assert await call() == 200
            await over.wait()
            assert outcomes[0].unwrap() == 200
            await client.aclose()

    asyncio.run(main())


@contextlib.contextmanager
def serving_in_a_thread():
    started = queue.SimpleQueue()

    async def main():
        over = asyncio.Event()
        async with Server() as server:
            started.put((server.url, functools.partial(asyncio.get_running_loop().call_soon_threadsafe, over.set)))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    url, stop = started.get(timeout=10)
    try:
        yield url
    finally:
        stop()
        thread.join(10)
