"""A refusal for billing: no call is served until the account is paid, so all waiting calls fail at once."""

import asyncio
import importlib
import logging

import openai
import pytest

from scripted import FAMILIES
from support import (
    Limits,
    Outcome,
    admit,
    announcement,
    answer,
    call,
    gather,
    now,
    refusal,
    refuse,
    start,
    throttle,
    ticks,
    timers,
    virtual,
    virtual_run,
)
from throttled_openai import AccountBlocked, AdmissionError
from throttled_openai._admission.breaker import BILLING_EVERY as BLOCKED
from throttled_openai._control.concurrency import ConcurrencyLimit
from throttled_openai.errors import refused_by

BILLING = refusal(kind="billing")


def bill(permit, headers=()):
    """The server says that the account has to pay first."""
    refuse(permit, BILLING, headers, code="insufficient_quota")


async def blocked(limits=None, **options):
    """A throttle whose account has just been refused, and another call too, which confirmed it."""
    t = throttle(limits, **options)
    for _ in range(2):
        bill(await admit(t))
    return t


async def outcome(coroutine):
    """How a call ends: the instant of its admission, or the name of its error."""
    try:
        return await coroutine
    except openai.OpenAIError as error:
        return type(error).__name__


# --- closing --------------------------------------------------------------------------------------


@virtual
async def test_ten_thousand_waiting_calls_all_fail_once_a_second_one_was_refused():
    t = throttle(rpm=60)
    permit = await admit(t)
    waiting = [start(outcome(call(t, seconds=0.1, outcome=Outcome.REFUSED, refusal=BILLING))) for _ in range(10_000)]
    await ticks()
    assert t.waiting == 10_000
    bill(permit)
    assert (await gather(*waiting)).count("AccountBlocked") == 9_999
    assert now() == 1.1
    assert (t.waiting, t.in_flight, timers()) == (0, 0, [])


@virtual
async def test_new_calls_fail_for_ten_seconds_without_being_sent():
    t = await blocked()
    ends = []
    for instant in (0.0, 5.0, 9.99):
        await asyncio.sleep(instant - now())
        ends.append(await outcome(call(t)))
    assert ends == 3 * ["AccountBlocked"]
    assert t.stats().admitted == 2


