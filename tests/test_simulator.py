"""The simulator counts, refuses and breaks as the recorded servers do."""

import argparse
import ast
import asyncio
import contextlib
import importlib
import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import asdict, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from throttled_openai import simulator as package
from throttled_openai.simulator import (
    Fault,
    Settings,
    Simulator,
    VirtualTimeLoop,
    serve,
    spawn,
    virtual_run,
)
from throttled_openai.simulator._bucket import Bucket
from throttled_openai.simulator._cli import add_arguments, arguments_of
from throttled_openai.simulator._headers import go_duration
from throttled_openai.simulator._http1 import MalformedRequestError, RequestReader
from throttled_openai.simulator._quota import Quota
from throttled_openai.simulator._request import parse
from throttled_openai.simulator._settings import Options

FAMILIES = ["httpx", *(["httpx2"] if find_spec("httpx2") else [])]
HI = [{"role": "user", "content": "hi"}]


def http_client(simulator, family=FAMILIES[-1], **options):
    transport = simulator.transport() if family == "httpx" else simulator.transport2()
    options = {"base_url": "http://simulator/v1", **options}
    return importlib.import_module(family).AsyncClient(transport=transport, **options)


def sdk(simulator, **options):
    return AsyncOpenAI(
        api_key="x",
        base_url="http://simulator/v1",
        http_client=http_client(simulator),
        max_retries=0,
        **options,
    )


