"""A refusal for billing as a client meets it: in a stream, for one call, for a thousand, until it is paid."""

import asyncio
import json
import logging

import openai
import pytest

from scripted import Says, Script, refuses, say, throttled
from support import Outcome, admit, call, gather, now, refusal, refuse, start, throttle, ticks, virtual, virtual_run
from throttled_openai import AccountBlocked
from throttled_openai._admission.breaker import BILLING_EVERY as BLOCKED

QUOTA = {"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}}


@pytest.mark.parametrize("before", [0, 1])
def test_a_billing_error_inside_a_stream_ends_every_wait(before):
    """Its response cannot be read: it is being read by the SDK."""

    async def main():
        event = f"data: {json.dumps(QUOTA)}\n\n".encode()
        streamed = Says(200, event, {"content-type": "text/event-stream"}, delay=0.5)
        script = Script(*[Says()] * before, *[streamed] * 3)
        client = throttled(script, max_concurrency=1, max_retries=0)

        async def one(number):
            if number < before:
                return await say(client)
            return [chunk async for chunk in await say(client, stream=True)]

        ends = await asyncio.wait_for(asyncio.gather(*map(one, range(40)), return_exceptions=True), 100)
        assert len(ends) == 40
        assert sum(isinstance(end, AccountBlocked) for end in ends) >= 37
        assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)

    virtual_run(main())


@pytest.mark.parametrize("status", [402, 429, 503])
@pytest.mark.parametrize("before", [0, 1])
def test_a_body_nested_too_deep_for_json_costs_no_more_than_one_call(status, before):
    async def main():
        deep = Says(status, b'{"error":' * 100_000 + b"1" + b"}" * 100_000, delay=0.5)
        script = Script(*[Says()] * before, deep)
        client = throttled(script, max_concurrency=1, max_retries=0)
        ends = await asyncio.wait_for(asyncio.gather(*(say(client) for _ in range(20)), return_exceptions=True), 100)
        failed = [end for end in ends if isinstance(end, BaseException)]
        assert all(isinstance(end, openai.APIStatusError) for end in failed)
        assert len(failed) == (status != 429)
        assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)

    virtual_run(main())


def test_a_log_handler_that_raises_affects_no_call():
    class Broken(logging.Handler):
        def emit(self, record):
            raise OSError("disk full")

    logger, handler = logging.getLogger("throttled_openai"), Broken()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)

    async def main():
        script = Script(Says(), refuses(headers={"retry-after": "1"}), refuses(code="insufficient_quota"))
        client = throttled(script, max_concurrency=1)
        ends = await asyncio.wait_for(asyncio.gather(*(say(client) for _ in range(20)), return_exceptions=True), 100)
        assert not any(isinstance(end, OSError) for end in ends)
        assert client.throttle.in_flight == client.throttle.waiting == 0

    try:
        virtual_run(main())
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@virtual
async def test_a_jitter_function_that_raises_costs_one_call():
    t = throttle(max_concurrency=1)
    first = await admit(t)
    waiting = [start(call(t)) for _ in range(5)]
    await ticks()

    def broken():
        raise RuntimeError("no entropy")

    t._dispatcher.random = broken
    with pytest.raises(RuntimeError):
        refuse(first, refusal("requests", 1.0))
    t._dispatcher.random = lambda: 0.0
    assert len(await gather(*waiting)) == 5


@virtual
async def test_a_call_that_cannot_be_admitted_fails_alone(monkeypatch):
    t = throttle(max_concurrency=1)
    first = await admit(t)
    waiting = [start(call(t)) for _ in range(5)]
    await ticks()
    lane = t._dispatcher.limiters.find("m")
    reserve, calls = lane.budget.reserve, iter(range(100))

    def broken(tokens, now):
        if next(calls) == 1:
            raise ValueError("ours")
        return reserve(tokens, now)

    monkeypatch.setattr(lane.budget, "reserve", broken)
    first.settle(Outcome.SUCCESS)
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends].count(ValueError) == 1
    assert (t.waiting, t.in_flight) == (0, 0)


def test_a_402_that_concerns_one_call_leaves_the_others_alone():
    async def main():
        script = Script(Says(), refuses("Prompt price of this call exceeds what is left", code="strange", status=402))
        client = throttled(script, max_concurrency=1)
        ends = await asyncio.gather(*(say(client) for _ in range(21)), return_exceptions=True)
        assert [type(end).__name__ for end in ends if isinstance(end, BaseException)] == ["APIStatusError"]

    virtual_run(main())


def test_of_a_thousand_calls_few_are_sent_and_all_fail_with_the_servers_code():
    script = Script(
        *[refuses("You exceeded your current quota", code="insufficient_quota", kind="insufficient_quota")] * 999
    )

    async def main():
        client = throttled(script, rpm=6000)
        ends = await asyncio.gather(*(say(client) for _ in range(1000)), return_exceptions=True)
        assert all(isinstance(end, openai.RateLimitError) and end.code == "insufficient_quota" for end in ends)
        assert len(script.seen) <= 20
        assert now() <= 1.0

    virtual_run(main())


def test_once_the_account_is_settled_calls_go_again():
    script = Script(*[refuses(code="insufficient_quota", kind="insufficient_quota")] * 2)

    async def main():
        client = throttled(script)
        with pytest.raises(openai.RateLimitError):
            await say(client)
        with pytest.raises(AccountBlocked):
            await say(client)
        await asyncio.sleep(BLOCKED)
        assert (await say(client)).choices
        assert len(script.seen) == 3

    virtual_run(main())