@virtual
async def test_the_error_is_the_sdks_and_has_the_servers_code():
    t = throttle()
    for _ in range(2):
        (await admit(t)).settle(Outcome.REFUSED, BILLING, answer(code="insufficient_quota"))
    await asyncio.sleep(4)
    with pytest.raises(openai.RateLimitError, match=r"not sent: .*\(insufficient_quota\).* in 6 s") as failed:
        await admit(t)
    error = failed.value
    assert (error.code, error.status_code, error.response.status_code) == ("insufficient_quota", 429, 429)
    assert isinstance(error, AccountBlocked)
    assert not isinstance(error, AdmissionError)  # it is no matter of waiting longer
    assert error.retry_in == pytest.approx(BLOCKED - 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_error_carries_nothing_of_the_refused_call_but_method_and_address(family):
    httpx = importlib.import_module(family)
    url = "http://me:pass@server/v1/chat/completions?key=secret"
    theirs = httpx.Request("POST", url, headers={"authorization": "Bearer sk-theirs"}, json={"prompt": "private"})
    refusal = httpx.Response(402, request=theirs, json={"error": {"code": "x" * 10_000, "message": "private"}})
    error = AccountBlocked(model="m", retry_in=3, **refused_by(refusal))
    kept = error.response.request
    assert (kept.method, str(kept.url), kept.content) == ("POST", "http://server/v1/chat/completions", b"")
    assert "authorization" not in kept.headers
    assert error.response.content == b""
    assert len(str(error)) < 300
    assert len(error.code) <= 100
    assert not {"private", "secret", "sk-theirs"} & set(str(vars(error)).split())


def test_a_million_bytes_of_refusal_are_read_once_for_all_that_wait(monkeypatch):
    parsed = []
    monkeypatch.setattr("throttled_openai.errors.parse_json", parsed.append)

    @virtual
    async def main():
        t = throttle(rpm=60)
        permit = await admit(t)
        waiting = [start(outcome(call(t, outcome=Outcome.REFUSED, refusal=BILLING))) for _ in range(300)]
        await ticks()
        bill(permit)
        assert (await gather(*waiting)).count("AccountBlocked") == 299

    main()
    assert len(parsed) == 2


def test_an_unread_response_is_enough_for_the_error():
    httpx = importlib.import_module(FAMILIES[-1])
    said = refused_by(httpx.Response(402, content=(part for part in [b"{}"])))
    assert (said["status"], said["body"], str(said["request"].url)) == (402, {"code": None}, "http://unknown")


@virtual
async def test_an_answer_that_is_not_json_is_enough_for_the_error():
    t = throttle()
    for _ in range(2):
        permit, response = await admit(t), answer()
        response._content = b"<html>pay!</html>"
        permit.settle(Outcome.REFUSED, BILLING, response)
    with pytest.raises(AccountBlocked, match=r"\(429\)"):
        await admit(t)


@virtual
async def test_attempts_in_flight_end_as_they_would_without_the_block():
    t = throttle()
    permits = [await admit(t) for _ in range(5)]
    for permit in permits[:2]:
        bill(permit)
    assert t.in_flight == 3
    permits[2].settle(Outcome.IGNORED)
    permits[3].settle(Outcome.OVERLOADED)
    permits[4].settle(Outcome.UNSENT)
    assert (t.in_flight, t.waiting, timers()) == (0, 0, [])


@virtual
async def test_a_call_refused_for_its_rate_meanwhile_is_not_sent_again():
    t = throttle()
    first = await admit(t)
    second = await admit(t)
    bill(first)
    bill(await admit(t))
    refuse(second, refusal("requests", 1.0))
    with pytest.raises(AccountBlocked):
        await t._dispatcher.admit(second.call)


@virtual
async def test_only_the_first_refusal_is_worth_a_warning():
    logger, lines = logging.getLogger("throttled_openai"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    try:
        t = throttle()
        permits = [await admit(t) for _ in range(3)]
        for permit in permits:
            bill(permit)
        bill(await admit(t))
    finally:
        logger.removeHandler(handler)
    assert lines == [
        "m: refused for billing; that may concern one call only: 0 wait until another has tried",
        "m: refused for billing; 0 waiting calls failed, none sent for 10 s",
    ]


@virtual
async def test_budgets_are_blocked_each_by_itself():
    t = throttle({"poor": Limits(rpm=60)})
    for _ in range(2):
        bill(await admit(t, model="poor"))
    assert await outcome(call(t, model="poor")) == "AccountBlocked"
    assert await call(t, model="rich") == now()


# --- opening --------------------------------------------------------------------------------------


@virtual
async def test_after_ten_seconds_one_call_tries_and_the_others_wait_for_what_it_meets():
    t = await blocked()
    await asyncio.sleep(BLOCKED)
    probe = await admit(t)
    assert [await outcome(call(t)) for _ in range(3)] == 3 * ["AccountBlocked"]
    bill(probe)
    await asyncio.sleep(BLOCKED - 0.01)
    assert await outcome(call(t)) == "AccountBlocked"
    await asyncio.sleep(0.01)
    assert await call(t) == pytest.approx(2 * BLOCKED, abs=0.1)


@virtual
async def test_its_success_opens_the_lane_for_all():
    t = await blocked()
    await asyncio.sleep(BLOCKED)
    opened = await call(t)
    assert await gather(*(call(t) for _ in range(5))) == 5 * [opened]


@pytest.mark.parametrize("end", [Outcome.IGNORED, Outcome.OVERLOADED, Outcome.UNSENT])
@virtual
async def test_any_other_end_of_it_leaves_the_next_try_to_ten_seconds_later(end):
    t = await blocked()
    await asyncio.sleep(BLOCKED)
    (await admit(t)).settle(end)
    assert await outcome(call(t)) == "AccountBlocked"
    await asyncio.sleep(BLOCKED)
    assert await call(t) >= 2 * BLOCKED


@virtual
async def test_an_attempt_admitted_before_the_block_does_not_open_it():
    """A long stream that ends well says nothing about calls that begin now."""
    t = throttle()
    old, refused = await admit(t), await admit(t)
    bill(refused)
    bill(await admit(t))
    old.settle(Outcome.SUCCESS)
    assert await outcome(call(t)) == "AccountBlocked"
    await asyncio.sleep(BLOCKED)
    newest = await admit(t)
    bill(newest)
    assert await outcome(call(t)) == "AccountBlocked"


@virtual
async def test_a_try_that_gives_up_in_the_queue_is_followed_by_another():
    t = throttle(max_concurrency=2)
    refused, old = await admit(t), await admit(t)
    bill(refused)
    lane = t._dispatcher.limiters.find("m")
    lane.concurrency = ConcurrencyLimit(1)
    lane.limit = 1
    await asyncio.sleep(BLOCKED)
    assert await outcome(call(t, max_wait=1.0)) == "AdmissionTimeout"
    old.settle(Outcome.IGNORED)
    assert BLOCKED + 1 <= await call(t) <= BLOCKED + 1.1


# --- beside it ------------------------------------------------------------------------------------


@virtual
async def test_calls_cancelled_before_with_or_after_the_block_are_counted_once():
    t = throttle(rpm=60)
    permit = await admit(t)
    tasks = [start(call(t)) for _ in range(9)]
    await ticks()
    for task in tasks[:3]:
        task.cancel()
    await ticks()
    for task in tasks[3:6]:
        task.cancel()  # in the very tick of the block
    bill(permit)
    for task in tasks[6:]:
        task.cancel()  # they have failed already
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error).__name__ for error in results[:6]] == 6 * ["CancelledError"]
    assert {type(error).__name__ for error in results[6:]} <= {"CancelledError", "AccountBlocked"}
    await ticks()
    assert (t.waiting, t.in_flight, timers()) == (0, 0, [])
    await asyncio.sleep(BLOCKED)
    assert await call(t) == BLOCKED


