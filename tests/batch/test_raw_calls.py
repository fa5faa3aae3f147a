"""Raw calls over real sockets: bytes in, bytes out, by the same rules as the SDK's."""

import asyncio
import contextlib
import gzip
import json

import openai
import pytest

from scripted import CHAT
from servers import Server, forward, real, says
from throttled_openai import PooledAsyncHttpxClient, Throttle, ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from throttled_openai._clients.raw import RawCalls

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
CONTENT = b'{ "model":"gpt-4o", "messages": [{"role":"user","content":"hi"}] }'
REFUSAL = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}


def answers(*replies):
    """Gives these answers in turn, and the last one from then on."""
    left = list(replies)

    async def answer(asked):
        del asked
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


@contextlib.asynccontextmanager
async def calls_to(answer=None, *, retries=2, **options):
    async with Server(answer) as server, ThrottledAsyncOpenAI(api_key="sk-x", base_url=server.url, **options) as client:
        client.throttle._dispatcher.random = lambda: 0.0
        yield server, RawCalls(client, retries=retries)
        await asyncio.sleep(0)
        assert client.throttle.in_flight == 0, "a permit was lost"


def through(proxy):
    return calls_to(http_client=PooledAsyncHttpxClient(proxy=proxy.url.removesuffix("/v1")))


@real
async def test_a_body_arrives_as_it_was_written_with_the_clients_headers():
    async with calls_to(default_headers={"x-title": "tests"}) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
    asked = server.asked[0]
    assert (asked.method, asked.target, asked.body) == ("POST", "/v1/chat/completions", CONTENT)
    assert asked.headers["authorization"] == "Bearer sk-x"
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["x-title"] == "tests"
    assert answer.status == 200
    assert json.loads(answer.content) == answer.data == CHAT
    assert answer.usage == (8, 1, 0)


@real
async def test_many_calls_share_connections():
    async with calls_to() as (server, calls):
        for _ in range(20):
            await calls.post("/chat/completions", CONTENT, BODY)
    assert server.connections == 1


@real
async def test_a_refusal_is_sent_again_in_its_place():
    refusal = says(REFUSAL, 429, retry_after_ms="20")
    async with calls_to(answers(refusal, refusal, says())) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
        assert calls.throttle.stats().refused == 2
    assert answer.status == 200
    assert [asked.body for asked in server.asked] == [CONTENT] * 3


@real
async def test_an_error_of_the_server_is_tried_again_and_then_the_answer():
    error = says({"error": {"message": "boom"}}, 500, retry_after_ms="1")
    async with calls_to(answers(error, error, says())) as (server, calls):
        assert (await calls.post("/chat/completions", CONTENT, BODY)).status == 200
    async with calls_to(answers(error)) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
    assert (answer.status, len(server.asked)) == (500, 3)
    assert answer.data == {"error": {"message": "boom"}}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@real
async def test_an_answer_about_the_request_is_not_tried_again(status):
    async with calls_to(answers(says({"error": {"message": "no"}}, status))) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
    assert (answer.status, len(server.asked)) == (status, 1)


@real
async def test_a_server_that_says_not_to_is_not_asked_again():
    async with calls_to(answers(says({}, 500, x_should_retry="false"))) as (server, calls):
        assert (await calls.post("/chat/completions", CONTENT, BODY)).status == 500
    assert len(server.asked) == 1


@real
async def test_a_connection_that_breaks_is_the_sdks_error():
    async with calls_to(answers(None), retries=0) as (_, calls):
        with pytest.raises(openai.APIConnectionError):
            await calls.post("/chat/completions", CONTENT, BODY)


@real
async def test_a_server_that_is_gone_is_the_sdks_error():
    async with calls_to(retries=0) as (server, calls):
        server._server.close()
        await server._server.wait_closed()
        with pytest.raises(openai.APIConnectionError):
            await calls.post("/chat/completions", CONTENT, BODY)


@real
async def test_an_outage_is_sat_out_for_as_long_as_asked():
    gone = says({"error": {"message": "bad gateway"}}, 502, retry_after_ms="10")
    async with calls_to(answers(*[gone] * 8, says()), retries=1) as (server, calls):
        assert (await calls.post("/chat/completions", CONTENT, BODY)).status == 502
        assert len(server.asked) == 2
        calls.patience = 20.0
        assert (await calls.post("/chat/completions", CONTENT, BODY)).status == 200


@real
async def test_a_server_that_does_not_answer_in_time_is_a_timeout():
    async def never(asked):
        await asyncio.sleep(20)

    async with calls_to(never, retries=0, timeout=0.1) as (_, calls):
        with pytest.raises(openai.APITimeoutError):
            await calls.post("/chat/completions", CONTENT, BODY)