def steady(**options):
    """Every answer takes exactly one second."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def chat(tokens, model="gpt-4o", **more):
    """A chat body that costs `tokens`: one message and 2 go on top of a quarter of its bytes."""
    return {"model": model, "messages": [{"role": "user", "content": "a" * 4 * (tokens - 3)}], **more}


def post(simulator, body, *, now=0.0, endpoint="chat/completions", headers=None):
    """Ask without a carrier, and end the answer at once."""
    reply = simulator.receive("POST", f"/v1/{endpoint}", headers or {}, json.dumps(body).encode(), now)
    simulator.finish(reply, delivered=True)
    return reply


def message_of(reply):
    return json.loads(reply.pieces[0])["error"]["message"]


def headers_of(reply):
    return {name: value for name, value in reply.headers if name.startswith(("x-ratelimit", "retry-after"))}


def cost(endpoint, **body):
    return parse(endpoint, json.dumps({"model": "m", **body}, ensure_ascii=False).encode()).cost


async def until(condition, *, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


# Arithmetic, against recorded responses.


def test_the_recorded_token_429_of_july_2025_comes_out_to_the_letter():
    server = Simulator(rpm=500, tpm=30_000, charge_refused_requests=True)
    server.drain("gpt-4o", tokens=29_446, now=0.0)

    reply = post(server, chat(821))

    assert reply.status == 429
    assert headers_of(reply) == {
        "retry-after": "1",
        "retry-after-ms": "534",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-remaining-tokens": "554",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-reset-tokens": "58.892s",
    }
    assert json.loads(reply.pieces[0]) == {
        "error": {
            "message": "Rate limit reached for gpt-4o in organization org-simulator on tokens per min (TPM): "
            "Limit 30000, Used 29446, Requested 821. Please try again in 534ms. "
            "Visit https://platform.openai.com/account/rate-limits to learn more.",
            "type": "tokens",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


@pytest.mark.parametrize(
    ("limit", "used", "requested", "again"),
    [(30_000, 29_446, 821, "534ms"), (10_000, 8554, 3082, "9.816s"), (10_000, 8782, 8172, "41.724s")],
)
def test_the_wait_for_tokens_is_what_is_missing_over_the_refill(limit, used, requested, again):
    server = Simulator(tpm=limit)
    server.drain("gpt-4o", tokens=used, now=0.0)

    assert f"Please try again in {again}." in message_of(post(server, chat(requested)))


def test_the_wait_for_a_request_at_three_a_minute_is_twenty_seconds():
    server = Simulator(rpm=3)
    statuses = [post(server, chat(10)).status for _ in range(3)]
    refused = post(server, chat(10))

    assert statuses == [200, 200, 200]
    assert "requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s." in message_of(refused)
    assert json.loads(refused.pieces[0])["error"]["type"] == "requests"
    assert post(server, chat(10), now=19.999).status == 429
    assert post(server, chat(10), now=20.0).status == 200


@pytest.mark.parametrize("rate", [7, 500, 999, 3500])
def test_who_waits_exactly_as_told_is_admitted(rate):
    server = Simulator(rpm=rate)
    for _ in range(rate):
        post(server, chat(10))

    now = 0.0
    for _ in range(20):
        refused = post(server, chat(10), now=now)
        assert refused.status == 429
        now += int(headers_of(refused)["retry-after-ms"]) / 1000
        assert post(server, chat(10), now=now).status == 200


def test_a_success_announces_the_buckets_as_they_are_after_it():
    server = Simulator(rpm=30_000, tpm=150_000_000)
    assert headers_of(post(server, chat(21))) == {
        "x-ratelimit-limit-requests": "30000",
        "x-ratelimit-remaining-requests": "29999",
        "x-ratelimit-reset-requests": "2ms",
        "x-ratelimit-limit-tokens": "150000000",
        "x-ratelimit-remaining-tokens": "149999979",
        "x-ratelimit-reset-tokens": "0s",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "0s"),
        (0.002, "2ms"),
        (0.12, "120ms"),
        (0.9996, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (9.816, "9.816s"),
        (20, "20s"),
        (58.891, "58.891s"),
        (60, "1m0s"),
        (86.4, "1m26.4s"),
        (432, "7m12s"),
        (1728, "28m48s"),
        (3600, "1h0m0s"),
        (299_439.057, "83h10m39.057s"),
        (410_400, "114h0m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds, text):
    assert go_duration(seconds) == text


def test_a_request_larger_than_the_minute_is_too_large_for_ever():
    reply = post(Simulator(tpm=30_000), chat(40_000))
    assert reply.status == 429
    assert message_of(reply) == (
        "Request too large for gpt-4o in organization org-simulator on tokens per min (TPM): "
        "Limit 30000, Requested 40000. The input or output tokens must be reduced in order to run "
        "successfully. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    assert "retry-after" not in headers_of(reply)
    assert headers_of(reply)["x-ratelimit-remaining-tokens"] == "30000"


def test_a_request_as_large_as_the_minute_is_admitted_by_a_full_bucket():
    assert post(Simulator(tpm=30_000), chat(30_000)).status == 200


def test_a_refusal_takes_nothing_unless_it_is_told_to_take_requests():
    for charged, remaining in ((False, "499"), (True, "498")):
        server = Simulator(rpm=500, tpm=1000, charge_refused_requests=charged)
        post(server, chat(1000))
        assert headers_of(post(server, chat(500)))["x-ratelimit-remaining-requests"] == remaining


def test_a_client_that_hammers_a_server_that_charges_refusals_never_gets_in():
    server = Simulator(rpm=60, charge_refused_requests=True)
    for _ in range(60):
        post(server, chat(10))
    statuses = {post(server, chat(10), now=step * 0.9).status for step in range(1, 50)}
    assert statuses == {429}
    assert post(server, chat(10), now=46.0).status == 200


def test_the_hidden_bucket_refuses_a_burst_that_the_headers_would_allow():
    server = Simulator(rpm=600, burst=1.0)
    statuses = [post(server, chat(10)).status for _ in range(11)]
    refused = post(server, chat(10))

    assert statuses == [200] * 10 + [429]
    assert headers_of(refused)["x-ratelimit-remaining-requests"] == "590"
    assert headers_of(refused)["retry-after-ms"] == "100"
    assert post(server, chat(10), now=0.1).status == 200


def test_a_request_larger_than_the_hidden_bucket_is_admitted_by_a_full_one_and_leaves_debt():
    server = Simulator(tpm=6000, burst=1.0)  # 100 tokens a second, 100 at once
    assert post(server, chat(300)).status == 200

    refused = post(server, chat(50))
    assert headers_of(refused)["retry-after-ms"] == "2500"
    assert post(server, chat(300), now=2.5).status == 429
    assert post(server, chat(300), now=3.0).status == 200


def test_each_model_has_its_own_buckets():
    server = Simulator(rpm=1)
    assert post(server, chat(10, model="a")).status == 200
    assert post(server, chat(10, model="a")).status == 429
    assert post(server, chat(10, model="b")).status == 200


def test_buckets_may_start_empty():
    server = Simulator(rpm=60, initial_level=0.0)
    assert post(server, chat(10), now=5.0).status == 429
    assert post(server, chat(10), now=6.0).status == 200


def test_a_limit_changes_while_running_and_the_level_stays():
    server = Simulator(rpm=100)
    for _ in range(40):
        post(server, chat(10))

    server.change(rpm=200, now=0.0)
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "59"
    server.change(rpm=10, now=0.0)
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "9"
    server.change(rpm=None, tpm=1000, now=0.0)
    assert headers_of(post(server, chat(10))).keys() == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    }


def test_a_burst_changes_while_running():
    server = Simulator(rpm=600)
    server.change(burst=1.0, now=0.0)
    assert [post(server, chat(10)).status for _ in range(11)] == [200] * 10 + [429]
    server.change(burst=0.5, now=0.0)
    assert headers_of(post(server, chat(10)))["retry-after-ms"] == "100"
    server.change(burst=60.0, now=0.0)
    assert [post(server, chat(10)).status for _ in range(591)] == [200] * 590 + [429]


def test_a_neighbour_takes_what_is_there_and_leaves_no_debt():
    server = Simulator(rpm=60, tpm=6000)
    server.drain("gpt-4o", requests=100, tokens=1000, now=0.0)
    assert server.stats(0.0)["models"] == {"gpt-4o": {"requests": 0, "tokens": 5000}}
    assert post(server, chat(10), now=1.0).status == 200


def test_a_clock_that_starts_again_refills_nothing():
    bucket = Bucket(rate=1, capacity=10, level=0, now=100.0)
    assert bucket.level(0.0) == 0
    assert bucket.level(3.0) == 3


def test_no_window_admits_more_than_the_limit_and_its_refill():
    quota, spent = Quota(60, Settings(rpm=60, burst=5.0), 0.0), []
    for step in range(2000):
        now = step * 0.05
        if not quota.wait(1, now):
            quota.take(1, now)
            spent.append(now)
    for start in spent:
        assert sum(start <= at < start + 60 for at in spent) <= 60 + 60
        assert sum(start <= at < start + 1 for at in spent) <= 5 + 1


# What a request costs.


@pytest.mark.parametrize(
    ("size", "messages", "recorded"), [(89, 2, 26), (40, 1, 13), (7242, 2, 1814), (241, 2, 64), (6441, 2, 1614)]
)
def test_a_chat_costs_what_was_recorded(size, messages, recorded):
    contents = ["a" * (size - messages + 1), *("b" for _ in range(messages - 1))]
    assert cost("chat/completions", messages=[{"role": "user", "content": c} for c in contents]) == recorded


def test_text_is_counted_in_bytes_and_max_tokens_not_at_all():
    assert cost("chat/completions", messages=[{"role": "user", "content": "日本語です。東"}], max_tokens=999) == 5 + 3


def test_parts_are_counted_and_each_image_costs_765():
    url = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10_000}}
    parts = [{"type": "text", "text": "a" * 40}, url]
    assert cost("chat/completions", messages=[{"role": "user", "content": parts}]) == 10 + 3 + 765


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat/completions", {"messages": HI, "n": 3}, 0 + 3 + 2),
        ("completions", {"prompt": "abcde"}, 2),
        ("completions", {"prompt": ["abcd", "e"]}, 2),
        ("embeddings", {"input": ["abcd"] * 10 + ["a"]}, 10),
        ("embeddings", {"input": [1, 2, 3]}, 3),
        ("embeddings", {"input": [[1, 2, 3], [4]]}, 4),
        ("moderations", {"input": "a" * 40}, 10),
        ("responses", {"input": "a" * 40}, 10 + 19),
        ("responses", {"input": [{"role": "user", "content": "a" * 40}], "instructions": "abcd"}, 11 + 19),
        ("responses", {"input": "a" * 40, "tools": [{"type": "web_search"}]}, 10 + 19),
        ("responses", {"input": "a" * 40, "tools": [{"type": "function", "name": "f"}]}, 10 + 217),
    ],
)
def test_each_endpoint_has_its_own_arithmetic(endpoint, body, expected):
    assert cost(endpoint, **body) == expected


# What it says, and does not say.


def test_it_can_keep_its_limits_to_itself():
    server = Simulator(rpm=60, announce=False)
    for _ in range(60):
        assert headers_of(post(server, chat(10))) == {}
    assert headers_of(post(server, chat(10))) == {"retry-after": "1", "retry-after-ms": "1000"}


def test_it_can_refuse_without_saying_when_to_come_back():
    server = Simulator(rpm=1, retry_after=False)
    post(server, chat(10))
    refused = post(server, chat(10))
    assert "retry-after" not in headers_of(refused)
    assert "try again" not in message_of(refused)


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (429, "Too many concurrent requests", "concurrency_limit_exceeded"),
        (503, "The engine is currently overloaded, please try again later", None),
    ],
)
def test_beyond_its_capacity_it_refuses_without_numbers(status, words, code):
    server = Simulator(rpm=100, max_in_flight=1, overload_status=status)
    first = server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat(10)).encode(), 0.0)
    refused = post(server, chat(10))
    server.finish(first, delivered=True)

    assert refused.status == status
    assert headers_of(refused) == {}
    assert message_of(refused) == words
    assert json.loads(refused.pieces[0])["error"]["code"] == code
    assert server.log[1].dimension == "concurrency"
    assert post(server, chat(10)).status == 200


def test_the_headers_may_show_the_bucket_that_refuses():
    server = Simulator(rpm=600, burst=1.0, show_burst=True)  # ten a second, ten at once
    first = headers_of(post(server, chat(10)))
    assert first["x-ratelimit-limit-requests"] == "600"
    assert (first["x-ratelimit-remaining-requests"], first["x-ratelimit-reset-requests"]) == ("9", "100ms")
    assert [post(server, chat(10)).status for _ in range(10)] == [200] * 9 + [429]
    assert headers_of(post(server, chat(10), now=9.0))["x-ratelimit-remaining-requests"] == "9"


def test_beyond_its_capacity_it_may_name_a_wait_and_a_code():
    server = Simulator(max_in_flight=1, overload_status=503, overload_code="slow_down", overload_wait=1.5)
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat(10)).encode(), 0.0)
    refused = post(server, chat(10))

    assert headers_of(refused) == {"retry-after": "2", "retry-after-ms": "1500"}
    assert json.loads(refused.pieces[0])["error"]["code"] == "slow_down"


def test_every_response_has_an_id_of_its_own_and_its_processing_time():
    server = steady()
    heads = [dict(post(server, chat(10)).headers) for _ in range(2)]
    assert heads[0]["x-request-id"] != heads[1]["x-request-id"]
    assert heads[0]["openai-processing-ms"] == "1000"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "We could not parse the JSON body"),
        ("POST", "/v1/chat/completions", b"[]", 400, "must be a JSON object"),
        ("POST", "/v1/chat/completions", b'{"messages": []}', 400, "you must provide a model parameter"),
        ("POST", "/v1/chat/completions", b'{"model": "m"}', 400, "Missing required parameter: 'messages'."),
        ("POST", "/v1/audio/speech", b"{}", 404, "Invalid URL (POST /v1/audio/speech)"),
        ("GET", "/", b"", 404, "Invalid URL (GET /)"),
        ("POST", "/v1/files", b"{}", 400, "multipart"),
        ("POST", "/simulator/settings", b'{"rpm": 0}', 400, "rpm must be at least 1, got 0"),
        ("POST", "/simulator/settings", b'{"rpms": 1}', 400, "there is no setting 'rpms'; did you mean 'rpm'?"),
    ],
)
def test_mistakes_are_answered_in_openais_shape_and_not_counted(method, path, body, status, words):
    server = Simulator()
    reply = server.receive(method, path, {}, body, 0.0)
    error = json.loads(reply.pieces[0])["error"]
    assert reply.status == status
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert server.attempts == 0


# Answers, through the SDK.


def test_the_sdk_reads_every_answer():
    async def main():
        async with sdk(steady()) as client:
            answer = await client.chat.completions.create(model="m", messages=HI, n=2)
            assert len(answer.choices) == 2
            assert answer.usage.prompt_tokens == 1 + 4 + 3
            assert answer.usage.completion_tokens == 2 * 16
            assert answer.usage.total_tokens == 8 + 32

            answer = await client.chat.completions.create(model="m", messages=HI, max_tokens=5)
            assert answer.usage.completion_tokens == 5
            assert answer.choices[0].finish_reason == "length"

            answer = await client.completions.create(model="m", prompt="hi")
            assert answer.choices[0].text.startswith("This answer is simulated")

            response = await client.responses.create(model="m", input="hi")
            assert response.output_text == answer.choices[0].text
            assert response.usage.total_tokens == 1 + 16
            assert (await client.responses.retrieve(response.id)).output_text == response.output_text
            await client.responses.delete(response.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)

            vectors = await client.embeddings.create(model="e", input=["a", "b"], dimensions=16)
            assert [item.embedding for item in vectors.data] == [[0.25] * 16] * 2
            vectors = await client.embeddings.create(model="e", input="a", dimensions=16, encoding_format="float")
            assert vectors.data[0].embedding == [0.25] * 16
            assert len((await client.embeddings.create(model="e", input=[1, 2])).data) == 1

            moderation = await client.moderations.create(input=["a", "b"])
            assert [result.flagged for result in moderation.results] == [False, False]

            file = await client.files.create(file=("a.jsonl", b"12345"), purpose="batch")
            assert (file.filename, file.bytes, file.purpose) == ("a.jsonl", 5, "batch")
            assert [listed.id async for listed in client.files.list()] == [file.id]
            assert "m" in [model.id async for model in client.models.list()]
            assert (await client.models.retrieve("any")).id == "any"

    virtual_run(main())


def test_a_streamed_chat_has_the_same_text_and_usage_as_a_plain_one():
    async def main():
        async with sdk(steady()) as client:
            plain = await client.chat.completions.create(model="m", messages=HI)
            stream = await client.chat.completions.create(
                model="m", messages=HI, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        *chunks, last = chunks
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == plain.choices[0].message.content
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert {chunk.usage for chunk in chunks} == {None}
        assert last.choices == []
        assert last.usage == plain.usage

    virtual_run(main())


def test_a_stream_says_nothing_of_usage_unless_asked():
    reply = post(steady(), chat(10, stream=True))
    assert b"usage" not in b"".join(reply.pieces)
    assert reply.pieces[-1] == b"data: [DONE]\n\n"
    assert headers_of(reply) == headers_of(post(steady(), chat(10)))


def test_a_streamed_completion_has_the_same_text_as_a_plain_one():
    async def main():
        async with sdk(steady()) as client:
            plain = await client.completions.create(model="m", prompt="hi")
            stream = await client.completions.create(model="m", prompt="hi", stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text

    virtual_run(main())


def test_a_streamed_response_runs_through_its_events_in_order():
    async def main():
        async with sdk(steady(completion_tokens=2)) as client:
            stream = await client.responses.create(model="m", input="hi", stream=True)
            events = [event async for event in stream]
            plain = await client.responses.create(model="m", input="hi")
            shortened = await client.responses.create(model="m", input="hi", max_output_tokens=1)
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(10))
        assert events[-1].response.usage == plain.usage
        assert events[-1].response.output_text == plain.output_text
        assert events[0].response.usage is None
        assert shortened.status == "incomplete"

    virtual_run(main())


def test_the_sdks_own_accumulator_reads_the_stream():
    async def main():
        async with (
            sdk(steady()) as client,
            client.responses.stream(model="m", input="hi") as stream,
        ):
            return await stream.get_final_response()

    assert virtual_run(main()).usage.output_tokens == 16


def test_a_long_answer_does_not_take_more_events():
    reply = post(steady(completion_tokens=5000), chat(10, stream=True))
    assert len(reply.pieces) == 20 + 3


# Time.


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_takes_its_latency_streamed_or_not(stream):
    async def main():
        async with sdk(steady()) as client:
            answer = await client.chat.completions.create(model="m", messages=HI, stream=stream)
            if stream:
                assert asyncio.get_running_loop().time() == pytest.approx(0.3)
                async for _ in answer:
                    pass
        return asyncio.get_running_loop().time()

    assert virtual_run(main()) == pytest.approx(1.0)


def test_latencies_scatter_around_their_median_and_repeat_with_the_seed():
    def latencies(seed):
        server = Simulator(latency=2.0, latency_sigma=0.5, seed=seed)
        return [post(server, chat(10)).delay for _ in range(1001)]

    assert latencies(1) == latencies(1) != latencies(2)
    assert sorted(latencies(1))[500] == pytest.approx(2.0, rel=0.1)
    assert max(latencies(1)) > 4


def test_a_minute_of_retrying_on_advice_gets_what_the_limit_allows():
    """60 at once, then one a second: the hundredth is admitted at 40."""

    async def call(client):
        while True:
            response = await client.post("/chat/completions", json=chat(10))
            if response.status_code == 200:
                return
            await asyncio.sleep(int(response.headers["retry-after-ms"]) / 1000)

    async def main():
        async with http_client(server) as client:
            await asyncio.gather(*(call(client) for _ in range(100)))
        return asyncio.get_running_loop().time()

    server = steady(rpm=60)
    assert virtual_run(main()) == pytest.approx(40 + 1)
    assert server.succeeded == 100


def test_the_virtual_clock_jumps():
    async def main():
        before = time.monotonic()
        await asyncio.sleep(86_400 * 3)
        assert await asyncio.to_thread(lambda: 7) == 7
        assert time.monotonic() - before < 1
        return asyncio.get_running_loop().time()

    assert virtual_run(main()) == 86_400 * 3


def test_a_tick_passes_the_moments_that_the_clock_cannot_tell_apart():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1000)
        since, turns = loop.time(), 0
        while loop.time() == since and turns < 100:
            await asyncio.sleep(1e-14)  # no float after 1000 is so near
            turns += 1
        return turns

    assert virtual_run(main()) == 100
    with asyncio.Runner(loop_factory=partial(VirtualTimeLoop, tick=1e-6)) as runner:
        assert runner.run(main()) == 1


def test_the_virtual_clock_says_so_when_nothing_can_happen_any_more():
    # In a process without the threads of other tests, any of which might yet wake somebody.
    waits = "import asyncio, throttled_openai.simulator as s; s.virtual_run(asyncio.Event().wait())"
    done = subprocess.run([sys.executable, "-c", waits], capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: deadlock" in done.stderr


def test_an_error_in_a_thread_function_reaches_its_caller():
    async def main():
        await asyncio.to_thread(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        virtual_run(main())


# Faults.


def test_a_status_fault_strikes_only_the_attempts_it_is_for():
    server = steady(
        rpm=100, faults=[Fault("status", status=503, first=1, last=2, model="a"), Fault(status=400, first=4)]
    )
    statuses = [post(server, chat(10, model=model)).status for model in "aabaab"]
    assert statuses == [200, 503, 200, 200, 400, 400]


def test_a_faults_share_is_kept_by_seeded_dice():
    def statuses(seed):
        server = Simulator(faults=[Fault(share=0.1)], seed=seed)
        return [post(server, chat(10)).status for _ in range(2000)]

    assert statuses(3) == statuses(3)
    assert statuses(3).count(500) == pytest.approx(200, abs=50)


def test_a_fault_carries_its_own_words_and_wait():
    server = Simulator(rpm=100, faults=[Fault(status=429, code="insufficient_quota", message="Pay!", retry_after=1.5)])
    reply = post(server, chat(10))
    assert headers_of(reply) == {"retry-after": "2", "retry-after-ms": "1500"}
    assert json.loads(reply.pieces[0])["error"] == {
        "message": "Pay!",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }


def test_a_rejected_request_was_charged_and_says_so():
    server = Simulator(rpm=100, faults=[Fault(status=400)])
    assert headers_of(post(server, chat(10)))["x-ratelimit-remaining-requests"] == "99"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disconnect_is_that_familys_protocol_error(family):
    async def main():
        server = steady(faults=[Fault("disconnect")])
        async with http_client(server, family) as client:
            with pytest.raises(importlib.import_module(family).RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10))
        assert server.log[0].status == 0
        assert (server.in_flight, server.counters.failed) == (0, 1)

    virtual_run(main())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hang_lasts_as_long_as_the_clients_patience(family):
    async def main():
        server = steady(faults=[Fault("hang")])
        async with http_client(server, family, timeout=30.0) as client:
            with pytest.raises(importlib.import_module(family).ReadTimeout):
                await client.post("/chat/completions", json=chat(10))
        assert asyncio.get_running_loop().time() == 30.0
        assert (server.in_flight, server.counters.abandoned) == (0, 1)

    virtual_run(main())


def test_a_stream_error_is_an_error_without_a_status():
    async def main():
        server = steady(faults=[Fault("stream_error")])
        async with sdk(server) as client:
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            with pytest.raises(openai.APIError) as caught:
                _ = [chunk async for chunk in stream]
            assert caught.value.code == "rate_limit_exceeded"
            assert type(caught.value) is openai.APIError
            stream = await client.responses.create(model="m", input="hi", stream=True)
            with pytest.raises(openai.APIError, match="Rate limit"):
                _ = [event async for event in stream]
            await client.chat.completions.create(model="m", messages=HI)  # only streams are struck
        assert [attempt.status for attempt in server.log] == [200, 200, 200]
        assert (server.succeeded, server.counters.failed, server.open_streams) == (1, 2, 0)

    virtual_run(main())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_stream_breaks_in_the_middle(family):
    async def main():
        server = steady(faults=[Fault("stream_cut")])
        text = ""
        async with (
            http_client(server, family) as client,
            client.stream("POST", "/chat/completions", json=chat(10, stream=True)) as response,
        ):
            with pytest.raises(importlib.import_module(family).RemoteProtocolError):
                async for piece in response.aiter_text():
                    text += piece
        assert text.count("data:") == 19 // 2
        assert (server.in_flight, server.open_streams, server.counters.failed) == (0, 0, 1)

    virtual_run(main())


@pytest.mark.parametrize(
    "text",
    ["hang", "status:status=503,share=0.01", "stream_cut:first=3,last=5,model=gpt-4o", "status:message=a, b,code=c"],
)
def test_a_fault_is_written_as_it_is_read(text):
    assert Fault.parse(str(Fault.parse(text))) == Fault.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flood", "fault kind must be one of status, disconnect, hang, stream_error, stream_cut, got 'flood'"),
        ("hang:color=red", "cannot read 'color=red'"),
        ("hang:share=2", "share must be from 0 to 1, got 2.0"),
        ("status:status=200", "status must be from 400 to 599, got 200"),
        ("hang:first=3,last=1", "first=3, last=1"),
    ],
)
def test_a_fault_that_cannot_be_says_why(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Fault.parse(text)


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


# Its memory.


def test_the_log_tells_what_came_and_what_became_of_it():
    server = Simulator(rpm=1, keep_log=2)
    post(server, chat(10))
    post(server, chat(10), now=1.0, headers={"x-stainless-retry-count": "2", "x-client-request-id": "7"})
    post(server, chat(20, model="b"), now=2.0)
    assert [asdict(attempt) for attempt in server.log] == [
        {
            "at": 1.0,
            "model": "gpt-4o",
            "endpoint": "chat/completions",
            "status": 429,
            "tokens": 10,
            "retry_count": 2,
            "dimension": "requests",
            "fault": None,
            "call": "7",
        },
        {
            "at": 2.0,
            "model": "b",
            "endpoint": "chat/completions",
            "status": 200,
            "tokens": 20,
            "retry_count": 0,
            "dimension": None,
            "fault": None,
            "call": None,
        },
    ]


def test_its_repr_is_a_status_line():
    server = Simulator(rpm=1, tpm=30_000)
    post(server, chat(10))
    post(server, chat(10))
    assert repr(server) == "<Simulator [0 in flight, 1 succeeded, 1 refused | 1 rpm, 30000 tpm]>"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rpm": 0}, "rpm must be at least 1, got 0"),
        ({"tpm": float("nan")}, "tpm must be a finite number, got nan"),
        ({"burst": 0}, "burst must be at least 0.001, got 0"),
        ({"burst": 61}, "burst must be at most 60, got 61"),
        ({"latency": -1}, "latency must be at least 0, got -1"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1, got 0"),
        ({"max_in_flight": 1.5}, "max_in_flight must be a whole number, got 1.5"),
        ({"overload_status": 200}, "overload_status must be at least 400, got 200"),
        ({"overload_wait": -1}, "overload_wait must be at least 0, got -1"),
        ({"overload_code": ""}, "overload_code must be a word, got ''"),
        ({"initial_level": 2}, "initial_level must be at most 1, got 2"),
        ({"announce": "no"}, "announce must be true or false, got 'no'"),
    ],
)
def test_settings_that_cannot_be_say_why(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Simulator(**options)


def test_the_options_are_the_settings():
    assert set(Options.__annotations__) == {field.name for field in fields(Settings)}


def test_the_command_line_can_say_every_setting():
    settings = Settings(
        rpm=500,
        tpm=30_000,
        rpd=10_000,
        tpd=1_000_000,
        shared_limit="gpt-4.1",
        burst=1.0,
        show_burst=True,
        fixed_window=10.0,
        latency=0.25,
        latency_sigma=0.0,
        network=0.02,
        network_sigma=0.1,
        slots=4,
        slowdown=0.5,
        seed=7,
        announce=False,
        retry_after=False,
        explain_refusals=False,
        dialect="azure",
        max_in_flight=9,
        overload_status=503,
        overload_code="slow_down",
        overload_wait=2.0,
        slow_down_above=10.0,
        charge="reserve",
        refund=True,
        charge_refused_requests=True,
        neighbour_rpm=100.0,
        neighbour_tpm=5000.0,
        completion_tokens=3,
        initial_level=0.5,
    )
    assert all(getattr(settings, field.name) != field.default for field in fields(Settings))
    faults = [Fault("hang", share=0.5), Fault("status", status=503)]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parsed = parser.parse_args(arguments_of(settings, faults))
    assert Settings(**{field.name: getattr(parsed, field.name) for field in fields(Settings)}) == settings
    assert parsed.faults == faults


def test_it_imports_nothing_of_the_library_it_judges():
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                assert (node.module or "").split(".")[0] not in {"throttled_openai", "openai"} or node.level, path
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"throttled_openai", "openai"}, path


# Over TCP.


def test_it_serves_over_tcp():
    async def main():
        server = Simulator(rpm=500, latency=0.02)
        async with serve(server) as url, AsyncOpenAI(api_key="x", base_url=url) as client:
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=HI)
            assert raw.headers["x-ratelimit-remaining-requests"] == "499"
            assert raw.parse().usage.total_tokens == 24
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            assert len([chunk async for chunk in stream]) == 18
            response = await client.responses.create(model="m", input="hi")
            assert (await client.responses.retrieve(response.id)).id == response.id
            await client.files.create(file=("a", b"x" * 300_000), purpose="batch")
            # Some SDKs drop the connection of a stream after its last event.
            assert server.counters.connections_made in {1, 2}
            assert server.connections == 1
        assert server.connections == 0
        assert server.succeeded == 3

    asyncio.run(main())


def test_over_tcp_a_client_that_leaves_is_noticed_at_once():
    async def main():
        server = Simulator(latency=30.0)
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            calls = [
                asyncio.create_task(client.post("/chat/completions", json=chat(10, stream=stream)))
                for stream in (False, True)
            ]
            await until(lambda: server.in_flight == 2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: server.in_flight == 0)
            assert server.open_streams == 0
            assert server.counters.abandoned == 2

    asyncio.run(main())


def test_over_tcp_faults_are_real():
    async def main():
        server = Simulator(latency=0.0, faults=[Fault("disconnect", last=0), Fault("stream_cut", first=1)])
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10, stream=True))
            assert (await client.post("/chat/completions", json=chat(10))).status_code == 200

    asyncio.run(main())


def test_closing_the_server_ends_what_hangs():
    async def main():
        server = Simulator(faults=[Fault("hang")])
        async with httpx.AsyncClient(timeout=None) as client:
            async with serve(server) as url:
                call = asyncio.create_task(client.post(f"{url}/chat/completions", json=chat(10)))
                await until(lambda: server.in_flight == 1)
            with pytest.raises(httpx.TransportError):
                await call
            assert server.in_flight == 0

    asyncio.run(main())


def test_over_tcp_a_body_may_come_in_chunks():
    async def body():
        text = json.dumps(chat(10)).encode()
        yield text[:5]
        yield text[5:]

    async def main():
        server = Simulator(latency=0.0)
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/chat/completions", content=body())).status_code == 200
            assert server.log[0].tokens == 10

    asyncio.run(main())


def test_requests_are_read_however_their_bytes_arrive():
    chunked = b"POST /a%20b?c=d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    sized = b"POST /v1 HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxyz"
    reader, read = RequestReader(), []
    for byte in chunked + sized:
        reader.feed(bytes([byte]))
        if (request := reader.next()) is not None:
            read.append((request.method, request.path, request.body, request.keep_alive))
    assert read == [("POST", "/a b", b"abcde", True), ("POST", "/v1", b"xyz", False)]


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"a" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(data):
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(MalformedRequestError):
        reader.next()


def test_over_tcp_what_is_not_http_closes_the_connection():
    async def main():
        async with serve(Simulator()) as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://")[:-3].split(":"))
            writer.write(b"hello\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_it_runs_in_a_process_of_its_own():
    with spawn(rpm=2, latency=0.0, faults=[Fault(status=503, first=1)]) as url:
        assert url.endswith("/v1")
        with httpx.Client() as client:
            statuses = [client.post(f"{url}/chat/completions", json=chat(10)).status_code for _ in range(3)]
            assert statuses == [200, 503, 429]
            root = url.removesuffix("/v1")
            stats = client.get(f"{root}/simulator/stats").json()
            assert (stats["succeeded"], stats["failed"], stats["refused"]) == (1, 1, 1)
            assert client.post(f"{root}/simulator/settings", json={"rpm": 600}).json()["rpm"] == 600
            assert client.get(f"{root}/simulator/stats").json()["models"]["gpt-4o"]["requests"] < 600
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_its_process_tells_every_attempt_and_whose_it_was():
    with spawn(rpm=1, latency=0.0) as url, httpx.Client() as client:
        for name in ("a", "b"):
            client.post(f"{url}/chat/completions", json=chat(10), headers={"X-Client-Request-Id": name})
        attempts = client.get(f"{url.removesuffix('/v1')}/simulator/log").json()["attempts"]
        assert [(each["call"], each["status"], each["dimension"]) for each in attempts] == [
            ("a", 200, None),
            ("b", 429, "requests"),
        ]


def test_a_process_that_cannot_start_is_an_error_here():
    with pytest.raises(ValueError, match="rpm must be at least 1"), spawn(rpm=0):
        pass


def test_the_command_says_why_it_cannot_serve():
    command = [sys.executable, "-m", "throttled_openai.simulator"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run([*command, f"--port={port}"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    wrong = subprocess.run([*command, "--rpm=0"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "simulate: rpm must be at least 1, got 0.0\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_ends_the_command_with_one_line():
    import signal

    command = [sys.executable, "-m", "throttled_openai.simulator", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert process.stderr.readline() == f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said.startswith("0 attempts: 0 succeeded")
    assert said.count("\n") == 1


def test_a_loop_of_virtual_time_can_be_made_by_hand():
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(5))
        assert runner.get_loop().time() == 5
