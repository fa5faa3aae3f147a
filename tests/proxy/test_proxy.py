"""The proxy, on real sockets: what passes, in which words, and what becomes of the permit."""

import asyncio
import gzip
import hashlib
import json
import os
import socket

import openai
import pytest

from proxied import CHAT_BODY, KEY, error_of, proxied, raw, until
from scripted import CHAT
from servers import Server, real, says
from throttled_openai import AdmissionTimeout, ThrottledAsyncOpenAI
from throttled_openai._clients.shared import shared
from throttled_openai._commands.proxy.upstream import Upstream, decodable, headers_of_response
from throttled_openai.simulator import Simulator, serve

EVENTS = [f'data: {{"n": {n}}}\n\n'.encode() for n in range(5)]
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}\n\n'
STREAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def streams(gate=None, pieces=(*EVENTS, USAGE), head=STREAMED, end=b"0\r\n\r\n"):
    """Answers with a stream; with a `gate` only the first piece until that is set."""

    async def answer(asked):
        asked.writer.write(head + chunk(pieces[0]))
        await asked.writer.drain()
        if gate is not None:
            await gate.wait()
        for piece in pieces[1:]:
            asked.writer.write(chunk(piece))
        return end or None

    return answer


def refuses(status=429, **headers):
    error = {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}
    return says({"error": error}, status, **headers)


# --- what passes ----------------------------------------------------------------------------------


@real
async def test_an_answer_passes_with_its_bytes_status_and_headers():
    async def answer(asked):
        return says(
            b'{"odd" :  [1,2 ]}\n', 418, x_request_id="req_1", alt_svc='h3=":443"', connection="x-hop", x_hop="1"
        )

    async with Server(answer) as server, proxied(server.url) as proxy:
        response = await proxy.chat()
        assert (response.status_code, response.content) == (418, b'{"odd" :  [1,2 ]}\n')
        assert response.headers["x-request-id"] == "req_1"
        assert not {"alt-svc", "x-hop", "date", "server"} & set(response.headers)


@real
async def test_a_request_passes_with_its_bytes_key_path_and_query_but_not_with_the_headers_of_its_connection():
    async with Server() as server, proxied(server.url) as proxy:
        body = b'{"model" : "gpt-4o",  "messages":[]}'
        headers = ["connection: close, x-mine", "x-mine: 1", "te: trailers", "expect: 100-continue", "x-other: 2"]
        path = "/v1/chat/completions?api-version=1&a=%2F"
        async with raw(proxy.port, body, path=path, headers=headers) as (reader, _):
            assert b"chatcmpl-1" in await reader.read()
        (asked,) = server.asked
        assert (asked.method, asked.target, asked.body) == ("POST", path, body)
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"
        assert asked.headers["x-other"] == "2"
        assert asked.headers["via"].startswith("1.1 throttled-openai-")
        assert not {"x-mine", "te", "expect", "connection", "user-agent"} & set(asked.headers)


