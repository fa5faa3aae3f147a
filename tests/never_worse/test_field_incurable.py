"""Field cases, section C: what no wait cures, the caller hears soon; what a wait cures is not taken for that."""

import asyncio
import json

import pytest

from .promise import MINUTE, REFUSED_AGAIN, SLACK
from .script import Scripted, always, answered, call, ends, errors, first, gather, play, says
from .server import Bucket


def error(message="", **more):
    return json.dumps({"error": {"message": message, **more}})


INCURABLE = {
    "credits used up": says(
        429,
        '{"code":"resource-exhausted","error":"Your team 0-0 has either used all available credits or reached its '
        'monthly spending limit."}',
    ),
    "new-api": says(429, error("quota", code="insufficient_user_quota", type="new_api_error")),
    "Moonshot": says(
        429,
        error(
            "You exceeded your current token quota: <0> 0, please check your account balance",
            type="exceeded_current_quota_error",
        ),
    ),
    "Gemini's limit 0": says(
        429,
        error(
            "You exceeded your current quota, please check your plan and billing details.\n* Quota exceeded for "
            "metric: generativelanguage.googleapis.com/"
            "generate_content_free_tier_requests, limit: 0, model: gemini-2.5-pro\n"
            "Please retry in 36.1s.",
            code=429,
            status="RESOURCE_EXHAUSTED",
        ),
    ),
    "OpenAI's limit 0": says(
        429,
        error(
            "Rate limit reached for m in organization o on requests per min (RPM): Limit 0, Used 0, Requested 1.",
            type="requests",
            code="rate_limit_exceeded",
        ),
    ),
    "insufficient_quota": says(429, error("You exceeded your current quota", code="insufficient_quota")),
    "a limit that resets in hours": says(429, error("limit", type="usage_limit_reached", resets_in_seconds=13872)),
}


@pytest.mark.parametrize("said", INCURABLE)
def test_the_callers_hear_soon_and_after_no_more_attempts_than_with_stock(said):
    async def ten(client):
        return await gather(client, 10)

    played = play(ten, Scripted(always(INCURABLE[said])))

    assert {error.status for error in errors(played.gave)} == {429}
    assert len(errors(played.gave)) == 10
    assert played.took <= SLACK
    assert max(played.per_call.values()) <= 3


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("header", [{}, {"retry_after": "20"}, {"retry_after": "3600"}])
def test_what_the_server_says_not_to_send_again_is_the_callers(retries, header):
    async def ten(client):
        return await gather(client, 10)

    said = says(429, error("no"), x_should_retry="false", **header)
    played = play(ten, Scripted(lambda attempt: said if attempt.call == 0 else None), max_retries=retries)

    assert played.per_call[0] == 1
    assert answered(played.gave) == 9
    assert played.took <= SLACK + min(20.0, float(header.get("retry_after", 0)))


def prompt(tokens):
    return [{"role": "user", "content": "word " * tokens + "0"}]


def too_large_beyond(tokens, said):
    return Scripted(lambda attempt: said if len(attempt.asked) > 5 * tokens else None)


@pytest.mark.parametrize(
    "said",
    [
        says(
            429,
            error("This request would exceed the rate limit for your organization of 20,000 input tokens per minute"),
        ),
        says(402, error("Prompt tokens limit exceeded: 36163 > 29652. To increase, visit settings", code=402)),
        says(413, error("Request too large for model m", type="tokens", code="rate_limit_exceeded")),
    ],
    ids=["Anthropic", "OpenRouter", "Groq"],
)
def test_one_call_that_is_too_large_fails_alone_and_soon(said):
    async def large_and_small(client):
        large = ends(call(client, messages=prompt(40_000)))
        return await asyncio.gather(large, gather(client, 20))

    played = play(large_and_small, too_large_beyond(20_000, said))
    (large, _), small = played.gave

    assert large.status == said.status
    assert answered(small) == 20
    assert played.took <= SLACK


@pytest.mark.parametrize(
    "message",
    [
        "You exceeded your current requests list, see https://help.aliyun.com/error-code#token-limit",
        "Allocated quota exceeded, please increase your quota limit.",
    ],
)
def test_dashscopes_quota_is_a_rate_of_tokens(message):
    async def fifty(client):
        return await gather(client, 50)

    bucket = Bucket(5.0, 10)
    said = says(429, error(message, code="insufficient_quota", type="insufficient_quota"))
    played = play(fifty, Scripted(lambda attempt: said if bucket.refuses(attempt.at) else None))

    assert answered(played.gave) == 50


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("body", ["", "{}", error("no"), "<html></html>", error("Too many concurrent requests")])
def test_where_nothing_is_accepted_and_no_wait_was_named_it_is_given_up_in_a_minute(retries, body):
    async def ten(client):
        return await gather(client, 10)

    played = play(ten, Scripted(always(says(429, body))), max_retries=retries)

    assert {error.status for error in errors(played.gave)} == {429}
    assert played.took <= MINUTE + SLACK
    assert max(played.per_call.values()) <= retries + 1 + REFUSED_AGAIN


def test_a_billing_refusal_of_an_account_served_seconds_ago_fails_no_waiting_call():
    """It is confirmed by one call before the queue fails; stock tries it again too."""
    said = says(429, error("You exceeded your current quota", code="insufficient_quota"))

    async def served_then_refused(client):
        served = await gather(client, 20)
        return served + await gather(client, 20)

    played = play(served_then_refused, Scripted(lambda attempt: said if attempt.number == 20 else None), rpm=6000)

    assert answered(played.gave) == 40


def test_a_confirmed_billing_refusal_fails_the_queue_soon():
    said = says(429, error("You exceeded your current quota", code="insufficient_quota"))

    async def served_then_refused(client):
        served = await gather(client, 20)
        return served + await gather(client, 40)

    played = play(served_then_refused, Scripted(lambda attempt: said if attempt.number >= 20 else None), rpm=600)

    assert answered(played.gave) == 20
    assert len(errors(played.gave)) == 40
    assert played.took <= 2 * SLACK


def test_an_overload_of_one_call_is_no_refusal_of_the_account():
    async def ten(client):
        return await gather(client, 10)

    played = play(ten, Scripted(first(says(503, error("busy"), retry_after="1"))))

    assert answered(played.gave) == 10
