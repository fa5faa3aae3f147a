"""Connections of the pool: taken, kept, opened in turn, and replaced when they die."""

import asyncio

import openai
import pytest

from pooled import limits, module_of, pooled, sdk, soon
from scripted import FAMILIES, HI, families
from servers import Server, after, identity, real, says, trusting
from throttled_openai._pool import origin_pool as _origin_pool

# Connections.


@families
@real
async def test_calls_in_flight_have_a_connection_each_and_calls_in_turn_share_one(family):
    async with Server(after(0.1)) as server, pooled(family) as client:
        await asyncio.gather(*(client.get(server.url) for _ in range(20)))
        assert server.connections == 20
        for _ in range(5):
            await client.get(server.url)
        assert server.connections == 20
        assert len({asked.connection for asked in server.asked[20:]}) == 1


@real
async def test_idle_connections_are_closed_from_the_cold_end():
    async with Server(after(0.1)) as server, pooled(limits=limits(seconds=1.0)) as client:
        await asyncio.gather(*(client.get(server.url) for _ in range(6)))
        server.answer = None
        for _ in range(16):
            await client.get(server.url)
            await asyncio.sleep(0.1)
        await soon(lambda: server.open == 1)
        assert server.connections == 6


@real
async def test_a_connection_that_was_idle_too_long_is_not_used():
    async with Server() as server, pooled(limits=limits(seconds=0.1)) as client:
        await client.get(server.url)
        await asyncio.sleep(0.2)
        await client.get(server.url)
        assert [asked.connection for asked in server.asked] == [1, 2]
        await soon(lambda: server.open == 1)


@real
async def test_no_more_idle_connections_are_kept_than_allowed():
    async with Server(after(0.1)) as server, pooled(limits=limits(kept=2)) as client:
        await asyncio.gather(*(client.get(server.url) for _ in range(6)))
        await soon(lambda: server.open == 2)


@families
@pytest.mark.parametrize("kept", [{"seconds": 0}, {"kept": 0}])
@real
async def test_a_connection_that_is_not_to_be_kept_is_closed_at_once(family, kept):
    async with Server() as server, pooled(family, limits=limits(family, **kept)) as client:
        for nth in range(1, 4):
            await client.get(server.url)
            await soon(lambda: server.open == 0)
            assert server.connections == nth


@families
@real
async def test_requests_beyond_the_connections_wait_in_order_of_arrival(family):
    async with Server(after(0.02)) as server, pooled(family, limits=limits(family, most=2)) as client:
        await asyncio.gather(*(client.get(f"{server.url}/{number}") for number in range(10)))
        assert server.connections == 2
        numbers = [int(asked.target.rpartition("/")[2]) for asked in server.asked]
        assert all(abs(number - place) <= 1 for place, number in enumerate(numbers))


@families
@real
async def test_waiting_for_a_connection_ends_with_the_pool_timeout(family):
    module = module_of(family)
    async with Server(after(0.5)) as server, pooled(family, limits=limits(family, most=1)) as client:
        slow = asyncio.create_task(client.get(server.url))
        await soon(lambda: server.asked)
        with pytest.raises(module.PoolTimeout):
            await client.get(server.url, timeout=module.Timeout(5, pool=0.1))
        assert (await slow).status_code == 200
        assert (await client.get(server.url)).status_code == 200
        assert server.connections == 1


@real
async def test_a_call_cancelled_while_it_waits_or_works_leaves_its_place_to_others():
    async with Server(after(0.2)) as server, pooled(limits=limits(most=2)) as client:
        calls = [asyncio.create_task(client.get(server.url)) for _ in range(6)]
        await soon(lambda: len(server.asked) == 2)
        for call in calls[:4]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in done] == [True] * 4 + [False] * 2
        await asyncio.gather(*(client.get(server.url) for _ in range(4)))
        assert server.open == 2


@families
@real
async def test_a_thousand_connections_are_opened_a_few_at_a_time(family, certificate, monkeypatch):
    monkeypatch.setattr(_origin_pool, "MAX_HANDSHAKES", 3)
    async with (
        Server(after(0.5), tls=identity(certificate), shakes_hands_for=0.03) as server,
        pooled(family, verify=trusting(certificate)) as client,
    ):
        await asyncio.gather(*(client.get(server.url) for _ in range(12)))
        assert server.connections == 12
        assert server.most_shaking == 3


@families
@real
async def test_waiting_to_connect_counts_for_no_timeout(family, certificate, monkeypatch):
    monkeypatch.setattr(_origin_pool, "MAX_HANDSHAKES", 1)
    timeout = module_of(family).Timeout(30, connect=1.0)
    async with (
        Server(after(1.6), tls=identity(certificate), shakes_hands_for=0.2) as server,
        pooled(family, verify=trusting(certificate), timeout=timeout) as client,
    ):
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.get(server.url) for _ in range(7)))
        assert asyncio.get_running_loop().time() - began > 1.0
        assert server.most_shaking == 1


