"""A stream holds its permit until it is over, however it ends; a dropped one gives it back."""

import asyncio
import contextlib
import gc
import importlib
import random
import weakref

import openai
import pytest
from openai import AsyncOpenAI

from scripted import (
    FAMILIES,
    HI,
    Says,
    Script,
    cancelled_at_the_end,
    families,
    http_client,
    now,
    say,
    settled,
    throttled,
    without_jitter,
)
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run

# What the SDKs raise where a stream breaks: before 3.14, some of them the HTTP client's own error.
BROKEN = (openai.APIError, *(importlib.import_module(family).HTTPError for family in FAMILIES))


def server(**options):
    """Every answer takes exactly one second: 0.3 s to its head, the rest between its 19 events."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def idle(client, simulator):
    stats = client.throttle.stats()
    return (stats.in_flight, stats.waiting, simulator.open_streams, simulator.in_flight) == (0, 0, 0, 0)


async def until_idle(client, simulator, *, seconds=5.0):
    """On real sockets the server notices it a moment later."""
    async with asyncio.timeout(seconds):
        while not idle(client, simulator):
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def over_sockets(simulator, family, **options):
    """A throttled client that talks to `simulator` over TCP."""
    async with serve(simulator) as url, importlib.import_module(family).AsyncClient() as mine:
        yield without_jitter(ThrottledAsyncOpenAI(api_key="x", base_url=url, http_client=mine, **options))


@contextlib.asynccontextmanager
async def in_memory(simulator, family, **options):
    yield throttled(simulator, family, **options)


# The ways a stream ends. Each leaves nothing behind by itself, but what it dropped is the collector's.


async def read_fully(client):
    stream = await say(client, stream=True)
    assert len([chunk async for chunk in stream]) == 18


async def break_inside_async_with(client):
    async with await say(client, stream=True) as stream:
        async for _ in stream:
            break


async def break_and_close(client):
    stream = await say(client, stream=True)
    async for _ in stream:
        break
    await stream.close()


async def break_and_drop(client):
    async for _ in await say(client, stream=True):
        break


async def never_iterate(client):
    await say(client, stream=True)


async def break_a_response(client):
    async for _ in await client.responses.create(model="gpt-4o", input="hi", stream=True):
        break


async def cancel_in_mid_stream(client):
    stream = await say(client, stream=True)
    await anext(stream)

    async def read():
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def cancel_before_its_head(client):
    task = asyncio.create_task(say(client, stream=True))
    await asyncio.sleep(0.001)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def break_the_stream_helper(client):
    async with client.chat.completions.stream(model="gpt-4o", messages=HI) as stream:
        async for _ in stream:
            break


async def break_the_responses_helper(client):
    async with client.responses.stream(model="gpt-4o", input="hi") as stream:
        async for _ in stream:
            break


async def drop_a_raw_response(client):
    raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI, stream=True)
    async for _ in raw.parse():
        break


async def leave_a_streaming_response(client):
    create = client.chat.completions.with_streaming_response.create
    async with create(model="gpt-4o", messages=HI, stream=True) as response:
        async for _ in response.iter_lines():
            break


WAYS = [
    read_fully,
    break_inside_async_with,
    break_and_close,
    break_and_drop,
    never_iterate,
    break_a_response,
    cancel_in_mid_stream,
    cancel_before_its_head,
    break_the_stream_helper,
    break_the_responses_helper,
    drop_a_raw_response,
    leave_a_streaming_response,
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@families
@ways
def test_in_memory_no_way_out_of_a_stream_leaves_a_permit(family, way):
    async def main():
        simulator = server()
        client = throttled(simulator, family)
        await way(client)
        await collect()
        assert idle(client, simulator)
        assert client.throttle.stats().admitted == 1

    virtual_run(main())


@families
@ways
def test_over_sockets_no_way_out_of_a_stream_leaves_a_permit(family, way):
    async def main():
        simulator = server(latency=0.1)
        async with over_sockets(simulator, family) as client:
            await way(client)
            await collect()
            await until_idle(client, simulator)

    asyncio.run(main())


# In flight is what is open.


@families
def test_permits_in_flight_equal_open_streams(family):
    async def main():
        simulator = server()
        client = throttled(simulator, family)
        streams = [await say(client, stream=True) for _ in range(5)]
        for left in range(5, 0, -1):
            assert client.throttle.in_flight == simulator.open_streams == left
            await streams.pop().close()
        assert idle(client, simulator)

    virtual_run(main())


@families
def test_a_stream_holds_its_permit_until_its_last_event_is_read(family):
    async def main():
        simulator = server()
        client = throttled(simulator, family, max_concurrency=1)
        stream = await say(client, stream=True)
        second = asyncio.create_task(say(client))
        async for _ in stream:
            assert client.throttle.in_flight == 1
            assert client.throttle.waiting == 1
        await second
        assert [attempt.at for attempt in simulator.log] == [0.0, pytest.approx(1.0)]

    virtual_run(main())


@families
def test_a_stream_that_was_left_may_be_resumed(family):
    async def main():
        client = throttled(server(), family)
        stream = await say(client, stream=True)
        first = [chunk async for chunk in take(stream, 3)]
        assert client.throttle.in_flight == 1
        rest = [chunk async for chunk in stream]
        assert len(first + rest) == 18
        assert client.throttle.in_flight == 0

    virtual_run(main())


async def take(stream, count):
    for _ in range(count):
        yield await anext(stream)


@families
def test_the_content_of_a_stream_is_complete_and_unchanged(family):
    async def main():
        ours = throttled(server(completion_tokens=200), family)
        theirs = AsyncOpenAI(
            api_key="x", base_url=str(ours.base_url), http_client=http_client(server(completion_tokens=200), family)
        )

        async def lines(client):
            create = client.chat.completions.with_streaming_response.create
            async with create(model="gpt-4o", messages=HI, stream=True) as response:
                return b"".join([chunk async for chunk in response.iter_bytes()])

        mine, original = await asyncio.gather(lines(ours), lines(theirs))
        assert mine == original
        assert mine.endswith(b"data: [DONE]\n\n")

    virtual_run(main())


@families
def test_over_sockets_streams_read_to_their_end_share_a_connection_as_with_the_sdk(family):
    """SDKs before 3.30 drop the connection of a stream after its last event."""

    async def connections(client_type, **options):
        simulator = Simulator(latency=0.01)
        async with serve(simulator) as url, importlib.import_module(family).AsyncClient() as mine:
            client = client_type(api_key="x", base_url=url, http_client=mine, **options)
            for _ in range(5):
                assert len([chunk async for chunk in await say(client, stream=True)]) == 18
        return simulator.counters.connections_made

    async def main():
        ours, theirs = await connections(ThrottledAsyncOpenAI), await connections(AsyncOpenAI)
        assert ours <= theirs

    asyncio.run(main())


# Failures.


@families
@pytest.mark.parametrize("carrier", [in_memory, over_sockets], ids=["memory", "sockets"])
@pytest.mark.parametrize("kind", ["stream_cut", "stream_error"])
def test_a_stream_that_fails_gives_its_permit_back(family, carrier, kind):
    async def main():
        simulator = server(latency=0.05, faults=[Fault(kind)])
        async with carrier(simulator, family, max_concurrency=1) as client:
            for _ in range(3):
                stream = await say(client, stream=True)
                with pytest.raises(BROKEN):
                    async for _ in stream:
                        pass
                assert client.throttle.in_flight == 0
            await until_idle(client, simulator)
            assert simulator.attempts == 3

    (virtual_run if carrier is in_memory else asyncio.run)(main())


@families
def test_an_error_event_is_the_sdks_error(family):
    async def main():
        client = throttled(server(faults=[Fault("stream_error")]), family)
        stream = await say(client, stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
        assert caught.value.code == "rate_limit_exceeded"

    virtual_run(main())


@families
def test_a_stream_that_falls_silent_times_out_and_gives_its_permit_back(family):
    async def main():
        simulator = server(latency=100.0)
        client = throttled(simulator, family)
        stream = await say(client, stream=True, timeout=40.0)
        with pytest.raises(BROKEN):
            # 70 s between 19 events, more than 3 s each.
            async with asyncio.timeout(3600):
                stream.response.request.extensions["timeout"]["read"] = 1.0
                async for _ in stream:
                    pass
        assert idle(client, simulator)

    virtual_run(main())


@families
def test_a_call_cancelled_while_it_waits_leaves_nothing(family):
    async def main():
        simulator = server()
        client = throttled(simulator, family, max_concurrency=1)
        stream = await say(client, stream=True)
        waiting = [asyncio.create_task(say(client, stream=True)) for _ in range(10)]
        await settled()
        for task in waiting[:9]:
            task.cancel()
        await settled()
        assert (client.throttle.in_flight, client.throttle.waiting) == (1, 1)
        await stream.close()
        await (await waiting[9]).close()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert idle(client, simulator)
        assert simulator.attempts == 2

    virtual_run(main())


@families
def test_a_call_cancelled_in_the_tick_it_is_admitted_leaves_nothing(family):
    async def main():
        simulator = server()
        client = throttled(simulator, family, max_concurrency=1)
        stream = await say(client, stream=True)
        waiting = asyncio.create_task(say(client))
        await settled()
        closing = asyncio.create_task(stream.close())
        while client.throttle.waiting:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(closing, waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert idle(client, simulator)
        assert simulator.attempts == 1

    virtual_run(main())


# Dropped streams.


@families
def test_streams_dropped_without_close_free_themselves_when_calls_are_stuck_behind_them(family):
    async def main():
        simulator = server(latency=3600.0)
        client = throttled(simulator, family, max_concurrency=4, timeout=None)
        gc.disable()  # as when nothing is allocated: it would not run by itself
        try:
            for _ in range(4):
                await never_iterate(client)
            assert client.throttle.in_flight == 4
            simulator.change(latency=1.0)
            began = now()
            await say(client)
            # Looked for after 5 s without any movement.
            assert now() - began == pytest.approx(client.throttle._dispatcher.stall.stall_timeout + 1.0)
            assert idle(client, simulator)
        finally:
            gc.enable()

    virtual_run(main())


def test_dropped_streams_of_one_model_are_looked_for_when_another_waits_for_their_places():
    async def main():
        simulator = server(latency=3600.0)
        client = throttled(simulator, max_concurrency=4, timeout=None)
        gc.disable()
        try:
            for _ in range(4):
                await never_iterate(client)
            simulator.change(latency=1.0)
            await say(client.with_throttle(max_wait=60.0), model="gpt-4o-mini")
            assert idle(client, simulator)
        finally:
            gc.enable()

    virtual_run(main())


def test_streams_still_in_use_keep_their_permits():
    async def main():
        simulator = server(latency=3600.0)
        client = throttled(simulator, max_concurrency=1, timeout=None)
        stream = await say(client, stream=True)
        began = now()
        with pytest.raises(openai.APITimeoutError):
            await say(client.with_throttle(max_wait=600.0))
        assert now() - began == 600.0
        # 5 s, then twice as long each time: the collector is not run for ever.
        assert client.throttle._dispatcher.stall.stall_timeout >= 320.0
        assert len([chunk async for chunk in stream]) == 18
        assert idle(client, simulator)

    virtual_run(main())


@families
def test_a_dropped_stream_is_freed_once_collected_even_if_its_response_is_kept(family):
    async def main():
        simulator = server()
        client = throttled(simulator, family)
        stream = await say(client, stream=True)
        response = stream.response
        seen = weakref.ref(stream)
        del stream
        await collect()
        assert seen() is None
        await response.aclose()
        assert idle(client, simulator)

    virtual_run(main())


# All together.


@pytest.mark.parametrize("seed", [1, 2])
@families
def test_in_memory_two_hundred_streams_of_every_ending_leave_nothing(family, seed):
    async def main():
        simulator = server(faults=[Fault("stream_cut", share=0.1), Fault("stream_error", share=0.1)], seed=seed)
        client = throttled(simulator, family, max_concurrency=20, max_retries=0)
        await two_hundred(client, random.Random(seed))
        await until_idle(client, simulator)
        assert simulator.peak_in_flight <= 20

    virtual_run(main())


@families
def test_over_sockets_two_hundred_streams_of_every_ending_leave_nothing(family):
    async def main():
        faults = [Fault("stream_cut", share=0.1), Fault("stream_error", share=0.1), Fault("disconnect", share=0.05)]
        simulator = Simulator(latency=0.05, faults=faults)
        async with over_sockets(simulator, family, max_concurrency=20, max_retries=0) as client:
            await two_hundred(client, random.Random(4))
            await until_idle(client, simulator)

    asyncio.run(main())


async def collect():
    """What the collector does sooner or later: `break` closes the outer generator, the rest is a cycle."""
    await settled()
    gc.collect()
    await settled()


async def two_hundred(client, dice):
    async def one(way):
        await asyncio.sleep(dice.random())
        with contextlib.suppress(*BROKEN):
            await way(client)

    ways = [dice.choice(WAYS) for _ in range(200)]
    async with asyncio.timeout(300), cancelled_at_the_end(collect_now_and_then()):
        await asyncio.gather(*map(one, ways))
    await collect()


async def collect_now_and_then():
    while True:
        await asyncio.sleep(0.5)
        gc.collect()


@families
def test_with_usage_asked_for_a_stream_read_to_its_end_counts_it(family):
    async def main():
        client = throttled(server(), family)
        stream = await say(client, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage.total_tokens == client.throttle.stats().budgets[0].tokens_used == 24

    virtual_run(main())


@families
def test_a_body_that_is_already_there_holds_no_permit(family):
    async def main():
        client = throttled(Script(Says()), family)
        assert (await say(client)).choices
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
def test_an_exception_of_the_users_own_comes_out_of_a_stream_as_it_is(family):
    """httpx's have a property that raises where no request is set."""
    own = importlib.import_module(family).ReadTimeout("my own deadline")

    async def main():
        client = throttled(server(), family)
        with pytest.raises(type(own)) as raised:
            async with await say(client, stream=True) as stream:
                async for _ in stream:
                    raise own
        assert raised.value is own
        assert client.throttle.stats().in_flight == 0

    virtual_run(main())