@virtual
async def test_calls_with_deadlines_fail_with_the_block_and_not_again_when_those_pass():
    t = throttle(rpm=60)
    permit = await admit(t)
    waiting = [start(outcome(call(t, max_wait=5.0, outcome=Outcome.REFUSED, refusal=BILLING))) for _ in range(10)]
    await ticks()
    bill(permit)
    assert (await gather(*waiting)).count("AccountBlocked") == 9
    await asyncio.sleep(6)
    assert (t.waiting, timers()) == (0, [])


@virtual
async def test_the_pace_and_the_limits_stay_what_they_were():
    t = throttle(rpm=60_000, tpm=600_000)
    permits = [await admit(t, 10) for _ in range(3)]
    limit = t.stats().budgets[0].concurrency_limit
    for permit in permits:
        bill(permit)
    stats = t.stats().budgets[0]
    assert (stats.concurrency_limit, [window.limit for window in stats.windows]) == (limit, [60_000, 600_000])
    await asyncio.sleep(BLOCKED)
    assert await call(t, 10) == now()


TOLD = {"x-ratelimit-limit-tokens": "60000", "x-ratelimit-remaining-tokens": "1000", "x-ratelimit-reset-tokens": "59s"}


@pytest.mark.parametrize("kind", ["billing", "too_large"])
@virtual
async def test_limits_announced_with_a_final_refusal_are_learnt(kind):
    t = throttle()
    for _ in range(2):
        refuse(await admit(t, 10), refusal(kind=kind), TOLD)
    assert [str(window) for window in t.stats().budgets[0].windows] == ["60,000 tokens/min"]


@pytest.mark.parametrize("kind", ["billing", "too_large"])
@virtual
async def test_the_tokens_of_a_final_refusal_are_refunded_once(kind):
    t = throttle()
    first = await admit(t, 0)
    first.observe(announcement(tpm=60_000, tpm_left=30_000))
    first.settle(Outcome.SUCCESS)
    await asyncio.sleep(5)
    permit = await admit(t, 20_000)
    mirror = t._dispatcher.limiters.find("m").budget.windows["tokens", 60.0]
    before = mirror.level + 20_000
    left = {"x-ratelimit-limit-tokens": "60000", "x-ratelimit-remaining-tokens": f"{before + mirror.reserve:.0f}"}
    refuse(permit, refusal(kind=kind), left)
    assert mirror.level == pytest.approx(before, abs=10)