@real
async def test_compressed_answers():
    packed = says(gzip.compress(json.dumps(CHAT).encode()), content_encoding="gzip")
    async with calls_to(answers(packed)) as (server, calls):
        assert (await calls.post("/chat/completions", CONTENT, BODY)).data == CHAT
    assert server.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "reply",
    [
        says(b"<html>"),
        says(b""),
        says(b"\xff\xfe"),
        says(b"[" * 100_000),
        says(b"9" * 5000),
        says(b'{"usage": {"prompt_tokens": "many", "total_tokens": -1}}'),
        says(b'{"usage": [1]}', x_ratelimit_limit_requests="-3", x_ratelimit_limit_tokens="1e99"),
        says({}, 204),
        says(b"broken", content_encoding="gzip"),
        says(b"broken", content_encoding="nonsense"),
        says({}, 302, location="/elsewhere"),
        says({"error": 3}, 429, retry_after_ms="1"),
        says(b"\0", 503),
    ],
)
@real
async def test_an_odd_answer_costs_one_call_and_no_permit(reply):
    async with calls_to(answers(reply), retries=0, max_refusals=1) as (_, calls):
        with contextlib.suppress(openai.OpenAIError, Exception):
            await asyncio.wait_for(calls.post("/chat/completions", CONTENT, BODY), 10)


@real
async def test_a_call_that_is_cancelled_gives_its_place_back():
    async def late(asked):
        await asyncio.sleep(20)

    async with calls_to(late) as (_, calls):
        task = asyncio.ensure_future(calls.post("/chat/completions", CONTENT, BODY))
        while not calls.throttle.in_flight:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@real
async def test_a_new_key_is_used_from_the_next_call_on():
    async with calls_to() as (server, calls):
        await calls.post("/chat/completions", CONTENT, BODY)
        calls.client.api_key = "sk-new"
        await calls.post("/chat/completions", CONTENT, BODY)
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer sk-x", "Bearer sk-new"]


@real
async def test_a_key_that_is_asked_for_goes_through_the_sdk():
    async def key():
        return "sk-fresh"

    async with Server() as server, ThrottledAsyncOpenAI(api_key=key, base_url=server.url) as client:
        answer = await RawCalls(client).post("/chat/completions", CONTENT, BODY)
    assert server.asked[0].headers["authorization"] == "Bearer sk-fresh"
    assert answer.data == CHAT
    assert answer.usage == (8, 1, 0)


@real
async def test_what_traces_the_http_client_sees_each_call():
    seen = []

    async def hook(request):
        seen.append(request.url.path)

    async with calls_to() as (_, calls):
        calls.client._client.event_hooks["request"].append(hook)
        await calls.post("/chat/completions", CONTENT, BODY)
    assert seen == ["/v1/chat/completions"]


@real
async def test_a_proxy_is_gone_through():
    async with Server(forward) as proxy, through(proxy) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
    assert answer.data == {"proxied": f"{server.url}/chat/completions"}


@real
async def test_another_address_is_gone_to():
    moved = says({}, 307, location="/v1/moved")
    async with calls_to(answers(moved, moved, says())) as (server, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
    assert answer.data == CHAT
    assert server.asked[-1].target == "/v1/moved"


@real
async def test_a_throttle_that_decides_in_another_thread():
    async with calls_to(throttle=Throttle(threads=True)) as (_, calls):
        answer = await calls.post("/chat/completions", CONTENT, BODY)
        assert (answer.data, answer.usage) == (CHAT, (8, 1, 0))
        while calls.throttle.in_flight:
            await asyncio.sleep(0.01)


@real
async def test_deployments_of_azure():
    async with Server() as server:
        options = {"api_key": "k", "azure_endpoint": server.url.removesuffix("/v1"), "api_version": "2025-01-01"}
        async with ThrottledAsyncAzureOpenAI(**options) as client:
            await RawCalls(client).post("/chat/completions", CONTENT, {**BODY, "model": "mine"})
    assert server.asked[0].target == "/openai/deployments/mine/chat/completions?api-version=2025-01-01"
    assert server.asked[0].headers["api-key"] == "k"


@real
async def test_waiting_ends_for_some_tasks_only():
    async with calls_to(rpm=1) as (_, calls):
        await calls.post("/chat/completions", CONTENT, BODY)
        mine, other = (asyncio.ensure_future(calls.post("/chat/completions", CONTENT, BODY)) for _ in range(2))
        while calls.throttle.waiting < 2:
            await asyncio.sleep(0.01)
        calls.end_waits({mine})
        with pytest.raises(openai.APIConnectionError, match="the client was closed"):
            await mine
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
