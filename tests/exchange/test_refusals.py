"""Refusals never reach the caller: the call waits as the server asks, keeps its place, and is sent again."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import openai
import pytest

from scripted import HI, Says, Script, families, now, refuses, say, throttled
from throttled_openai.simulator import Fault, Simulator, virtual_run

SLOW_DOWN = {"message": "Slow down", "kind": "server_error", "code": "slow_down", "status": 503}
OUT_OF_MONEY = "You exceeded your current quota, please check your plan and billing details."
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 54321. "
    "The input or output tokens must be reduced in order to run successfully."
)
TOKENS_SPENT = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): "
    "Limit 30000, Used 30000, Requested 1000. Please try again in {}."
)


def server(**options):
    """Every answer takes exactly one second; refusals come at once."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


# Re-admission.


@families
def test_a_refused_call_succeeds_without_using_up_retries(family):
    async def main():
        script = Script(*[refuses(headers={"retry-after-ms": "100"})] * 3)
        client = throttled(script, family, max_retries=0)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.retries_taken == 0
        assert raw.parse().choices[0].message.content == "yes"
        assert script.times == pytest.approx([0.0, 0.1, 0.2, 0.3])
        assert [seen.retry_count for seen in script.seen] == [0, 0, 0, 0]
        stats = client.throttle.stats()
        assert (stats.admitted, stats.refused, stats.succeeded, stats.in_flight) == (4, 3, 1, 0)

    virtual_run(main())


@families
def test_a_refused_stream_is_sent_again_and_streams(family):
    async def main():
        simulator = server(faults=[Fault(status=429, retry_after=2.0, last=0)])
        client = throttled(simulator, family, max_retries=0)
        stream = await say(client, stream=True)
        assert len([chunk async for chunk in stream]) == 18
        assert [attempt.at for attempt in simulator.log] == [0.0, 3.0]
        assert client.throttle.in_flight == 0

    virtual_run(main())


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after-ms": "1234"}, "Rate limit reached", 1.234),
        ({"retry-after-ms": "1234", "retry-after": "2"}, "Please try again in 3s.", 1.234),
        ({"retry-after": "2"}, "Rate limit reached", 2.0),
        ({"retry-after": "2"}, "Please try again in 3s.", 2.0),
        ({"retry-after": "0.25"}, "Rate limit reached", 0.25),
        ({}, "Rate limit reached. Please try again in 58.891s.", 58.891),
        ({}, "Rate limit reached. Please try again in 120ms.", 0.12),
        ({}, "Rate limit reached. Please try again in 1m26.4s.", 86.4),
        ({}, "Requests have exceeded call rate limit. Please retry after 7 seconds.", 7.0),
        ({}, TOKENS_SPENT.format("2s"), 2.0),
    ],
)
def test_the_servers_wait_is_kept_to_the_millisecond(headers, message, seconds):
    async def main():
        script = Script(refuses(message, headers=headers))
        await say(throttled(script))
        assert script.times == pytest.approx([0.0, seconds], abs=1e-9)

    virtual_run(main())


def test_a_wait_given_as_a_date_counts_from_the_responses_own_date():
    async def main():
        told_at = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
        dates = {
            "date": format_datetime(told_at, usegmt=True),
            "retry-after": format_datetime(told_at + timedelta(seconds=9), usegmt=True),
        }
        script = Script(refuses(headers=dates))
        await say(throttled(script))
        assert script.times == [0.0, 9.0]

    virtual_run(main())


def test_a_wait_is_stretched_by_up_to_a_tenth_so_that_clients_do_not_return_together():
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "10000"}))
        client = throttled(script)
        client.throttle._dispatcher.random = lambda: 0.5
        await say(client)
        assert script.times == [0.0, 10.5]

    virtual_run(main())


def test_no_call_of_a_budget_goes_while_the_server_asks_to_wait():
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "5000"}))
        client = throttled(script)
        calls = [asyncio.create_task(say(client, "refused"))]
        for number in range(4):
            await asyncio.sleep(1.0)
            calls.append(asyncio.create_task(say(client, str(number))))
        other = asyncio.create_task(say(client, "other model", model="gpt-4o-mini"))
        await asyncio.gather(*calls, other)
        assert [(seen.text, seen.at) for seen in script.seen[:3]] == [
            ("refused", 0.0),
            ("other model", 4.0),
            ("refused", 5.0),
        ]
        assert min(script.times[3:]) >= 5.0

    virtual_run(main())