def test_on_another_loop_calls_are_sent_again_and_what_was_left_behind_is_no_matter():
    t = throttle(rpm=60)
    left = []

    async def first():
        permit = await admit(t)
        left.extend(start(call(t, outcome=Outcome.REFUSED, refusal=BILLING)) for _ in range(3))
        left.append(start(asyncio.sleep(1000)))
        await ticks()
        bill(permit)
        await asyncio.sleep(1)
        with pytest.raises(AccountBlocked):
            await admit(t)

    async def second():
        for _ in range(2):
            bill(await admit(t))
        assert await outcome(call(t)) == "AccountBlocked"
        await asyncio.sleep(BLOCKED)
        assert await outcome(call(t)) >= BLOCKED
        assert (t.waiting, t.in_flight) == (0, 0)

    virtual_run(first())
    for task in left[1:3]:  # the first one confirmed it
        assert isinstance(task.exception(), AccountBlocked)
    virtual_run(second())


# --- one call, or all -----------------------------------------------------------------------------


async def answered(**options):
    """A throttle whose server has just answered a call, and one call in flight."""
    t = throttle(rpm=60, **options)
    await call(t)
    return t, await admit(t)


@virtual
async def test_where_the_server_was_answering_one_call_confirms_a_refusal_before_the_others_fail():
    t, refused = await answered()
    waiting = [start(outcome(call(t, seconds=0.5))) for _ in range(5)]
    bill(refused)
    await ticks()
    assert t.in_flight == 0  # 60 a minute: it is not its turn yet
    await asyncio.sleep(1)
    assert (t.in_flight, t.waiting) == (1, 4)
    assert await gather(*waiting) == [2.0, 3.0, 4.0, 5.0, 6.0]  # it was answered, so the refusal concerned one call


@virtual
async def test_a_second_refusal_fails_those_that_wait():
    t, refused = await answered()
    waiting = [start(outcome(call(t, outcome=Outcome.REFUSED, refusal=BILLING))) for _ in range(5)]
    bill(refused)
    assert (await gather(*waiting)).count("AccountBlocked") == 4
    assert await outcome(call(t)) == "AccountBlocked"


@virtual
async def test_refusals_of_what_was_sent_before_confirm_nothing():
    t = throttle()
    await call(t)
    permits = [await admit(t) for _ in range(5)]
    for permit in permits:
        bill(permit)
    assert await call(t) == now()
    assert await call(t) == now()


@virtual
async def test_a_small_call_is_the_one_that_confirms():
    """A large one may be refused for its size."""
    t = throttle()
    await call(t)
    held = [await admit(t) for _ in range(16)]
    large = start(outcome(call(t, 50_000, outcome=Outcome.REFUSED, refusal=BILLING)))
    small = [start(outcome(call(t, 10))) for _ in range(3)]
    await ticks()
    bill(held[0])
    assert await gather(*small) == 3 * [now()]
    for permit in held[1:]:
        permit.settle(Outcome.SUCCESS)
    assert isinstance(await large, float)


@virtual
async def test_after_a_false_alarm_the_next_one_holds_no_call():
    t = throttle()
    await call(t)
    bill(await admit(t))
    await call(t)
    bill(await admit(t))
    permits = [await admit(t) for _ in range(5)]
    assert t.in_flight == 5
    for permit in permits:
        permit.settle(Outcome.SUCCESS)


@pytest.mark.parametrize("end", [Outcome.IGNORED, Outcome.OVERLOADED, Outcome.UNSENT])
@virtual
async def test_where_the_call_that_was_to_confirm_ends_otherwise_another_does(end):
    t = throttle()
    await call(t)
    bill(await admit(t))
    (await admit(t)).settle(end)
    assert await call(t) == now()


@virtual
async def test_a_call_that_is_not_refused_within_a_second_is_being_served():
    t = throttle()
    await call(t)
    bill(await admit(t))
    slow = await admit(t)
    assert await gather(call(t), call(t)) == [now(), now()] == [1.0, 1.0]
    slow.settle(Outcome.SUCCESS)
