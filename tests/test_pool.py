"""The connection pool, before real servers on local ports."""

import asyncio
import contextlib
import functools
import gc
import gzip
import importlib
import json
import queue
import ssl
import threading
import tracemalloc

import openai
import pytest

from clients import CHAT, FAMILIES, HI, say, throttled, without_jitter
from servers import CERTIFICATE, Server, after, forward, identity, real, says, trusting
from support import virtual
from throttled_openai import Throttle, ThrottledAsyncOpenAI, ThrottledOpenAI, _throttle
from throttled_openai._pool import Pooled, PooledAsyncHttpxClient, SyncPooled, _client, _shelf, _stream, http_client
from throttled_openai._pool._stack import StackPool
from throttled_openai._pool._sync_stack import SyncStackPool
from throttled_openai.simulator import Simulator, serve

families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    return str(path)


def pooled(family=FAMILIES[-1], **options):
    base = importlib.import_module(family).AsyncClient
    return type("Client", (Pooled, base), {})(**options)


def module_of(family):
    return importlib.import_module(family)


def limits(family=FAMILIES[-1], *, most=None, kept=None, seconds=None):
    return module_of(family).Limits(max_connections=most, max_keepalive_connections=kept, keepalive_expiry=seconds)


def shelf_of(client):
    """The only shelf of a client on the running loop."""
    shelves, _ = client._transport._pool._shelves._loops[asyncio.get_running_loop()]
    (shelf,) = shelves._shelves.values()
    return shelf