def test_a_pause_is_only_extended():
    async def main():
        script = Script(
            Says(),
            refuses(headers={"retry-after-ms": "10000"}, delay=1.0),
            refuses(headers={"retry-after-ms": "1000"}, delay=2.0),
            refuses(headers={"retry-after-ms": "9000"}, delay=3.0),
        )
        client = throttled(script)
        await say(client)
        await asyncio.gather(*(say(client, str(number)) for number in range(3)))
        assert script.times[1:4] == [0.0, 0.0, 0.0]
        assert script.times[4] == 12.0

    virtual_run(main())


def test_a_refusal_for_tokens_holds_back_the_large_and_lets_the_small_pass():
    """The server's bucket does the same: what is missing is missing for large calls first."""

    async def main():
        simulator = server(tpm=60_000)
        client = throttled(simulator, tpm=60_000)
        await say(client)
        simulator.drain("gpt-4o", tokens=60_000)
        simulator.change(announce=False)
        # 2,000 tokens come back in 2 s.
        large = asyncio.create_task(say(client, "x" * 4 * 1997))
        await asyncio.sleep(0.5)
        await large
        refused, admitted = simulator.log[1:3]
        assert (refused.status, admitted.status) == (429, 200)
        assert admitted.at - refused.at == pytest.approx(2.0, abs=0.001)

    virtual_run(main())


def test_a_budget_reopens_at_its_rate_and_not_as_a_herd():
    async def main():
        # 10 requests a second; the account has been emptied, and nothing is known of it.
        simulator = server(rpm=600, initial_level=0.0)
        client = throttled(simulator)
        await asyncio.gather(*(say(client) for _ in range(200)))
        at = [attempt.at for attempt in simulator.log]
        assert simulator.refused == 1  # the first is sent alone, and its refusal tells the limit
        # No second has more than the rate and the burst of 0.85 s that `Limits` has.
        for start in at[1:]:
            assert sum(start <= instant < start + 1.0 for instant in at) <= 10 + 8.5
        assert now() <= 1.05 * 21.0

    virtual_run(main())


def test_where_no_rate_is_known_a_pause_ends_at_a_learnt_pace_and_not_with_all():
    async def main():
        refusals = [refuses(headers={"retry-after-ms": "5000"}, delay=0.5)] * 16
        script = Script(Says(), *refusals, *[Says(delay=1.0)] * 200)
        client = throttled(script)
        await say(client)
        await asyncio.gather(*(say(client) for _ in range(100)))
        assert script.times[1:17] == [0.0] * 16
        # 16 at once were too many; half of what had been sent per second is the first guess.
        reopened = Counter(script.times[17:])
        assert min(reopened) == pytest.approx(5.5)
        assert max(reopened.values()) == 1
        assert sum(5.5 <= at < 6.5 for at in script.times) <= 16

    virtual_run(main())


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        ("Rate limit reached for gpt-4o on requests per min (RPM): Limit 30000, Used 30000, Requested 1.", {}),
        ("Rate limit reached for gpt-4o on requests per min (RPM): Limit 30000.", {}),
        ("Rate limit reached", {}),
        ("Rate limit reached", {"x-ratelimit-limit-requests": "30000"}),
    ],
)
def test_no_call_goes_before_the_pause_of_a_refusal_that_teaches_a_limit(message, headers):
    async def main():
        refusal = refuses(message, headers={"retry-after-ms": "10000", **headers}, delay=0.5)
        script = Script(Says(), *[refusal] * 16)
        client = throttled(script)
        await say(client)
        await asyncio.gather(*(say(client) for _ in range(100)))
        assert script.times[1:17] == [0.0] * 16
        assert min(script.times[17:]) == 10.5

    virtual_run(main())


def test_a_refused_call_keeps_its_place_in_line():
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "1000"}, delay=0.5))
        client = throttled(script, max_concurrency=1)
        await asyncio.gather(*(say(client, str(number)) for number in range(5)))
        assert [seen.text for seen in script.seen] == ["0", "0", "1", "2", "3", "4"]

    virtual_run(main())


def test_calls_refused_together_return_in_the_order_they_came():
    async def main():
        script = Script(*[refuses(headers={"retry-after-ms": "1000"})] * 5)
        client = throttled(script, rpm=60)
        client.throttle.stats()
        await asyncio.gather(*(say(client, str(number)) for number in range(16)))
        done = [seen.text for seen in script.seen[5:]]
        assert done == sorted(done, key=int)

    virtual_run(main())


