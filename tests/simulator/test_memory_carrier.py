"""The transport in memory: the network, and clients that leave."""

import asyncio
import contextlib
import importlib

import httpx
import openai
import pytest

from simulated import FAMILIES, HI, chat, clock, http_client, post, sdk, seen, steady
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run


@pytest.mark.parametrize("family", FAMILIES)
def test_request_and_answer_each_travel_for_the_one_way_time(family):
    async def main():
        async with http_client(server, family) as client:
            await client.post("/chat/completions", json=chat())
        return clock()

    server = steady(network=0.25)
    assert virtual_run(main()) == pytest.approx(1.5)
    assert server.log[0].at == 0.25


def test_a_refusal_travels_too():
    async def main():
        async with http_client(steady(rpm=1, network=0.25, initial_level=0.0)) as client:
            response = await client.post("/chat/completions", json=chat())
        assert response.status_code == 429
        return clock()

    assert virtual_run(main()) == 0.5


def test_the_head_of_a_stream_travels_and_its_pieces_follow_as_they_were_sent():
    async def main():
        server = steady(network=0.25)
        async with (
            http_client(server) as client,
            client.stream("POST", "/chat/completions", json=chat(stream=True)) as response,
        ):
            head = clock()
            async for _ in response.aiter_bytes():
                pass
        assert (server.in_flight, server.open_streams, server.succeeded) == (0, 0, 1)
        return head, clock()

    assert virtual_run(main()) == pytest.approx((0.25 + 0.3 + 0.25, 1.5))


def test_attempts_overtake_each_other_on_a_network_that_scatters():
    async def main():
        async with http_client(server) as client:
            bodies = [chat(model=str(number)) for number in range(20)]
            await asyncio.gather(*(client.post("/chat/completions", json=body) for body in bodies))
        return [attempt.model for attempt in server.log]

    def order():
        nonlocal server
        server = Simulator(network=0.02)
        return virtual_run(main())

    server = None
    assert sorted(order()) == sorted(map(str, range(20)))
    assert order() == order() != [str(number) for number in range(20)]


def test_one_way_times_scatter_around_their_median_and_do_not_shift_latencies():
    near, far = Simulator(seed=3), Simulator(seed=3, network=0.02)
    times = sorted(far.network.to_server(far.settings) for _ in range(1001))
    assert times[500] == pytest.approx(0.02, rel=0.1)
    assert times[-1] > 0.06
    assert [post(near).delay for _ in range(5)] == [post(far).delay for _ in range(5)]
    assert near.network.to_server(near.settings) == 0.0


def test_each_direction_of_the_network_has_its_own_random_numbers():
    one, other = Simulator(network=1.0), Simulator(network=1.0)
    _ = [one.network.to_client(one.settings) for _ in range(7)]
    assert one.network.to_server(one.settings) == other.network.to_server(other.settings)
    assert one.network.to_server(one.settings) != one.network.to_client(one.settings)


@pytest.mark.parametrize(
    ("leaves_at", "counted"),
    [
        (0.1, {"attempts": 0, "abandoned": 0, "succeeded": 0}),
        (0.5, {"attempts": 1, "abandoned": 1, "succeeded": 0}),
        (1.4, {"attempts": 1, "abandoned": 0, "succeeded": 1}),
    ],
)
def test_a_client_that_leaves_is_unknown_abandoned_or_answered_depending_on_where_the_message_is(leaves_at, counted):
    async def main():
        async with http_client(server) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(leaves_at):
                    await client.post("/chat/completions", json=chat())
        await asyncio.sleep(10)

    server = steady(network=0.25)
    virtual_run(main())
    assert {name: getattr(seen(server), name) for name in counted} == counted
    assert server.in_flight == 0


def test_leaving_while_the_head_of_a_stream_travels_abandons_it():
    async def main():
        async with http_client(server) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.6):
                    await client.post("/chat/completions", json=chat(stream=True))

    server = steady(network=0.25)
    virtual_run(main())
    assert (server.counters.abandoned, server.in_flight, server.open_streams) == (1, 0, 0)


@pytest.mark.parametrize(("patience", "attempts"), [(0.2, 0), (1.2, 1), (1.4, 1)])
def test_a_read_timeout_covers_both_directions_of_the_network(patience, attempts):
    async def main():
        async with http_client(server, timeout=patience) as client:
            with pytest.raises(importlib.import_module(FAMILIES[-1]).ReadTimeout):
                await client.post("/chat/completions", json=chat())
        return clock()

    server = steady(network=0.25)
    assert virtual_run(main()) == pytest.approx(patience)
    assert seen(server).attempts == attempts


def test_over_tcp_the_network_is_the_real_one():
    async def main():
        async with serve(Simulator(latency=0.0, network=30.0)) as url, httpx.AsyncClient(base_url=url) as client:
            return (await client.post("/chat/completions", json=chat(), timeout=5)).status_code

    assert asyncio.run(main()) == 200


# Clients that leave.


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cancelled_call_is_no_longer_in_flight(family):
    async def main():
        server = steady()
        async with http_client(server, family) as client:
            call = asyncio.create_task(client.post("/chat/completions", json=chat(10)))
            await asyncio.sleep(0.5)
            assert server.in_flight == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert server.in_flight == 0
        assert server.counters.abandoned == 1

    virtual_run(main())


def test_a_closed_stream_is_no_longer_open():
    async def main():
        server = steady()
        async with sdk(server) as client:
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            async for _ in stream:
                break
            assert (server.in_flight, server.open_streams) == (1, 1)
            await stream.close()
            assert (server.in_flight, server.open_streams) == (0, 0)

    virtual_run(main())


def test_a_stream_read_to_its_last_event_has_succeeded():
    async def main():
        server = steady()
        async with sdk(server) as client:
            async for _ in await client.responses.create(model="m", input="hi", stream=True):
                pass
        assert (server.succeeded, server.counters.abandoned, server.open_streams) == (1, 0, 0)

    virtual_run(main())


def test_every_attempt_ends_in_exactly_one_way():
    async def one(client, number):
        # SDKs before 3 let the transport's own errors out of a stream.
        broken = [importlib.import_module(family).TransportError for family in FAMILIES]
        with contextlib.suppress(openai.APIError, TimeoutError, *broken):
            async with asyncio.timeout(1 + number % 5):
                stream = await client.chat.completions.create(model="m", messages=HI, stream=bool(number % 2))
                if number % 2:
                    async for _ in stream:
                        if number % 3 == 0:
                            await stream.close()
                            return

    async def main():
        async with sdk(server) as client:
            await asyncio.gather(*(one(client, number) for number in range(300)))

    faults = [Fault(kind, share=0.1) for kind in ("status", "disconnect", "hang", "stream_error", "stream_cut")]
    server = Simulator(rpm=200, latency=3.0, faults=faults, max_in_flight=250)
    virtual_run(main())
    seen = server.counters
    assert seen.attempts == 300
    assert seen.attempts == seen.succeeded + seen.refused + seen.failed + seen.abandoned
    assert min(seen.succeeded, seen.refused, seen.failed, seen.abandoned) > 0
    assert (seen.in_flight, seen.open_streams) == (0, 0)
    assert seen.peak_in_flight == 200
