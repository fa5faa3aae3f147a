"""The choices of `pool=`, and synchronous clients."""

import asyncio
import gc

import openai
import pytest

from pooled import limits, module_of, origin_pool_of, pooled, soon
from scripted import FAMILIES, families, say, throttled
from servers import Server, after, identity, real, says, trusting
from support import virtual
from throttled_openai import Throttle, ThrottledAsyncOpenAI
from throttled_openai._admission import file_limit as _file_limit
from throttled_openai._pool import PooledAsyncHttpxClient, http_client
from throttled_openai._pool import client as _client
from throttled_openai.simulator import Simulator, serve


def test_the_pool_is_chosen_by_name():
    ours = http_client("httpx", most_in_flight=10)
    assert isinstance(ours, PooledAsyncHttpxClient)
    assert type(http_client("sdk", most_in_flight=10)) is openai.DefaultAsyncHttpxClient
    with pytest.raises(ValueError, match="pool must be one of 'httpx', 'aiohttp', 'sdk', got 'urllib'"):
        http_client("urllib", most_in_flight=10)


def test_there_are_connections_for_all_calls_in_flight_and_some_more():
    for throttle in (Throttle(), Throttle(max_concurrency=10), Throttle(max_concurrency=20_000)):
        client = ThrottledAsyncOpenAI(api_key="k", throttle=throttle)
        assert client._client._transport._pool._max_connections == throttle._dispatcher.most_connections + 100
    # A copy keeps the connections, and may be allowed more calls in flight.
    assert Throttle(max_concurrency=10)._dispatcher.most_connections == Throttle()._dispatcher.ceiling


