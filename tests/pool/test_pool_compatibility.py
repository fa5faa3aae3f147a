"""The SDK and httpx on our pool behave as on httpcore's."""

import asyncio
import contextlib
import gzip
import importlib
import json
import ssl
import tracemalloc

import openai
import pytest

from pooled import chunk, limits, module_of, pooled, sdk, soon
from scripted import CHAT, HI, families, say, without_jitter
from servers import Server, after, forward, identity, real, says, trusting
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI
from throttled_openai._pool import PooledAsyncHttpxClient, SyncPooled
from throttled_openai._pool import origin_pool as _origin_pool
from throttled_openai._pool import response_body as _response_body
from throttled_openai._pool.stack import StackPool
from throttled_openai._pool.sync_stack import SyncStackPool
from throttled_openai.simulator import Simulator, serve


def event(delta):
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": [{"index": 0, "delta": delta}]}).encode()


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
    monkeypatch.setattr(_response_body, "DRAIN_SECONDS", 0.05)
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
    monkeypatch.setattr(_origin_pool, "MAX_HANDSHAKES", 2)
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
async def test_an_unreachable_server_is_a_connect_error(family):
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
async def test_an_invalid_host_is_a_connect_error(family, scheme, host):
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
async def test_an_invalid_host_is_the_sdks_connection_error(made, host):
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
async def test_an_invalid_port_is_a_connect_error(family):
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
