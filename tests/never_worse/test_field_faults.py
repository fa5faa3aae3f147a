"""Field cases, section F: interrupting, starving and feeding it. Every call ends, and learns nothing of another."""

import asyncio
import contextvars
import gc
import json
import time

import openai
import pytest

from support import call as admitted
from support import virtual
from throttled_openai import Throttle, ThrottledAsyncOpenAI, wrap, wrap_http_client

from .calls import PROMPT
from .promise import tells
from .script import Scripted, always, answered, call, ends, errors, first, gather, play, says
from .server import Answer, good

DEEP = b"[" * 100_000 + b"]" * 100_000
UNPAID = says(429, '{"error":{"message":"quota","type":"insufficient_quota","code":"insufficient_quota"}}')


def in_http_client(http_client, **options):
    return openai.AsyncOpenAI(http_client=wrap_http_client(http_client, rpm=60), **options)


def in_class(**options):
    return ThrottledAsyncOpenAI(rpm=60, **options)


def wrapped(**options):
    return wrap(openai.AsyncOpenAI(**options), rpm=60)


seams = pytest.mark.parametrize("make", [in_class, wrapped, in_http_client])


async def read(stream):
    return [chunk async for chunk in await stream]


@seams
@pytest.mark.parametrize("fault", ["quota event first", "error event first", "error event", "odd events"])
def test_an_error_inside_a_stream_hangs_no_call(make, fault):
    async def calls(client):
        streams = [asyncio.create_task(ends(read(call(client, number, stream=True)))) for number in range(4)]
        return await asyncio.wait_for(asyncio.gather(*streams, gather(client, 6)), 3600.0)

    played = play(calls, Scripted(lambda attempt: Answer(fault=fault) if attempt.call == 0 else None), make=make)

    assert len(played.gave) == 5


@seams
@pytest.mark.parametrize("status", [402, 429, 503, 413, 529])
def test_a_deeply_nested_refusal_hangs_no_call(make, status):
    said = says(status, b'{"error":' + DEEP + b"}")

    async def calls(client):
        return await asyncio.wait_for(gather(client, 10), 3600.0)

    stock = play(calls, Scripted(first(said)), ours=False)
    ours = play(calls, Scripted(first(said)), make=make)

    # 402 without a word that can be read is still a refusal of the account.
    assert answered(ours.gave) >= (0 if status == 402 else answered(stock.gave))
    assert {error.name for error in errors(ours.gave)} <= {"APIStatusError", "AccountBlocked"}


@seams
@pytest.mark.parametrize("depth", [10, 500, 900, 100_000])
def test_a_usage_nested_without_end_costs_no_call(make, depth):
    body = json.dumps(good(0))[:-1].encode() + b', "more": ' + b"[" * depth + b"]" * depth + b"}"
    body = body.replace(b'"usage": {', b'"usage": {"odd": ' + b"[" * depth + b"]" * depth + b", ")

    async def calls(client):
        return await gather(client, 3)

    stock = play(calls, Scripted(always(says(200, body))), ours=False)
    ours = play(calls, Scripted(always(says(200, body))), make=make)

    assert [str(error) for error in errors(ours.gave)] == [str(error) for error in errors(stock.gave)]


def test_two_models_at_a_shared_ceiling_both_go_on():
    """The busy one has the higher priority; every tenth call to leave is the one that waited longest."""

    async def later(client, number):
        await asyncio.sleep(number / 8)
        return await ends(call(client, number, model="busy"))

    async def calls(client):
        urgent = client.with_throttle(priority=10)
        busy = asyncio.gather(*(later(urgent, number) for number in range(400)))
        await asyncio.sleep(2.0)
        quiet = await gather(client, 5, model="quiet")
        return quiet, busy.done(), await busy

    played = play(calls, Scripted(latency=1.0), max_concurrency=4)
    quiet, first_done, busy = played.gave

    assert answered(quiet) == 5
    assert not first_done
    assert answered(busy) == 400


@pytest.mark.parametrize("status", [402, 429])
def test_a_blocked_call_carries_nothing_of_another(status):
    said = says(status, UNPAID.body)

    async def calls(client):
        return await gather(client, 40)

    played = play(calls, Scripted(always(said)), rpm=600)
    blocked = [error.error for error in errors(played.gave) if error.name == "AccountBlocked"]

    assert blocked
    assert not any(tells(error) for error in blocked)
    assert PROMPT not in " ".join(map(str, blocked))


def test_a_large_billing_body_is_parsed_once():
    body = json.dumps({"error": {"code": "insufficient_quota", "message": "no " * 330_000, "type": "billing"}}).encode()

    async def calls(client):
        return await gather(client, 300)

    began = time.process_time()
    played = play(calls, Scripted(always(says(402, body))), rpm=600)
    took = time.process_time() - began
    blocked = [error.error for error in errors(played.gave) if error.name == "AccountBlocked"]

    assert len(blocked) > 200
    assert len({id(error.body) for error in blocked}) <= 10
    assert max(len(str(error)) for error in blocked) < 1000
    assert took < 5.0


def test_a_long_code_is_cut_in_the_message():
    body = json.dumps({"error": {"code": "x" * 1_000_000, "message": "no"}}).encode()

    async def calls(client):
        return await gather(client, 20)

    played = play(calls, Scripted(always(says(402, body))), rpm=600)

    assert max(len(str(error.error)) for error in errors(played.gave) if error.name == "AccountBlocked") < 1000
    assert all(len(text) < 2000 for _, _, text in played.said)


def test_dropped_streams_of_one_model_are_found_while_another_waits():
    async def calls(client):
        for number in range(2):
            async for _ in await call(client, number, stream=True, model="a"):
                break
        return await ends(call(client, 9, model="b"), within=600.0)

    gc.disable()
    try:
        played = play(calls, max_concurrency=2, checks=False)
    finally:
        gc.enable()

    assert answered([played.gave]) == 1
    assert played.took <= 60.0


def test_a_call_that_is_collected_in_another_context_gives_its_place_back():
    async def calls(client):
        making = call(client)
        contextvars.Context().run(making.send, None)
        making.close()
        return await gather(client, 3)

    played = play(calls, max_concurrency=1)

    assert answered(played.gave) == 3


@virtual
async def test_models_without_number_leave_again():
    made = Throttle()
    for number in range(4200):
        await admitted(made, model=f"m-{number}")
    await asyncio.sleep(7200.0)
    await admitted(made)

    assert len(made.stats().budgets) < 4000
    assert made.stats().succeeded == 4201