@pytest.mark.parametrize(("files", "most"), [(-1, 10_000), (100_000, 10_000), (1024, 824), (256, 128), (64, 32)])
def test_no_more_calls_are_in_flight_than_the_process_may_have_files(files, most, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert Throttle()._dispatcher.ceiling == most
    assert Throttle(max_concurrency=5)._dispatcher.ceiling == 5


@pytest.mark.parametrize(("files", "calls", "warned"), [(256, 300, True), (256, 100, False), (100_000, 300, False)])
def test_files_that_hold_calls_back_are_named_once(files, calls, warned, monkeypatch, caplog):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    _file_limit.warn_of_file_limit.cache_clear()
    simulator = Simulator(latency=1.0)
    most = 0

    @virtual
    async def main(model):
        nonlocal most
        client = throttled(simulator, rpm=6000)

        async def ask():
            nonlocal most
            await say(client, model=model)
            most = max(most, client.throttle.in_flight)

        await asyncio.gather(*(ask() for _ in range(calls)))

    main("gpt-4o")
    main("gpt-4o-mini")
    words = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    if warned:
        (warning,) = words
        assert all(part in warning for part in ("128 calls", "256 open files", "ulimit -n"))
        assert most <= 128
    else:
        assert not words


def test_a_ceiling_that_was_chosen_is_no_matter_of_files(monkeypatch, caplog):
    _file_limit.warn_of_file_limit.cache_clear()

    @virtual
    async def main():
        client = throttled(Simulator(latency=1.0), rpm=6000, max_concurrency=5)
        await asyncio.gather(*(say(client) for _ in range(30)))

    main()
    assert "ulimit" not in caplog.text


def test_a_missing_aiohttp_is_named(monkeypatch):
    def missing(**options):
        raise RuntimeError("install the aiohttp extra")

    monkeypatch.setattr(_client, "LoopedAioHttpClient", missing)
    monkeypatch.setattr(_client, "_limits", lambda *_: None)
    with pytest.raises(ImportError, match=r'pip install "throttled-openai\[aiohttp\]"'):
        ThrottledAsyncOpenAI(api_key="k", pool="aiohttp")


def test_aiohttp_serves_event_loops_in_turn_and_leaves_nothing_open():
    simulator = Simulator(rpm=6000, latency=0.01)
    client = None

    async def main():
        nonlocal client
        async with serve(simulator) as url:
            if client is None:
                client = ThrottledAsyncOpenAI(api_key="k", base_url=url, pool="aiohttp")
                assert isinstance(client._client, openai.DefaultAioHttpClient)
            client.base_url = url
            answers = await asyncio.gather(*(say(client) for _ in range(5)))
            stream = await say(client, stream=True)
            assert [chunk async for chunk in stream]
            assert len(answers) == 5

    for _ in range(3):
        asyncio.run(main())
    assert simulator.counters.connections == 0
    assert client.throttle.in_flight == 0


@real
async def test_an_aiohttp_client_that_is_dropped_closes_its_connections():
    async with Server() as server:
        client = http_client("aiohttp", most_in_flight=10)
        await client.get(server.url)
        assert server.open == 1
        del client
        gc.collect()
        await soon(lambda: server.open == 0)


@real
async def test_aiohttp_verifies_certificates(certificate):
    async with Server(tls=identity(certificate)) as server:
        async with http_client("aiohttp", most_in_flight=10, verify=trusting(certificate)) as client:
            assert (await client.get(server.url)).status_code == 200
        async with http_client("aiohttp", most_in_flight=10) as client:
            with pytest.raises(module_of(FAMILIES[-1]).TransportError):
                await client.get(server.url)


def test_the_client_has_our_pool_by_default():
    client = ThrottledAsyncOpenAI(api_key="k", base_url="http://here/v1", timeout=7)
    assert isinstance(client._client, PooledAsyncHttpxClient)
    stock = openai.AsyncOpenAI(api_key="k", base_url="http://here/v1", timeout=7)
    assert (client._client.base_url, client._client.timeout) == (stock._client.base_url, stock._client.timeout)
    assert type(ThrottledAsyncOpenAI(api_key="k", pool="sdk")._client) is type(stock._client)
    assert ThrottledAsyncOpenAI(api_key="k").timeout == openai.AsyncOpenAI(api_key="k").timeout


def test_a_clients_own_http_client_is_left_alone():
    mine = openai.DefaultAsyncHttpxClient(timeout=3)
    client = ThrottledAsyncOpenAI(api_key="k", base_url="http://here/v1", http_client=mine)
    assert client._client is mine
    assert (client.timeout, mine.base_url) == (mine.timeout, "")
    with pytest.raises(ValueError, match="http_client has its own connections: leave out it or pool='aiohttp'"):
        ThrottledAsyncOpenAI(api_key="k", http_client=mine, pool="aiohttp")


def test_an_unknown_pool_fails_in_the_constructor():
    with pytest.raises(ValueError, match="pool must be one of"):
        ThrottledAsyncOpenAI(api_key="k", pool="urllib")
    with pytest.raises(ValueError, match="pool must be one of"):
        ThrottledAsyncOpenAI(api_key="k").copy(pool="urllib")


def test_copies_share_the_connections_unless_given_others():
    client = ThrottledAsyncOpenAI(api_key="k")
    assert client.copy(rpm=5)._client is client._client
    other = client.copy(pool="sdk")
    assert type(other._client) is openai.DefaultAsyncHttpxClient
    assert other.throttle is client.throttle
    mine = openai.DefaultAsyncHttpxClient()
    assert client.copy(http_client=mine)._client is mine
    with pytest.raises(ValueError, match="http_client has its own connections"):
        client.copy(http_client=mine, pool="httpx")


CUT = b"HTTP/1.1 500 Cut\r\ncontent-length: 500\r\n\r\nonly so much"


async def cut(asked):
    asked.writer.write(CUT)


@families
@real
async def test_a_broken_body_gives_its_place_back_though_the_response_is_not_closed(family):
    async with Server(cut) as server, pooled(family, limits=limits(family, most=1), timeout=2) as client:
        for _ in range(3):
            response = await client.send(client.build_request("GET", server.url), stream=True)
            with pytest.raises(module_of(family).RemoteProtocolError):
                await response.aread()
        assert not origin_pool_of(client)._limit.locked()


@families
@real
async def test_a_response_that_is_dropped_half_read_gives_its_place_back(family):
    large = after(0.0, says(b"x" * 2_000_000))
    async with Server(large) as server, pooled(family, limits=limits(family, most=1), timeout=2) as client:
        for _ in range(3):
            response = await client.send(client.build_request("GET", server.url), stream=True)
            async for _ in response.aiter_raw(1000):
                break
            del response
            # Generators hold each other, and the loop closes them one by one.
            await soon(lambda: gc.collect() >= 0 and not origin_pool_of(client)._limit.locked())