@families
def test_a_cancelled_readmission_leaves_nothing_behind(family):
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "60000"}))
        client = throttled(script, family)
        call = asyncio.create_task(say(client))
        await asyncio.sleep(1.0)
        assert client.throttle.waiting == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)
        assert len(script.seen) == 1

    virtual_run(main())


def test_a_fault_after_a_refusal_is_the_sdks_again():
    async def main():
        script = Script(refuses(headers={"retry-after-ms": "1000"}), Says(500, {}))
        client = throttled(script, max_retries=0)
        with pytest.raises(openai.InternalServerError):
            await say(client)
        assert script.times == [0.0, 1.0]
        assert client.throttle.in_flight == 0

    virtual_run(main())


# Overload.


@families
def test_a_503_that_says_slow_down_is_a_refusal(family):
    async def main():
        script = Script(*[refuses(**SLOW_DOWN, headers={"retry-after-ms": "1500"})] * 2)
        client = throttled(script, family, max_retries=0)
        assert (await say(client)).choices
        assert script.times == [0.0, 1.5, 3.0]
        assert [seen.retry_count for seen in script.seen] == [0, 0, 0]
        assert client.throttle.stats().refused == 2

    virtual_run(main())


def test_a_503_in_json_without_a_wait_is_answered_by_ever_longer_pauses():
    async def main():
        script = Script(*[refuses(**SLOW_DOWN, delay=1.0)] * 8)
        client = throttled(script, max_retries=0)
        await say(client)
        pauses = [after - before - 1.0 for before, after in pairwise(script.times)]
        # Half of 0.5 s, doubled; the other half is jitter. One refusal alone is no reason to pause. The sixth time the
        # call rests for longer, so that another one would find out.
        assert pauses[0] == 0.0
        assert [pause for pause in pauses if pause][:6] == [0.25, 0.5, 1.0, 2.0, 15.0, 15.0]

    virtual_run(main())


@families
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_the_page_of_a_broken_gateway_is_a_fault_for_the_sdks_own_retries(family, status):
    async def main():
        page = Says(status, b"<html><h1>Service Unavailable</h1></html>", headers={"content-type": "text/html"})
        script = Script(*[page] * 10)
        client = throttled(script, family)
        with pytest.raises(openai.InternalServerError):
            await say(client, timeout=5.0)
        assert [seen.retry_count for seen in script.seen] == [0, 1, 2]
        assert client.throttle.stats().refused == 0
        with pytest.raises(openai.InternalServerError):
            await say(client.with_options(max_retries=0))
        assert len(script.seen) == 4

    virtual_run(main())


@families
@pytest.mark.parametrize(("status", "attempts"), [(402, 1), (503, 3)])
def test_a_body_nested_too_deeply_is_as_good_as_none(family, status, attempts):
    """Its caller gets the SDK's error for the status, and no other call is held."""

    async def main():
        script = Script(*[Says(status, b'{"error":' * 100_000 + b"1" + b"}" * 100_000)] * attempts)
        client = throttled(script, family)
        with pytest.raises(openai.APIStatusError) as caught:
            await say(client)
        assert caught.value.status_code == status
        assert len(script.seen) == attempts
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)

    virtual_run(main())


def test_a_rate_limit_nested_too_deeply_is_a_plain_one():
    async def main():
        script = Script(Says(429, b"[" * 100_000, headers={"retry-after-ms": "100"}))
        assert (await say(throttled(script))).choices
        assert script.times == pytest.approx([0.0, 0.1])

    virtual_run(main())


# What waiting does not cure.


@families
@pytest.mark.parametrize(
    ("message", "code"),
    [
        (OUT_OF_MONEY, "insufficient_quota"),
        ("Billing hard limit has been reached", "billing_hard_limit_reached"),
        ("Your account is not active, please check your billing details", "billing_not_active"),
        ("No credits left", "credit_balance_exhausted"),
        (TOO_LARGE, "rate_limit_exceeded"),
    ],
)
def test_incurable_refusals_fail_after_one_attempt_and_billing_after_two(family, message, code):
    """One refusal for billing may be a mistake; the SDK tries again too."""

    async def main():
        script = Script(*[refuses(message, code=code, kind="insufficient_quota", headers={"retry-after": "1"})] * 9)
        client = throttled(script, family, max_retries=5)
        with pytest.raises(openai.RateLimitError) as caught:
            await say(client)
        assert type(caught.value) is openai.RateLimitError
        assert caught.value.code == code
        assert message in str(caught.value)
        assert len(script.times) == (1 if message == TOO_LARGE else 2)
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
@pytest.mark.parametrize(
    "body",
    [
        {"code": "Some resource has been exhausted", "error": "Your team x has used all available credits."},
        {"error": {"code": "insufficient_user_quota", "type": "new_api_error", "message": "…"}},
        {"error": {"type": "exceeded_current_quota_error", "message": "You exceeded your current token quota: x 0"}},
        {"error": {"code": 429, "message": "Quota exceeded for metric: x/y_requests, limit: 0. Please retry in 36s."}},
        {"error": {"code": 402, "message": "Prompt tokens limit exceeded: 36163 > 29652"}},
    ],
)
def test_incurable_refusals_are_recognised_in_other_words(family, body):
    async def main():
        script = Script(*[Says(429, body, headers={"retry-after": "1"})] * 9)
        with pytest.raises(openai.RateLimitError):
            await say(throttled(script, family, max_retries=5))
        assert len(script.times) <= 2

    virtual_run(main())


