"""The backend's slots, and the queue before them."""

import asyncio
import json

import httpx
import pytest

from simulated import chat, clock, http_client, seen, steady
from throttled_openai.simulator import serve, virtual_run


async def arrivals(server, count, **more):
    """Send all at once; return when each came back."""

    async def one(client):
        await client.post("/chat/completions", json=chat(**more))
        return clock()

    async with http_client(server, timeout=None) as client:
        return await asyncio.gather(*(one(client) for _ in range(count)))


@pytest.mark.parametrize("stream", [False, True])
def test_slots_run_that_number_at_once_and_the_others_in_order(stream):
    server = steady(slots=2)
    assert virtual_run(arrivals(server, 6, stream=stream)) == pytest.approx([1, 1, 2, 2, 3, 3])
    assert (seen(server).succeeded, server.counters.queued, server.counters.peak_queued) == (6, 0, 4)
    assert (server.refused, server.peak_in_flight) == (0, 6)


def test_an_attempt_is_slowed_by_those_running_as_it_starts_and_alone_not_at_all():
    server = steady(slots=4, slowdown=1.0)
    assert virtual_run(arrivals(server, 1)) == [1.0]
    assert virtual_run(arrivals(server, 4)) == pytest.approx([1.0, 1.25, 1.5, 1.75])


def test_throughput_saturates_at_the_slots():
    def per_second(concurrency):
        async def worker(client):
            while clock() < 400:
                await client.post("/chat/completions", json=chat())

        async def main():
            async with http_client(server, timeout=None) as client:
                await asyncio.gather(*(worker(client) for _ in range(concurrency)))
            return server.succeeded / clock()

        server = steady(slots=8, slowdown=1.0)
        return virtual_run(main())

    rates = [per_second(concurrency) for concurrency in (1, 4, 8, 16, 64)]
    assert rates == pytest.approx([1, 4 / 1.375, 8 / 1.875, 8 / 1.875, 8 / 1.875], rel=0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot_or_its_place_in_the_queue(stream):
    async def main():
        async with http_client(server, timeout=None) as client:
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat(stream=stream))) for _ in range(4)]
            await asyncio.sleep(0.25)
            calls[2].cancel()
            await asyncio.sleep(0.25)
            assert (server.counters.queued, server.in_flight) == (2, 3)
            calls[0].cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (server.counters.queued, server.in_flight) == (1, 2)
            await calls[1]
            assert clock() == pytest.approx(1.5)
            await calls[3]
            return clock()

    server = steady(slots=1)
    assert virtual_run(main()) == pytest.approx(2.5)
    assert (seen(server).abandoned, server.succeeded, server.counters.peak_queued) == (2, 2, 3)


def test_a_client_queues_no_longer_than_its_read_timeout():
    async def main():
        async with http_client(server, timeout=2.5) as client:
            calls = [client.post("/chat/completions", json=chat()) for _ in range(4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Response", "Response", "ReadTimeout", "ReadTimeout"]
        return clock()

    server = steady(slots=1)
    assert virtual_run(main()) == 2.5
    assert (seen(server).abandoned, server.in_flight, server.counters.queued) == (2, 0, 0)


def test_more_slots_are_taken_at_once():
    async def main():
        calls = asyncio.create_task(arrivals(server, 5))
        await asyncio.sleep(0.5)
        server.change(slots=4)
        assert server.counters.queued == 1
        await asyncio.sleep(0.25)
        server.change(slots=None)
        return await calls

    server = steady(slots=1)
    assert virtual_run(main()) == pytest.approx([1.0, 1.5, 1.5, 1.5, 1.75])


def test_a_queued_attempt_has_no_processing_time_header():
    server = steady(slots=1)
    first, second = (
        server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 0.0) for _ in range(2)
    )
    assert dict(first.headers)["openai-processing-ms"] == "1000"
    assert "openai-processing-ms" not in dict(second.headers)


def test_over_tcp_attempts_queue_and_leave_the_queue_too():
    async def main():
        server = steady(slots=1, latency=0.1)
        async with serve(server) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            calls = [asyncio.create_task(client.post("/chat/completions", json=chat())) for _ in range(4)]
            while server.in_flight < 4:
                await asyncio.sleep(0.001)
            assert server.counters.queued == 3
            calls[0].cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(result, "status_code", 0) for result in results] == [0, 200, 200, 200]
        assert (seen(server).succeeded, server.counters.abandoned, server.counters.queued) == (3, 1, 0)

    asyncio.run(main())