@pytest.mark.parametrize(
    ("upstream", "path", "target"),
    [
        ("https://api.openai.com/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("https://api.openai.com/v1/", "/chat/completions", "/v1/chat/completions"),
        ("https://api.openai.com", "/v1/chat/completions", "/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "/v1/chat/completions", "/api/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "/api/v1/chat/completions", "/api/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "/v1beta/x", "/api/v1/v1beta/x"),
        ("https://x.azure.com/openai", "/openai/deployments/a%20b/embeddings", "/openai/deployments/a%20b/embeddings"),
        ("https://host/v1", "/v1", "/v1"),
        ("https://host", "/", "/"),
    ],
)
def test_callers_may_use_the_whole_path_of_the_upstream_or_its_end_or_none_of_it(upstream, path, target):
    httpx = pytest.importorskip("httpx")
    assert Upstream(upstream, httpx).url_of(path.encode(), b"a=1").raw_path == f"{target}?a=1".encode()


@pytest.mark.parametrize(
    "url", ["api.openai.com", "ftp://host/v1", "https://", "https://me:pw@host/v1", "https://h/?k=1"]
)
def test_an_upstream_that_is_no_address_is_told(url):
    with pytest.raises(ValueError, match="upstream must be"):
        Upstream(url, pytest.importorskip("httpx"))


@pytest.mark.parametrize(
    ("asked", "passed"),
    [("gzip, deflate, br, zstd", b"gzip"), ("br", b"identity"), ("gzip;q=0, br", b"identity"), ("gzip;q=0.5", b"gzip")],
)
def test_an_answer_with_usage_is_asked_for_in_an_encoding_that_can_be_read(asked, passed):
    assert decodable([(b"accept-encoding", asked.encode())]) == [(b"accept-encoding", passed)]


def test_headers_that_belong_to_one_connection_do_not_pass():
    headers = [(b"Connection", b"close, X-Mine"), (b"X-Mine", b"1"), (b"Transfer-Encoding", b"chunked"), (b"a", b"2")]
    assert headers_of_response(headers) == [(b"a", b"2")]


@real
async def test_a_stream_passes_byte_for_byte_and_each_event_at_once():
    gate = asyncio.Event()
    async with Server(streams(gate)) as server, proxied(server.url) as proxy:
        body = {**CHAT_BODY, "stream": True}
        async with proxy.http.stream("POST", "/chat/completions", json=body) as response:
            assert response.headers["content-type"] == "text/event-stream"
            received = response.aiter_raw()
            assert await anext(received) == EVENTS[0]  # while the server says no more
            assert proxy.stats.in_flight == 1
            gate.set()
            assert b"".join([piece async for piece in received]) == b"".join([*EVENTS[1:], USAGE])
        assert proxy.stats.in_flight == 0
        assert proxy.stats.budgets[0].tokens_used == 12
        await proxy.has_logged("tokens=12")


@pytest.mark.parametrize("pool", ["sdk", "aiohttp"])
@real
async def test_with_other_pools_it_passes_streams_and_frees_places_the_same(pool):
    gate = asyncio.Event()
    async with Server(streams(gate)) as server, proxied(server.url, pool=pool) as proxy:
        body = {**CHAT_BODY, "stream": True}
        async with raw(proxy.port, body) as (reader, _):
            await reader.readuntil(EVENTS[0])
        await until(lambda: proxy.stats.in_flight == 0)
        gate.set()
        response = await proxy.http.post("/chat/completions", json=body)
        assert response.content == b"".join([*EVENTS, USAGE])


@real
async def test_a_compressed_answer_passes_as_it_is_and_its_usage_counts():
    content = gzip.compress(json.dumps(CHAT).encode())

    async def answer(asked):
        assert asked.headers["accept-encoding"] == "gzip"
        return says(content, content_encoding="gzip")

    async with Server(answer) as server, proxied(server.url) as proxy:
        headers = ["accept-encoding: gzip, br", "connection: close"]
        async with raw(proxy.port, CHAT_BODY, headers=headers) as (reader, _):
            assert (await reader.read()).endswith(content)
        assert proxy.stats.budgets[0].tokens_used == CHAT["usage"]["total_tokens"]


@real
async def test_an_upload_of_10_mb_passes_as_a_stream_and_needs_no_admission():
    sent = os.urandom(10 * 1024 * 1024)

    async def answer(asked):
        return says(hashlib.sha256(asked.body).hexdigest().encode())

    async with Server(answer) as server, proxied(server.url, rpm=60) as proxy:
        for path, kind in (("/v1/files", "multipart/form-data; boundary=x"), ("/v1/audio/translations", "audio/mpeg")):
            headers = [f"content-type: {kind}", "connection: close"]
            async with raw(proxy.port, sent, path=path, headers=headers) as (reader, _):
                assert (await reader.read()).endswith(hashlib.sha256(sent).hexdigest().encode())
        assert proxy.stats.admitted == 1  # the second one runs a model


@real
async def test_an_upload_without_a_length_passes_in_chunks():
    async def answer(asked):
        assert asked.headers["transfer-encoding"] == "chunked"
        assert await asked.reader.readuntil(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
        return says()

    async with Server(answer) as server, proxied(server.url) as proxy:

        async def content():
            yield b"abc"

        response = await proxy.http.post("/files", content=content())
        assert response.status_code == 200


@real
async def test_get_and_head_pass_without_admission():
    async with Server() as server, proxied(server.url, rpm=1) as proxy:
        assert (await proxy.http.get("/models")).json() == CHAT
        assert [asked.method for asked in server.asked] == ["GET"]
        assert "content-length" not in server.asked[0].headers
        assert shared.stats()[0][1].budgets == ()


@real
async def test_the_model_of_a_form_is_that_of_its_field():
    async with Server() as server, proxied(server.url) as proxy:
        await proxy.http.post("/audio/transcriptions", data={"model": "whisper-1"}, files={"file": b"sound"})
        assert [budget.name for budget in proxy.stats.budgets] == ["whisper-1"]


# --- admission ------------------------------------------------------------------------------------


@real
async def test_two_keys_have_two_budgets():
    async with Server() as server, proxied(server.url, rpm=60, max_wait=0.2) as proxy:
        answers = await asyncio.gather(*(proxy.chat(key) for key in ("sk-one", "sk-one", "sk-two")))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
        figures = (await proxy.http.get(f"http://127.0.0.1:{proxy.port}/-/stats")).json()["accounts"]
        assert [account["budgets"][0]["succeeded"] for account in figures] == [1, 1]
        assert len({account["key"] for account in figures}) == 2
        assert "sk-" not in json.dumps(figures)


@real
async def test_a_client_of_the_sdk_with_the_same_key_draws_on_the_same_budget():
    async with Server() as server, proxied(server.url, rpm=60) as proxy:
        async with ThrottledAsyncOpenAI(api_key=KEY, base_url=server.url, rpm=60, max_wait=0.2) as client:
            await proxy.chat()
            with pytest.raises(AdmissionTimeout):
                await client.chat.completions.create(**CHAT_BODY)
        assert proxy.stats.admitted == 1


@real
async def test_a_refusal_never_reaches_the_caller():
    answered = 0

    async def answer(asked):
        nonlocal answered
        answered += 1
        return refuses(retry_after="0") if answered <= 2 else says()

    async with Server(answer) as server, proxied(server.url) as proxy:
        response = await proxy.chat()
        assert response.status_code == 200
        assert len(server.asked) == 3
        assert len({asked.body for asked in server.asked}) == 1
        await proxy.has_logged("refusals=2")


@real
async def test_a_refusal_that_is_given_up_passes_and_asks_the_sdk_not_to_try_again():
    async def answer(asked):
        return refuses()

    async with Server(answer) as server, proxied(server.url, max_refusals=1) as proxy:
        client = openai.AsyncOpenAI(api_key=KEY, base_url=proxy.url, max_retries=5)
        with pytest.raises(openai.RateLimitError, match="Rate limit reached"):
            await client.chat.completions.create(**CHAT_BODY)
        assert len(server.asked) == 2
        await client.close()


@real
async def test_a_server_with_limits_refuses_nothing_of_programs_of_many_kinds():
    simulator = Simulator(rpm=600, latency=0.02, announce=False)
    async with serve(simulator) as url, proxied(url, rpm=600) as proxy:
        stock = openai.AsyncOpenAI(api_key=KEY, base_url=proxy.url, max_retries=0)
        ours = ThrottledAsyncOpenAI(api_key=KEY, base_url=proxy.url, max_retries=0)
        calls = [client.chat.completions.create(**CHAT_BODY) for client in (stock, ours) for _ in range(6)]
        assert len(await asyncio.gather(*calls, *(proxy.chat() for _ in range(6)))) == 18
        assert (simulator.succeeded, simulator.refused) == (18, 0)
        await stock.close()
        await ours.close()


# --- answers of the proxy's own -------------------------------------------------------------------


@real
async def test_a_full_queue_says_when_to_come_back():
    async with Server() as server, proxied(server.url, rpm=60, max_queued=1) as proxy:
        await proxy.chat()
        waiting = asyncio.create_task(proxy.chat())
        await until(lambda: proxy.stats.waiting == 1)
        response = await proxy.chat()
        assert response.status_code == 429
        assert error_of(response)["code"] == "queue_full"
        assert error_of(response)["type"] == "rate_limit_error"
        assert int(response.headers["retry-after"]) >= 1
        assert "x-should-retry" not in response.headers
        assert (await waiting).status_code == 200


@real
async def test_a_call_that_has_waited_as_long_as_it_may_is_not_tried_again_by_the_sdk():
    async with Server() as server, proxied(server.url, rpm=1, max_wait=0.05) as proxy:
        client = openai.AsyncOpenAI(api_key=KEY, base_url=proxy.url, max_retries=5)
        await client.chat.completions.create(**CHAT_BODY)
        with pytest.raises(openai.RateLimitError, match="max_wait") as raised:
            await client.chat.completions.create(**CHAT_BODY)
        assert raised.value.code == "admission_timeout"
        assert sum("admission_timeout" in line for line in proxy.lines) == 1
        await client.close()


@real
async def test_a_request_that_no_limit_can_admit_is_a_bad_request():
    simulator = Simulator(tpm=1000, latency=0.0)
    async with serve(simulator) as url, proxied(url) as proxy:
        large = [{"role": "user", "content": "x" * 40_000}]
        await proxy.chat()
        await proxy.chat()  # a limit that was announced once may be a mistake
        response = await proxy.chat(messages=large)
        assert (response.status_code, error_of(response)["code"]) == (400, "request_too_large")
        assert error_of(response)["type"] == "invalid_request_error"
        assert simulator.attempts == 2


@real
async def test_an_account_that_is_not_paid_is_told_in_the_words_of_the_server():
    async def answer(asked):
        error = {"message": "You exceeded your current quota", "type": "insufficient_quota"}
        return says({"error": {**error, "code": "insufficient_quota"}}, 429)

    async with Server(answer) as server, proxied(server.url) as proxy:
        first, _, blocked = [await proxy.chat() for _ in range(3)]  # the second one tells whether it was only the first
        assert len(server.asked) == 2
        for response in (first, blocked):
            assert response.status_code == 429
            assert error_of(response)["code"] == "insufficient_quota"
        assert blocked.headers["x-should-retry"] == "false"
        assert int(blocked.headers["retry-after"]) >= 1


@real
async def test_a_server_that_is_gone_is_a_bad_gateway():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with proxied(f"http://127.0.0.1:{port}/v1") as proxy:
        response = await proxy.chat()
        assert (response.status_code, error_of(response)["code"]) == (502, "upstream_unreachable")
        assert f"http://127.0.0.1:{port}/v1" in error_of(response)["message"]
        assert proxy.stats.in_flight == 0


@real
async def test_a_server_that_hangs_up_is_a_bad_gateway():
    async def answer(asked):
        return None

    async with Server(answer) as server, proxied(server.url) as proxy:
        assert (await proxy.chat()).status_code == 502
        assert proxy.stats.in_flight == 0


@real
async def test_a_server_that_does_not_take_the_connection_in_time_is_a_gateway_timeout():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        taken = [socket.socket() for _ in range(4)]
        for each in taken:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        async with proxied(f"http://127.0.0.1:{port}/v1") as proxy:
            proxy.proxy._timeouts["connect"] = 0.1
            response = await proxy.chat()
            assert (response.status_code, error_of(response)["code"]) == (504, "upstream_timeout")
        for each in taken:
            each.close()


@real
async def test_a_stream_that_breaks_is_seen_to_break():
    gate = asyncio.Event()
    async with Server(streams(gate, end=None)) as server, proxied(server.url) as proxy:
        async with raw(proxy.port, {**CHAT_BODY, "stream": True}) as (reader, _):
            await reader.readuntil(EVENTS[0])
            gate.set()
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
        assert proxy.stats.in_flight == 0
        await proxy.has_logged("upstream_unreachable")


@real
async def test_a_proxy_before_itself_says_so():
    async with proxied("http://127.0.0.1:9/v1") as proxy:
        proxy.proxy.upstream._base = proxy.proxy.upstream._base.copy_with(port=proxy.port)
        response = await proxy.chat()
        assert (response.status_code, error_of(response)["code"]) == (508, "proxy_loop")


@real
async def test_what_no_proxy_of_an_api_can_do_is_told():
    async with proxied("http://127.0.0.1:9/v1") as proxy:
        response = await proxy.http.get("/realtime", headers={"connection": "upgrade", "upgrade": "websocket"})
        assert (response.status_code, error_of(response)["code"]) == (501, "no_websockets")
        response = await proxy.http.get(f"http://127.0.0.1:{proxy.port}/-/other")
        assert response.status_code == 404
        async with raw(proxy.port, b"", method="CONNECT", path="api.openai.com:443") as (reader, _):
            assert (await reader.readline()).split()[1] in {b"400", b"501"}  # httptools itself says 400


@real
async def test_a_call_that_waits_when_the_proxy_stops_is_told_at_once():
    async with Server() as server, proxied(server.url, rpm=1) as proxy:
        await proxy.chat()
        waiting = asyncio.create_task(proxy.chat())
        await until(lambda: proxy.stats.waiting == 1)
        proxy.proxy.stop()
        for response in (await waiting, await proxy.chat()):
            assert (response.status_code, error_of(response)["code"]) == (503, "proxy_stopping")
            assert response.headers["retry-after"] == "1"


# --- callers that hang up -------------------------------------------------------------------------


@real
async def test_a_caller_that_hangs_up_while_it_waits_leaves_the_queue():
    async with Server() as server, proxied(server.url, rpm=1) as proxy:
        await proxy.chat()
        async with raw(proxy.port, CHAT_BODY):
            await until(lambda: proxy.stats.waiting == 1)
        await until(lambda: proxy.stats.waiting == 0)
        await proxy.has_logged("499 POST /v1/chat/completions key=")
        assert "hung-up-during-its-wait" in proxy.lines[-1]
        assert len(server.asked) == 1


@real
async def test_a_caller_that_hangs_up_in_flight_frees_its_place_and_the_connection():
    async def answer(asked):
        await asyncio.Event().wait()

    async with Server(answer) as server, proxied(server.url, max_concurrency=1) as proxy:
        async with raw(proxy.port, CHAT_BODY):
            await until(lambda: server.asked)
            assert proxy.stats.in_flight == 1
        await until(lambda: proxy.stats.in_flight == 0)
        await proxy.has_logged("hung-up-during-its-flight")
        await until(lambda: server.open == 0)
        server.answer = None
        assert (await proxy.chat()).status_code == 200


@real
async def test_a_caller_that_hangs_up_in_a_stream_frees_its_place_and_the_connection():
    async with Server(streams(asyncio.Event())) as server, proxied(server.url, max_concurrency=1) as proxy:
        async with raw(proxy.port, {**CHAT_BODY, "stream": True}) as (reader, _):
            await reader.readuntil(EVENTS[0])
            assert proxy.stats.in_flight == 1
        await until(lambda: proxy.stats.in_flight == 0)
        await proxy.has_logged("hung-up-during-its-stream")
        await until(lambda: server.open == 0)


@real
async def test_a_caller_that_reads_too_slowly_and_hangs_up_frees_its_place():
    large = [b"x" * 1_000_000] * 40
    async with Server(streams(pieces=large)) as server, proxied(server.url) as proxy:
        async with raw(proxy.port, {**CHAT_BODY, "stream": True}) as (reader, writer):
            await reader.readexactly(1000)
            writer.transport.pause_reading()
            await asyncio.sleep(0.2)
            assert proxy.stats.in_flight == 1  # the server is not read faster than the caller reads
        await until(lambda: proxy.stats.in_flight == 0)
        await proxy.has_logged("hung-up-during-its-stream")


@real
async def test_a_caller_that_hangs_up_in_the_middle_of_its_request_is_forgotten():
    async with Server() as server, proxied(server.url) as proxy:
        for path in ("/v1/chat/completions", "/v1/files"):
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nab".encode())
            await writer.drain()
            await until(lambda: proxy.proxy.under_way)
            writer.transport.abort()
            await until(lambda: not proxy.proxy.under_way)
        assert all("499 POST" in line for line in proxy.lines)
        assert shared.stats() == [] or proxy.stats.in_flight == 0
        await until(lambda: server.open == 0)


# --- the log --------------------------------------------------------------------------------------


@real
async def test_the_log_has_no_prompt_key_or_query_and_no_line_that_a_caller_made_up():
    async with Server() as server, proxied(server.url, rpm=60, max_queued=1, max_wait=0.01) as proxy:
        await proxy.chat(messages=[{"role": "user", "content": "the prompt"}])
        await proxy.chat(model="m\n200 forged\x1b[2J")
        await proxy.http.post("/chat/completions?key=sk-in-the-query", json=CHAT_BODY)
        await proxy.http.get("/models/a%0Ab")
        said = "\n".join(proxy.lines)
        assert "the prompt" not in said
        assert "sk-" not in said
        assert "forged\x1b" not in said
        assert len(said.splitlines()) == 4
        assert proxy.lines[0].startswith("200 POST /v1/chat/completions gpt-4o key=")