@real
async def test_a_call_that_waits_to_connect_takes_a_connection_that_came_back(certificate, monkeypatch):
    monkeypatch.setattr(_origin_pool, "MAX_HANDSHAKES", 1)
    async with (
        Server(tls=identity(certificate), shakes_hands_for=0.1) as server,
        pooled(verify=trusting(certificate)) as client,
    ):
        await asyncio.gather(*(client.get(server.url) for _ in range(10)))
        assert server.connections < 5


@families
@real
async def test_calls_to_a_server_that_shakes_no_hands_fail_together(family, certificate, monkeypatch):
    monkeypatch.setattr(_origin_pool, "MAX_HANDSHAKES", 2)
    monkeypatch.setattr(_origin_pool, "HANDSHAKE_SECONDS", 0.05)
    module = module_of(family)
    async with (
        Server(tls=identity(certificate), shakes_hands_for=60) as server,
        pooled(family, verify=trusting(certificate), timeout=1) as client,
    ):
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(*(client.get(server.url) for _ in range(6)), return_exceptions=True)
        assert {type(result) for result in results} == {module.ConnectTimeout}
        assert asyncio.get_running_loop().time() - began < 2.5  # one after the other: 3


@real
async def test_the_first_connection_of_a_burst_has_its_timeout_for_itself():
    timeout = module_of(FAMILIES[-1]).Timeout(30, connect=0.8)
    async with Server() as server, pooled(timeout=timeout) as client:

        async def call(number):
            if number:
                import time

                time.sleep(0.04)  # noqa: ASYNC251  # what the SDK does before it sends
            return await client.get(server.url)

        # 1.2 s before the first turn of the loop is over.
        results = await asyncio.gather(*(call(number) for number in range(30)))
        assert {result.status_code for result in results} == {200}


# Connections that died.


@families
@pytest.mark.parametrize("tls", [False, True])
@real
async def test_a_connection_the_server_has_closed_is_not_used(family, tls, certificate):
    async def once(asked):
        asked.writer.write(says())

    server = Server(once, tls=identity(certificate) if tls else None)
    async with server, pooled(family, verify=trusting(certificate)) as client:
        for _ in range(3):
            await client.post(server.url, json=1)
            await soon(lambda: server.open == 0)
        assert [asked.nth for asked in server.asked] == [1, 1, 1]


async def closes_the_second_time(asked):
    return says() if asked.nth == 1 else None


@families
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("proxied", [False, True])
@real
async def test_a_request_that_a_server_read_before_it_hung_up_is_not_sent_again(family, method, proxied):
    async with Server(closes_the_second_time) as server:
        proxy = {"proxy": f"http://127.0.0.1:{server.port}"} if proxied else {}
        stock = module_of(family).AsyncClient(trust_env=False, **proxy)
        for client in (stock, pooled(family, trust_env=False, **proxy)):
            server.asked.clear()
            async with client:
                await client.request(method, server.url, content=b"1")
                with pytest.raises(module_of(family).RemoteProtocolError, match="without sending a response"):
                    await client.request(method, server.url, content=b"2")
            assert [asked.body for asked in server.asked] == [b"1", b"2"]


@real
async def test_a_call_without_retries_is_executed_once():
    async with Server(closes_the_second_time) as server, sdk(server) as client:
        await client.chat.completions.create(model="m", messages=HI)
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="m", messages=HI)
        assert len(server.asked) == 2


@real
async def test_a_head_does_not_wait_for_a_body_that_is_not_ready():
    async def pieces():
        await soon(lambda: server.heads == 2)
        yield b"1"

    async with Server() as server, pooled() as client:
        await client.get(server.url)
        answer = await client.post(server.url, content=pieces(), headers={"content-length": "1"})
        assert answer.status_code == 200


@real
async def test_a_response_that_was_not_read_to_its_end_costs_its_connection_only():
    async def endless(asked):
        if asked.target.endswith("short"):
            return says()
        asked.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            asked.writer.write(b"4\r\nmore\r\n")
            await asyncio.sleep(0.01)

    async with Server(endless) as server, pooled() as client:
        async with client.stream("GET", server.url) as response:
            async for _ in response.aiter_raw():
                break
        await soon(lambda: server.open == 0)
        assert (await client.get(f"{server.url}/short")).status_code == 200
        assert (await client.get(f"{server.url}/short")).status_code == 200
        assert server.connections == 2
