"""On trio: calls wait, are refused, cancelled and streamed as on asyncio, and may share a throttle with it."""

import asyncio
import gc
import threading

import openai
import pytest

from scripted import FAMILIES, HI
from sync_clients import module_of, serving, soon
from throttled_openai import AdmissionTimeout, Throttle, ThrottledAsyncOpenAI, wrap_http_client
from throttled_openai.simulator import Fault, Simulator

trio = pytest.importorskip("trio")

# Trio complains of streams that were left; the SDK's does so too.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


def client_of(url, **options):
    http = module_of(FAMILIES[-1]).AsyncClient()
    return ThrottledAsyncOpenAI(api_key="x", base_url=url, http_client=http, **options)


async def say(client, **more):
    return await client.chat.completions.create(model="gpt-4o", messages=HI, **more)


def idle(throttle):
    stats = throttle.stats()
    return (stats.waiting, stats.in_flight) == (0, 0)


def on_trio(url, main, **options):
    """Run `main` with a client, which leaves nothing behind."""
    throttle = options.setdefault("throttle", Throttle(max_concurrency=4))

    async def run():
        async with client_of(url, **options) as client:
            await main(client)

    trio.run(run)
    soon(lambda: idle(throttle))
    return throttle.stats()


def test_calls_are_throttled_and_refused_ones_sent_again():
    faults = [Fault(status=429, retry_after=0.02, share=0.2), Fault(status=500, share=0.1)]
    most = 0

    async def main(client):
        async def call():
            nonlocal most
            assert (await say(client)).choices
            most = max(most, client.throttle.in_flight)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(call)

    with serving(Simulator(latency=0.01, faults=faults)) as url:
        stats = on_trio(url, main, max_retries=5)
    assert stats.succeeded == 40
    assert stats.refused > 0
    assert most <= 4


def test_streams_are_read_left_and_dropped():
    async def main(client):
        stream = await say(client, stream=True)
        assert len([event async for event in stream]) > 2
        async with await say(client, stream=True) as stream:
            async for _ in stream:
                break
        await say(client, stream=True)
        stream = await say(client, stream=True)
        async for _ in stream:
            break
        del stream
        for _ in range(50):
            gc.collect()
            await trio.sleep(0.02)
            if idle(client.throttle):
                break
        assert idle(client.throttle)

    with serving(Simulator(latency=0.0)) as url:
        on_trio(url, main)


def test_cancelled_calls_leave_nothing():
    async def main(client):
        async with trio.open_nursery() as nursery:
            for number in range(60):

                async def call(seconds=0.003 * number):
                    with trio.move_on_after(seconds):
                        await say(client)

                nursery.start_soon(call)

    with serving(Simulator(latency=0.03)) as url:
        on_trio(url, main)


def test_a_call_that_waits_longer_than_max_wait_raises_admission_timeout():
    async def main(client):
        async def call():
            with pytest.raises(AdmissionTimeout):
                await say(client.with_throttle(max_wait=0.05))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, client)
            await trio.sleep(0.05)
            nursery.start_soon(call)

    with serving(Simulator(latency=0.5)) as url:
        on_trio(url, main, throttle=Throttle(max_concurrency=1))


def test_trio_asyncio_and_threads_share_one_throttle():
    throttle = Throttle(max_concurrency=3)

    async def ten(client):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(say, client)

    def on_asyncio(url):
        async def main():
            async with client_of(url, throttle=throttle) as client:
                await asyncio.gather(*(say(client) for _ in range(10)))

        asyncio.run(main())

    with serving(Simulator(latency=0.01)) as url:
        thread = threading.Thread(target=on_asyncio, args=(url,))
        thread.start()
        on_trio(url, ten, throttle=throttle)
        thread.join(30)
        with openai.OpenAI(api_key="x", base_url=url) as plain:
            assert plain.chat.completions.create(model="gpt-4o", messages=HI).choices
    soon(lambda: idle(throttle))
    assert throttle.stats().succeeded == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its connections
def test_a_run_that_ended_with_calls_in_flight_holds_no_places():
    throttle, kept = Throttle(max_concurrency=2), []

    async def leave(url):
        client = client_of(url, throttle=throttle)
        kept.append([client, await say(client, stream=True), await say(client, stream=True)])

    with serving(Simulator(latency=0.0)) as url:
        trio.run(leave, url)
        assert idle(throttle)
        on_trio(url, say, throttle=throttle)
    kept.clear()
    gc.collect()


def test_an_http_client_is_throttled():
    async def main():
        async with module_of(FAMILIES[-1]).AsyncClient() as http:
            client = wrap_http_client(http, max_concurrency=2)
            answer = await client.post(f"{url}/chat/completions", json={"model": "gpt-4o", "messages": HI})
            assert answer.status_code == 200
            assert client.throttle.stats().succeeded == 1

    with serving(Simulator(latency=0.0)) as url:
        trio.run(main)