def test_a_token_quota_with_a_billing_code_fails_no_call():
    async def main():
        text = "Allocated quota exceeded, please increase your quota limit."
        script = Script(*[refuses(text, code="insufficient_quota", kind="insufficient_quota", delay=1.0)] * 3)
        client = throttled(script)
        answers = await asyncio.gather(*(say(client) for _ in range(20)))
        assert all(answer.choices for answer in answers)

    virtual_run(main())


def test_a_wait_in_a_field_of_the_body_is_kept():
    async def main():
        error = {"type": "usage_limit_reached", "message": "The usage limit has been reached", "resets_in_seconds": 45}
        script = Script(Says(429, {"error": error}))
        await say(throttled(script))
        assert script.times == pytest.approx([0.0, 45.0])

    virtual_run(main())


def test_a_request_too_large_for_an_unknown_limit_fails_after_one_attempt():
    async def main():
        simulator = server(tpm=1000, announce=False)
        client = throttled(simulator)
        with pytest.raises(openai.RateLimitError, match="Request too large"):
            await say(client, "x" * 8000)
        assert simulator.attempts == 1

    virtual_run(main())


def test_a_request_too_large_does_not_slow_the_others_down():
    async def main():
        script = Script(refuses(TOO_LARGE, kind="tokens", delay=0.5))
        client = throttled(script)
        large = asyncio.create_task(say(client))
        with pytest.raises(openai.RateLimitError):
            await large
        await asyncio.gather(*(say(client) for _ in range(16)))
        assert script.times[1:] == [0.5] * 16

    virtual_run(main())


# Giving up.


def test_max_refusals_0_hands_every_refusal_to_the_sdk():
    async def main():
        script = Script(*[refuses(headers={"retry-after-ms": "1000"})] * 10)
        client = throttled(script, max_refusals=0, max_retries=1)
        with pytest.raises(openai.RateLimitError):
            await say(client)
        assert [seen.retry_count for seen in script.seen] == [0, 1]
        assert script.times[1] >= 1.0

    virtual_run(main())


@families
def test_more_than_max_refusals_end_as_the_sdks_error(family):
    async def main():
        script = Script(*[refuses(headers={"retry-after-ms": "1000"})] * 10)
        client = throttled(script, family, max_refusals=3, max_retries=5)
        with pytest.raises(openai.RateLimitError) as caught:
            await say(client)
        assert type(caught.value) is openai.RateLimitError
        assert caught.value.response.headers["retry-after-ms"] == "1000"
        assert caught.value.body["code"] == "rate_limit_exceeded"
        assert script.times == [0.0, 1.0, 2.0, 3.0]

    virtual_run(main())


@families
def test_max_wait_bounds_readmission_too_and_ends_as_the_sdks_error(family):
    async def main():
        script = Script(*[refuses(headers={"retry-after-ms": "2000"})] * 10)
        client = throttled(script, family, max_wait=5.0, max_retries=5)
        with pytest.raises(openai.RateLimitError) as caught:
            await say(client)
        assert type(caught.value) is openai.RateLimitError
        assert script.times == [0.0, 2.0, 4.0]
        assert now() == 5.0
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)

    virtual_run(main())


@families
def test_a_given_up_503_is_the_sdks_error(family):
    async def main():
        script = Script(*[refuses(**SLOW_DOWN, headers={"retry-after-ms": "1000"})] * 10)
        with pytest.raises(openai.InternalServerError) as caught:
            await say(throttled(script, family, max_refusals=1, max_retries=5))
        assert caught.value.status_code == 503
        assert script.times == [0.0, 1.0]

    virtual_run(main())