async def soon(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


# Servers.


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
async def test_what_exceeds_the_connections_waits_in_order_of_arrival(family):
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
    monkeypatch.setattr(_shelf, "HANDSHAKES", 3)
    async with (
        Server(after(0.5), tls=identity(certificate), shakes_hands_for=0.03) as server,
        pooled(family, verify=trusting(certificate)) as client,
    ):
        await asyncio.gather(*(client.get(server.url) for _ in range(12)))
        assert server.connections == 12
        assert server.most_shaking == 3


@families
@real
async def test_waiting_for_ones_turn_to_connect_counts_for_no_timeout(family, certificate, monkeypatch):
    monkeypatch.setattr(_shelf, "HANDSHAKES", 1)
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
    monkeypatch.setattr(_shelf, "HANDSHAKES", 1)
    async with (
        Server(tls=identity(certificate), shakes_hands_for=0.1) as server,
        pooled(verify=trusting(certificate)) as client,
    ):
        await asyncio.gather(*(client.get(server.url) for _ in range(10)))
        assert server.connections < 5


@families
@real
async def test_calls_to_a_server_that_shakes_no_hands_fail_together(family, certificate, monkeypatch):
    monkeypatch.setattr(_shelf, "HANDSHAKES", 2)
    monkeypatch.setattr(_shelf, "HANDSHAKE", 0.05)
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


# The SDK's calls.


def sdk(server, **options):
    return openai.AsyncOpenAI(
        **{"api_key": "k", "base_url": server.url, "http_client": PooledAsyncHttpxClient(), "max_retries": 0, **options}
    )


def event(delta):
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": [{"index": 0, "delta": delta}]}).encode()


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def streams(*, pause):
    """One word, and `[DONE]` in two pieces; the stream ends a `pause` later."""

    async def answer(asked):
        pieces = (event({"content": "yes"}), b"data: [DO", b"NE]\n\n")
        asked.writer.write(HEAD + b"".join(map(chunk, pieces)))
        await asyncio.sleep(pause)
        return b"0\r\n\r\n"

    return answer


@pytest.mark.parametrize("pause", [0, 0.02])
@real
async def test_a_connection_is_reused_after_a_stream_on_every_sdk(pause):
    async with Server(streams(pause=pause)) as server, sdk(server) as client:
        for _ in range(5):
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            assert [part.choices[0].delta.content async for part in stream] == ["yes"]
        assert server.connections == 1


@real
async def test_the_throttled_client_reuses_connections_after_streams():
    simulator = Simulator(latency=0.02)
    async with serve(simulator) as url:
        async with ThrottledAsyncOpenAI(api_key="k", base_url=url, http_client=PooledAsyncHttpxClient()) as client:
            without_jitter(client)
            for _ in range(5):
                async with await say(client, stream=True) as stream:
                    assert [part async for part in stream]
        assert simulator.counters.connections_made == 1


@real
async def test_a_server_that_does_not_end_its_stream_after_done_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(_stream, "DRAIN", 0.05)
    async with Server(streams(pause=20)) as server, pooled() as client:
        async with client.stream("POST", server.url) as response:
            async for data in response.aiter_raw():
                if b"NE]" in data:
                    break
        await soon(lambda: server.open == 0, seconds=2)


@real
async def test_ten_thousand_tasks_share_the_connections_of_the_limit():
    simulator = Simulator(latency=0.01)
    async with serve(simulator) as url:
        client = ThrottledAsyncOpenAI(
            api_key="k", base_url=url, http_client=PooledAsyncHttpxClient(), max_concurrency=20, max_retries=0
        )
        async with client:
            answers = await asyncio.gather(*(say(without_jitter(client)) for _ in range(300)))
        assert len(answers) == 300
        assert simulator.counters.connections_made <= 20


# Nothing lost.


@families
@real
async def test_a_proxy_from_the_environment_is_used(family, monkeypatch):
    async with Server(forward) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{proxy.port}")
        async with pooled(family) as client:
            for _ in range(3):
                answer = await client.get("http://somewhere.invalid/v1")
                assert answer.json() == {"proxied": "http://somewhere.invalid/v1"}
        assert proxy.asked[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
        assert proxy.connections == 1


@families
@real
async def test_a_proxy_for_tls_is_a_tunnel(family, certificate, monkeypatch):
    async with Server(forward) as proxy, Server(tls=identity(certificate)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with pooled(family, verify=trusting(certificate)) as client:
            for _ in range(3):
                assert (await client.get(server.url)).json() == CHAT
        assert [asked.method for asked in proxy.asked] == ["CONNECT"]
        assert server.connections == 1


@families
@real
async def test_a_tunnel_counts_as_a_handshake_until_the_server_is_reached(family, certificate, monkeypatch):
    monkeypatch.setattr(_shelf, "HANDSHAKES", 2)
    async with (
        Server(forward) as proxy,
        Server(after(0.5), tls=identity(certificate), shakes_hands_for=0.05) as server,
        pooled(family, verify=trusting(certificate), proxy=f"http://127.0.0.1:{proxy.port}") as client,
    ):
        await asyncio.gather(*(client.get(server.url) for _ in range(6)))
        assert server.connections == 6
        assert server.most_shaking == 2


@families
@real
async def test_no_proxy_and_trust_env_are_kept(family, monkeypatch):
    async with Server(forward) as proxy, Server() as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with pooled(family, trust_env=False) as client:
            assert (await client.get(server.url)).json() == CHAT
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with pooled(family) as client:
            assert (await client.get(server.url)).json() == CHAT
        assert not proxy.asked


@families
@real
async def test_certificates_are_verified(family, certificate, monkeypatch):
    async with Server(tls=identity(certificate)) as server:
        async with pooled(family) as client:
            with pytest.raises(module_of(family).ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(server.url)
        async with pooled(family, verify=False) as client:
            assert (await client.get(server.url)).status_code == 200
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        async with pooled(family) as client:
            assert (await client.get(server.url)).status_code == 200


@families
@real
async def test_a_client_certificate_is_shown(family, certificate):
    async with Server(tls=identity(certificate, asks_clients=True)) as server:
        async with pooled(family, verify=trusting(certificate)) as client:
            with pytest.raises(module_of(family).TransportError):
                await client.get(server.url)
        with pytest.warns(DeprecationWarning, match="cert"):
            client = pooled(family, verify=trusting(certificate), cert=certificate)
        async with client:
            assert (await client.get(server.url)).status_code == 200


@families
@real
async def test_certificates_are_loaded_once_for_all_connections(family, certificate, monkeypatch):
    loaded = []
    load = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda *args, **kwargs: (loaded.append(1), load(*args, **kwargs))
    )
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    async with Server(after(0.1), tls=identity(certificate)) as server, pooled(family) as client:
        await asyncio.gather(*(client.get(server.url) for _ in range(10)))
        assert server.connections == 10
    assert len(loaded) == 1


@families
@real
async def test_hooks_cookies_redirects_and_compression_work(family):
    calls = []

    async def sent(request):
        calls.append(("sent", request.url.path))

    async def answered(response):
        calls.append(("answered", response.status_code))

    async def answer(asked):
        if asked.target == "/v1/old":
            return says(b"", 307, location="/v1/new", set_cookie="seen=1")
        return says(gzip.compress(json.dumps(asked.headers["cookie"]).encode()), content_encoding="gzip")

    async with (
        Server(answer) as server,
        pooled(family, event_hooks={"request": [sent], "response": [answered]}, follow_redirects=True) as client,
    ):
        response = await client.post(f"{server.url}/old", content=b"body")
        assert response.json() == "seen=1"
        assert [asked.body for asked in server.asked] == [b"body", b"body"]
        assert calls == [("sent", "/v1/old"), ("answered", 307), ("sent", "/v1/new"), ("answered", 200)]
        assert server.connections == 1


@families
@real
async def test_servers_do_not_share_connections(family):
    async with Server(after(0.05)) as one, Server(after(0.05)) as other, pooled(family) as client:
        await asyncio.gather(*(client.get(server.url) for server in (one, other) * 3))
        assert (one.connections, other.connections) == (3, 3)


@families
@real
async def test_timeouts_are_the_requests_own(family):
    module = module_of(family)
    async with Server(after(5)) as server, pooled(family) as client:
        with pytest.raises(module.ReadTimeout):
            await client.get(server.url, timeout=module.Timeout(5, read=0.1))
        await soon(lambda: server.open == 0)


@families
@real
async def test_nobody_there_is_a_connect_error(family):
    async with Server() as server:
        pass
    async with pooled(family) as client:
        with pytest.raises(module_of(family).ConnectError):
            await client.get(server.url)
        with pytest.raises(module_of(family).UnsupportedProtocol):
            await client.get("gopher://somewhere/")


ODD_HOSTS = ["a..b", ".b", "a" * 64, f"{'a' * 64}.b"]


@families
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ODD_HOSTS)
@real
async def test_a_host_that_cannot_be_one_is_a_connect_error(family, scheme, host):
    module = module_of(family)
    async with pooled(family) as client:
        with pytest.raises(module.ConnectError, match="label"):
            await client.get(f"{scheme}://{host}/")
    async with pooled(family, proxy=f"http://{host}") as client:
        with pytest.raises(module.ConnectError):
            await client.get(f"{scheme}://127.0.0.1:1/")
    sync = type("Client", (SyncPooled, module.Client), {})
    with sync() as client, pytest.raises(module.ConnectError, match="label"):
        client.get(f"{scheme}://{host}/")


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("made", [ThrottledAsyncOpenAI, ThrottledOpenAI])
@real
async def test_a_host_that_cannot_be_one_is_the_sdks_connection_error(made, host):
    client = made(api_key="k", base_url=f"http://{host}/v1", max_retries=0)
    call = client.chat.completions.create
    with pytest.raises(openai.APIConnectionError):
        await (
            call(model="m", messages=HI)
            if made is ThrottledAsyncOpenAI
            else asyncio.to_thread(call, model="m", messages=HI)
        )


@families
@real
async def test_a_port_that_cannot_be_one_is_a_connect_error(family):
    module = module_of(family)
    with contextlib.suppress(module.InvalidURL):  # where httpx says so itself
        async with pooled(family) as client:
            with pytest.raises(module.ConnectError):
                await client.get("http://127.0.0.1:99999/")


@families
@pytest.mark.parametrize(
    ("proxy", "kind"),
    [("http", "HTTPProxy"), ("https", "HTTPProxy"), ("socks5", "SOCKSProxy"), (None, "ConnectionPool")],
)
def test_a_pool_is_of_the_class_that_it_replaces(family, proxy, kind):
    """pytest-httpx asks it for the address of its proxy."""
    if proxy == "socks5":
        pytest.importorskip("socksio")
    core = importlib.import_module(family.replace("httpx", "httpcore"))
    options = {"proxy": f"{proxy}://user:word@127.0.0.1:1"} if proxy else {}
    sync = type("Client", (SyncPooled, module_of(family).Client), {})
    for client, name in ((pooled(family, **options), f"Async{kind}"), (sync(**options), kind)):
        (transport,) = {*client._mounts.values()} if proxy else {client._transport}
        assert isinstance(transport._pool, getattr(core, name))
        assert not proxy or transport._pool._proxy_url.port == 1
        assert type(transport._pool) in (StackPool, SyncStackPool)


@families
def test_transports_mounts_and_http2_are_left_to_httpx(family, monkeypatch):
    module = module_of(family)
    mine = module.AsyncHTTPTransport()
    client = pooled(family, transport=mine, mounts={"https://": mine})
    assert client._transport is mine
    assert list(client._mounts.values()) == [mine]
    monkeypatch.setitem(importlib.import_module("sys").modules, "h2", type(module)("h2"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = pooled(family, http2=True)
    assert isinstance(client._transport, module.AsyncHTTPTransport)
    assert {type(proxy) for proxy in client._mounts.values()} == {module.AsyncHTTPTransport}
    assert StackPool not in {type(transport._pool) for transport in [client._transport, *client._mounts.values()]}


@families
def test_every_way_out_of_a_client_is_pooled(family, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    client = pooled(family)
    transports = [client._transport, *client._mounts.values()]
    assert {type(transport) for transport in transports} == {module_of(family).AsyncHTTPTransport}
    assert {type(transport._pool) for transport in transports} == {StackPool}


@families
def test_the_sdk_accepts_the_client_and_keeps_its_own_defaults(family):
    client = openai.AsyncOpenAI(api_key="k", http_client=PooledAsyncHttpxClient())
    assert client.timeout == openai.AsyncOpenAI(api_key="k").timeout
    assert client._client.follow_redirects
    assert client.copy(timeout=3)._client is client._client
    assert isinstance(client._client, type(openai.AsyncOpenAI(api_key="k")._client).__mro__[1])


@real
async def test_a_prompt_of_a_megabyte_is_not_copied_while_it_waits():
    prompt = b"x" * 1_000_000
    async with Server(after(0.3)) as server, pooled(limits=limits(most=1)) as client:
        first = asyncio.create_task(client.get(server.url))
        await soon(lambda: server.asked)
        tracemalloc.start()
        calls = [asyncio.create_task(client.post(server.url, content=prompt)) for _ in range(10)]
        await asyncio.sleep(0.1)
        waiting, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for call in calls:
            call.cancel()
        await asyncio.gather(first, *calls, return_exceptions=True)
        assert waiting < 500_000


# Lives.


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
async def test_a_closed_client_has_no_connections_and_what_was_under_way_fails(family):
    async with Server(after(5)) as server:
        client = pooled(family)
        call = asyncio.create_task(client.get(server.url))
        await soon(lambda: server.asked)
        await client.aclose()
        with pytest.raises(module_of(family).TransportError):
            await call
        await soon(lambda: server.open == 0)


def test_a_client_may_be_closed_where_it_was_never_used():
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


# The choices.


def test_the_pool_is_chosen_by_name():
    ours = http_client("httpx", most_in_flight=10)
    assert isinstance(ours, PooledAsyncHttpxClient)
    assert type(http_client("sdk", most_in_flight=10)) is openai.DefaultAsyncHttpxClient
    with pytest.raises(ValueError, match="pool must be one of 'httpx', 'aiohttp', 'sdk', got 'urllib'"):
        http_client("urllib", most_in_flight=10)


def test_there_are_connections_for_all_calls_in_flight_and_some_more():
    for throttle in (Throttle(), Throttle(max_concurrency=10), Throttle(max_concurrency=20_000)):
        client = ThrottledAsyncOpenAI(api_key="k", throttle=throttle)
        assert client._client._transport._pool._max_connections == throttle.most_connections + 100
    # A copy keeps the connections, and may be allowed more calls in flight.
    assert Throttle(max_concurrency=10).most_connections == Throttle().most_in_flight


@pytest.mark.parametrize(("files", "most"), [(-1, 10_000), (100_000, 10_000), (1024, 824), (256, 128), (64, 32)])
def test_no_more_calls_are_in_flight_than_the_process_may_have_files(files, most, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert Throttle().most_in_flight == most
    assert Throttle(max_concurrency=5).most_in_flight == 5


@pytest.mark.parametrize(("files", "calls", "warned"), [(256, 300, True), (256, 100, False), (100_000, 300, False)])
def test_files_that_hold_calls_back_are_named_once(files, calls, warned, monkeypatch, caplog):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    _throttle._warn_of_files.cache_clear()
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
    _throttle._warn_of_files.cache_clear()

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


def test_the_client_has_our_pool_unless_told_otherwise():
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


def test_a_pool_nobody_knows_fails_in_the_constructor():
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
async def test_a_body_that_breaks_off_gives_its_place_back_though_nobody_closes_the_response(family):
    async with Server(cut) as server, pooled(family, limits=limits(family, most=1), timeout=2) as client:
        for _ in range(3):
            response = await client.send(client.build_request("GET", server.url), stream=True)
            with pytest.raises(module_of(family).RemoteProtocolError):
                await response.aread()
        assert not shelf_of(client)._room.locked()


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
            await soon(lambda: gc.collect() >= 0 and not shelf_of(client)._room.locked())
