"""What servers say when they refuse, as recorded and as quoted in provider-semantics.md.

Quotes that are not from there are from the provider's documentation or from a public log of the year given.
"""

import json
import math
import time
from dataclasses import fields
from email.utils import formatdate

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from test_headers import BROKEN, NOW, all_headers, announced, assert_possible, values
from throttled_openai._core.bodies import read_body
from throttled_openai._core.durations import DAY, MONTH
from throttled_openai._core.refusals import Refusal, read_refusal, read_stream_error


def refused(body, status=429, headers=None, wall_now=NOW):
    return read_refusal(status, headers or {}, body, wall_now=wall_now)


def openai_error(message, kind=None, code="rate_limit_exceeded"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# --- refusals: every body quoted in the document -----------------------------

TPM = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29446, "
    "Requested 821. Please try again in 534ms. Visit https://platform.openai.com/account/rate-limits to learn more."
)
TOO_LARGE = (
    "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 40000. "
    "The input or output tokens must be reduced in order to run successfully. Visit …"
)
FREE_TPM = (
    "Rate limit reached for gpt-3.5-turbo in organization org-x on tokens per min (TPM): Limit 100000, Used 96749, "
    "Requested 19126. Please try again in 114h18m0s."
)
GROQ_TPD = (
    "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on "
    "tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more tokens?"
)
GROQ_TOO_LARGE = (
    "Request too large for model `llama-3.1-8b-instant` in organization `org_x` service tier `on_demand` on tokens "
    "per minute (TPM): Limit 6000, Requested 12328, please reduce your message size and try again. Need more tokens?"
)
AZURE = (
    "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-08-01-preview have "
    "exceeded {what} rate limit of your current OpenAI S0 pricing tier. Please retry after {wait} seconds. Please "
    "go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
)
AZURE_BUSY = (
    "The system is currently experiencing high demand and cannot process your request. Your request exceeds the "
    "maximum usage size allowed during peak load. Please retry after 6 seconds"
)
GEMINI = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.299376739s"},
            ],
        }
    }
]
OPENROUTER = {
    "error": {
        "message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "50",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int((NOW + 7200) * 1000)),
            },
            "provider_name": None,
        },
    }
}
ANTHROPIC = {
    "error": {
        "code": "rate_limit_error",
        "message": "This request would exceed the rate limit for your organization of 20,000 input tokens per minute…",
        "type": "invalid_request_error",
    }
}
LITELLM = (
    "Rate limit exceeded for api_key: 18c1…. Limit type: tokens. Current limit: 200, Remaining: 200. "
    "Limit resets at: 2026-05-28 20:27:10 UTC"
)
LITELLM_CROSSED = (
    "LiteLLM Rate Limit Handler for rate limit type = key. Crossed TPM / RPM / Max Parallel Request Limit. current "
    "rpm: {}, rpm limit: {}, current tpm: 348, tpm limit: {}, current max_parallel_requests: 0, "
    "max_parallel_requests: 9223372036854775807"
)
SUDDEN = (
    "Your request rate has increased suddenly, overloading the model. Please reduce your request rate to its "
    "original level, keep it stable for at least 15 minutes, and then gradually increase it."
)
ACCELERATION = (
    "This request would exceed your organization's maximum usage increase rate for input tokens per minute. Your "
    "current limit is 58,276 input tokens per minute, and will increase to 68,276 at the next minute boundary. "
    "Please scale up your input tokens usage more gradually to stay within the acceleration limit."
)
NO_CREDITS = (
    "This request requires more credits, or fewer max_tokens. You requested up to 16384 tokens, but can only "
    "afford 1056."
)
MISTRAL_BUSY = {
    "object": "error",
    "message": "Service tier capacity exceeded for this model.",
    "type": "service_tier_capacity_exceeded",
    "param": None,
    "code": "3505",
}
MISTRAL = {"message": "Requests rate limit exceeded", "type": "rate_limited", "code": "1300"}


def limited(what, limit, used, requested, wait):
    numbers = f"Limit {limit}, Used {used}, Requested {requested}. Please try again in {wait}. Visit …"
    return f"Rate limit reached for gpt-4 in organization org-x on {what}: {numbers}"


def rate(*told, **also):
    """A refusal for our rate: dimension, retry_after, period, limit, used, requested, as far as told."""
    return Refusal("rate", *told, **also)


def google_error(*violations, message="Quota exceeded", retry="20s"):
    details = [{"violations": [dict(zip(("quotaId", "quotaValue"), told, strict=False)) for told in violations]}]
    details.append({"retryDelay": retry})
    return [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": message, "details": details}}]


QUOTED = [
    pytest.param(openai_error(TPM, "tokens"), rate("tokens", 0.534, 60, 30_000, 29_446, 821), id="tokens per minute"),
    pytest.param(
        openai_error(limited("requests per min (RPM)", 3, 3, 1, "20s"), "requests"),
        rate("requests", 20, 60, 3, 3, 1),
        id="requests per minute",
    ),
    pytest.param(
        openai_error(limited("requests per day (RPD)", 200, 200, 1, "7m12s"), "requests"),
        rate("requests", 432, DAY, 200, 200, 1),
        id="requests per day",
    ),
    pytest.param(
        openai_error(limited("input-images per min", 5, 5, 1, "12s")),
        rate(None, 12, 60, 5, 5, 1),
        id="images",
    ),
    pytest.param(
        openai_error(limited("tokens_usage_based per min", 10_000, 8782, 8172, "41.724s"), "tokens_usage_based"),
        rate("tokens", 41.724, 60, 10_000, 8782, 8172),
        id="2023",
    ),
    pytest.param(
        openai_error(FREE_TPM, "tokens"),
        rate("tokens", 411_480, MONTH, 100_000, 96_749, 19_126),
        id="a month called a minute",
    ),
    pytest.param(
        openai_error(TOO_LARGE, "tokens"),
        Refusal("too_large", "tokens", None, 60, 30_000, None, 40_000),
        id="too large",
    ),
    pytest.param(
        openai_error(TOO_LARGE.replace("gpt-4o", "gpt-4.1-2025-04-14 (for limit gpt-4.1)"), "tokens"),
        Refusal("too_large", "tokens", None, 60, 30_000, None, 40_000, "gpt-4.1"),
        id="a shared limit",
    ),
    pytest.param(
        openai_error("You exceeded your current quota, please check…", "insufficient_quota", "insufficient_quota"),
        Refusal("billing"),
        id="quota",
    ),
    pytest.param(openai_error("Resource Unavailable", None, "resource_unavailable"), Refusal("overload"), id="flex"),
    pytest.param(
        openai_error(GROQ_TPD, "tokens"), rate("tokens", 578.016, DAY, 100_000, 97_050, 3619), id="groq, a day"
    ),
    pytest.param(
        {"error": {"code": "429", "message": AZURE.format(what="token", wait=22)}}, rate("tokens", 22), id="azure"
    ),
    pytest.param(
        {"error": {"code": "429", "message": AZURE.format(what="call", wait=5)}},
        rate("requests", 5),
        id="azure, calls",
    ),
    pytest.param(
        {"error": {"code": "429", "message": AZURE.format(what="token", wait=86400)}},
        Refusal("too_large", "tokens"),
        id="azure, can never fit",
    ),
    pytest.param(
        {"error": {"type": "too_many_requests", "code": "no_capacity", "message": AZURE_BUSY}},
        Refusal("overload", None, 6),
        id="azure, no capacity",
    ),
    pytest.param(MISTRAL_BUSY, Refusal("overload"), id="mistral, no capacity"),
    pytest.param(MISTRAL, rate("requests"), id="mistral"),
    pytest.param(ANTHROPIC, rate("tokens", None, 60, 20_000), id="anthropic"),
    pytest.param(GEMINI, rate("requests", 3.299376739, 60), id="gemini"),
    pytest.param(OPENROUTER, rate("requests", 7200, DAY, 50, 50), id="openrouter"),
    pytest.param(
        {
            "error": {
                "message": "Provider returned error",
                "code": 429,
                "metadata": {"raw": json.dumps(openai_error(TPM, "tokens")), "provider_name": "OpenAI"},
            }
        },
        rate("tokens", 0.534, 60, 30_000, 29_446, 821),
        id="openrouter, what its provider said",
    ),
    pytest.param(
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": "Please retry in 7s"}}},
        rate(None, 7),
        id="openrouter, what its provider said, as text",
    ),
    pytest.param(
        {"error": {"message": LITELLM, "type": "None", "code": "429"}}, rate("tokens", 30, 60, 200), id="litellm"
    ),
    pytest.param(
        {"error": {"message": LITELLM.replace("tokens", "requests").replace("Remaining: 200", "Remaining: -20")}},
        rate("requests", 30, 60, 200, 200),
        id="litellm, counted further",
    ),
    pytest.param(
        {"error": {"message": LITELLM.replace("tokens", "max_parallel_requests"), "code": "429"}},
        Refusal("overload", None, 30),
        id="litellm, concurrency",
    ),
    pytest.param(
        {"error": {"message": LITELLM_CROSSED.format(1, 1, 9223372036854775807), "type": "None", "code": "429"}},
        rate("requests", 60, 60, 1, 1),
        id="litellm before 2025, requests",
    ),
    pytest.param(
        {"error": {"message": LITELLM_CROSSED.format(1, 9223372036854775807, 300), "type": "None", "code": "429"}},
        rate("tokens", None, 60, 300, 348),
        id="litellm before 2025, tokens",
    ),
    pytest.param(
        {"error": {"message": LITELLM_CROSSED.format(1, 5, 500), "type": "None", "code": "429"}},
        Refusal("overload"),
        id="litellm before 2025, concurrency",
    ),
    pytest.param(
        {"error": {"message": "No deployments available for selected model, Try again in 30 seconds."}},
        rate(None, 30),
        id="litellm, all deployments cool down",
    ),
    pytest.param(
        google_error(("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "20")),
        rate("requests", 20, DAY, 20),
        id="gemini, a day, with its limit",
    ),
    pytest.param(
        google_error(
            ("GenerateContentInputTokensPerModelPerMinute-FreeTier", "16000"),
            ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 20),
        ),
        rate("requests", 20, DAY, 20),
        id="gemini, two at once",
    ),
    pytest.param(
        google_error(("GenerateContentInputTokensPerModelPerMinute-FreeTier", "16000"), retry="28s"),
        rate("tokens", 28, 60, 16_000),
        id="gemini, tokens",
    ),
    pytest.param(
        google_error(("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0")),
        Refusal("too_large", "requests", None, DAY),
        id="gemini, a model that is not free",
    ),
    pytest.param(
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded. Please retry in 36.7s."}}],
        rate(None, 36.7),
        id="gemini, without details",
    ),
    pytest.param(
        openai_error(SUDDEN, "rate_limit_error", "slow_down"), rate(slow_down=True), id="openai, too sudden (2026)"
    ),
    pytest.param(
        {"type": "error", "error": {"type": "rate_limit_error", "message": ACCELERATION}},
        rate("tokens", None, 60, slow_down=True),
        id="anthropic, too sudden",
    ),
    pytest.param(
        {"error": {"code": "rate_limit_error", "message": "… of your organization of 8,000 output tokens per minute…"}},
        rate(None, None, 60, 8000),
        id="anthropic, output",
    ),
    pytest.param(
        openai_error(limited("output tokens per minute (OTPM)", 8000, 8000, 20, "150ms"), None),
        rate(None, 0.15, 60, 8000, 8000, 20),
        id="groq, output",
    ),
    pytest.param(
        openai_error(limited("input tokens per minute (ITPM)", 8000, 8000, 20, "150ms"), None),
        rate("tokens", 0.15, 60, 8000, 8000, 20),
        id="groq, input",
    ),
    pytest.param(
        {"error": {"message": "Too Many Requests", "error_type": "dynamic_token_limited"}},
        rate("tokens"),
        id="together, tokens",
    ),
    pytest.param(
        {"error": {"message": "Too Many Requests", "type": "dynamic_request_limited"}},
        rate("requests"),
        id="together, requests",
    ),
    pytest.param(
        openai_error("You have been rate limited. Your rate limit is 60 queries per minute.", "credit_limit", None),
        rate("requests", None, 60, 60),
        id="together, queries",
    ),
    pytest.param(
        {
            "object": "error",
            "type": "invalid_request_error",
            "code": "invalid_request_error",
            "message": "rate limit exceeded, please try again later",
        },
        rate(),
        id="fireworks",
    ),
    pytest.param(
        {
            "error": {
                "code": "RateLimitReached",
                "message": "Rate limit of 8 per 86400s exceeded for UserByModelByDay. Please wait 83652 seconds before "
                "retrying.",
            }
        },
        rate(None, 83_652),
        id="azure, models of others",
    ),
    pytest.param({"error": "Too many concurrent requests"}, Refusal("overload"), id="concurrency"),
    pytest.param({"error": "Model is overloaded", "error_type": "overloaded"}, Refusal("overload"), id="tgi"),
]


@pytest.mark.parametrize(("body", "refusal"), QUOTED)
def test_a_quoted_body_is_read(body, refusal):
    assert refused(body) == refusal


@pytest.mark.parametrize(("body", "refusal"), QUOTED)
def test_a_body_reads_the_same_as_bytes_as_text_and_as_the_sdk_unwraps_it(body, refusal):
    text = json.dumps(body)
    assert refused(text) == refused(text.encode()) == refusal
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        assert refused(body["error"]) == refusal


@pytest.mark.parametrize(("body", "refusal"), QUOTED)
def test_only_what_can_never_succeed_is_final(body, refusal):
    assert refused(body).final == (refusal.kind in ("too_large", "billing"))


@pytest.mark.parametrize(
    "code",
    [
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    ],
)
def test_no_money_is_final_whatever_the_headers_promise(code):
    for kind in ("insufficient_quota", None):
        refusal = refused(openai_error("…", kind, code), headers={"retry-after": "5"})
        assert refusal == Refusal("billing")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, id="deepseek"),
        pytest.param(
            402, {"error": {"message": "Insufficient credits. Add more using …", "code": 402}}, id="openrouter"
        ),
        pytest.param(402, {"error": {"message": "This request requires more credits", "code": 402}}, id="openrouter"),
        pytest.param(402, None, id="bare"),
        pytest.param(402, b"<html>Payment Required</html>", id="a page"),
        pytest.param(429, google_error(message="Your prepayment credits are depleted."), id="gemini, prepaid"),
        pytest.param(
            429, google_error(message="Your project has exceeded its monthly spending cap."), id="gemini, cap"
        ),
        pytest.param(429, {"error": {"message": "You have run out of credits"}}, id="xai"),
        pytest.param(429, {"error": {"type": "budget_exceeded", "message": "Budget has been exceeded!"}}, id="litellm"),
    ],
)
def test_no_money_is_said_in_many_ways(status, body):
    assert refused(body, status, {"retry-after": "5"}) == Refusal("billing")


def test_a_request_that_the_rest_of_the_money_does_not_buy_is_too_large_and_others_may_not_be():
    assert refused({"error": {"message": NO_CREDITS, "code": 402}}, 402) == Refusal("too_large")


@pytest.mark.parametrize("message", ["Add 10 credits to unlock 1000 free model requests", "check your billing details"])
def test_money_in_a_text_about_rates_is_not_the_end_of_it(message):
    assert not refused({"error": {"message": message}}).final


@pytest.mark.parametrize(
    "body",
    [
        openai_error(SUDDEN, "slow_down", "slow_down"),
        openai_error("Slow Down", "server_error", None),
        openai_error("Slow down. Please …", None, None),
        SUDDEN,
    ],
)
def test_503_may_say_that_we_grew_too_fast(body):
    assert refused(body, 503, {"retry-after": "5"}) == Refusal("overload", None, 5, slow_down=True)


def test_an_old_request_to_slow_down_is_no_more_than_a_rate_limit():
    body = openai_error("You've exceeded the 5 request/min rate limit, please slow down and try again.")
    assert refused(body) == rate("requests") or not refused(body).slow_down


def test_less_than_one_is_no_limit():
    refusal = refused(google_error(("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0.5")))
    assert refusal.announcement == refused(None).announcement


def test_a_limit_of_zero_is_no_limit_to_wait_for():
    refusal = refused(openai_error(limited("images per minute", 0, 0, 1, "1s")))
    assert (refusal.kind, refusal.limit) == ("too_large", None)


def test_groq_refuses_what_is_too_large_with_413():
    assert refused(openai_error(GROQ_TOO_LARGE, "tokens"), 413) == Refusal(
        "too_large", "tokens", None, 60, 6000, None, 12_328
    )


def test_a_413_of_a_proxy_is_not_about_rates():
    assert refused(b"<html><h1>413 Request Entity Too Large</h1></html>", 413) is None


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 408, 409, 422, 500, 502, 504, 520])
def test_other_statuses_are_no_refusals(status):
    assert refused(openai_error(TPM, "tokens"), status) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, "The engine is currently overloaded, please try again later"),
        (503, {"error": {"message": "Busy", "type": "service_unavailable_error", "code": "server_is_overloaded"}}),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
        (503, b"The request queue is full."),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        (503, None),
    ],
)
def test_503_and_529_are_overload(status, body):
    assert refused(body, status) == Refusal("overload")


@pytest.mark.parametrize("body", [None, b"", "", {}, [], b"<html>Too Many Requests</html>", 5, {"error": None}])
def test_a_bare_429_names_nothing(body):
    assert refused(body) == rate()


def test_too_large_cannot_be_told_apart_by_the_type():
    """OpenAI's type and code are the same for a request to send again and for one never to send again."""
    assert refused(openai_error(TPM, "tokens")).kind != refused(openai_error(TOO_LARGE, "tokens")).kind


def test_the_type_alone_names_the_dimension():
    assert refused(openai_error("slow", "tokens")).dimension == "tokens"
    assert refused(openai_error("slow", "requests")).dimension == "requests"


# --- how long to wait ---------------------------------------------------------


def waits(headers, body=None):
    return refused(body, headers=headers).retry_after


def test_the_wait_comes_from_the_most_exact_source():
    body = openai_error(TPM, "tokens")
    assert waits({"retry-after": "1", "retry-after-ms": "530"}, body) == 0.53
    assert waits({"retry-after": "1"}, body) == 1.0
    assert waits({}, body) == 0.534
    assert waits({}, None) is None


def test_the_httpx_headers_of_a_refusal_are_read_in_any_case():
    assert waits(httpx.Headers({"Retry-After": "2.5"})) == 2.5


def test_a_date_is_relative_to_the_servers_own_clock():
    headers = {"retry-after": formatdate(NOW + 30, usegmt=True)}
    assert waits(headers) == 30.0
    headers["date"] = formatdate(NOW + 20, usegmt=True)
    assert waits(headers) == 10.0


@pytest.mark.parametrize(
    "value", ["2026-05-28T20:26:50Z", "2026-05-28T22:26:50+02:00", str(int(NOW + 10)), str(int(NOW + 10) * 1000)]
)
def test_an_instant_is_a_date_or_an_epoch_in_seconds_or_milliseconds(value):
    assert waits({"x-ratelimit-reset": value}) == 10.0
    assert waits({"retry-after": value}) == 10.0


def test_the_end_of_an_exhausted_window_is_a_wait():
    assert waits({"ratelimit-limit": "100", "ratelimit-remaining": "0", "ratelimit-reset": "30"}) == 30.0
    assert waits({"ratelimit": '"default";r=0;t=30'}) == 30.0
    assert waits({"ratelimit": '"default";r=50;t=30, "burst";r=0;t=7'}) == 7.0
    assert waits({"ratelimit": '"default";r=0'}) is None
    assert waits({"ratelimit": '"default";r=0;t=30', "retry-after": "31"}) == 31.0
    assert waits({"x-ratelimit-reset": "2"}) == 2.0  # Together


def test_digitalocean_says_when_a_request_will_fit_and_the_soonest_counts():
    headers = {
        "date": formatdate(NOW, usegmt=True),
        "x-ratelimit-reset-requests": "0",
        "x-ratelimit-reset-tokens-per-minute": str(int(NOW) + 12),
        "X-RateLimit-Reset-Tokens-Per-Day": str(int(NOW) + 4000),
    }
    assert waits(headers, {"id": "too_many_requests", "message": "…"}) == 12.0
    assert waits(headers | {"retry-after": "3"}) == 3.0
    assert waits({"x-ratelimit-reset-tokens": "58.891s", "x-ratelimit-reset-requests": "500"}) is None


@pytest.mark.parametrize("value", [*BROKEN, "-1", formatdate(NOW - 5, usegmt=True), str(32 * 86_400), "Thu, 99 Foo"])
def test_a_wait_that_cannot_be_meant_is_not_told(value):
    if value != "0.5":
        assert waits({"retry-after": value}) is None
        assert waits({"retry-after-ms": "-" + value}) is None
    assert waits({"retry-after": value, "retry-after-ms": "250"}) == 0.25


def test_a_broken_wait_gives_way_to_the_next_source():
    assert waits({"retry-after-ms": "-1", "retry-after": "soon"}, openai_error(TPM, "tokens")) == 0.534


def test_the_wait_is_the_refill_of_what_is_missing_not_the_time_to_full():
    headers = announced(limit_tokens="30000", remaining_tokens="554", reset_tokens="58.891s")
    body = openai_error("Rate limit reached on tokens per min (TPM): Limit 30000, Requested 821.", "tokens")
    assert waits(headers, body) == 0.533  # (821 - 554.5) / 500; OpenAI said 534 ms
    assert waits({}, body) is None


def test_the_wait_is_computed_from_the_body_alone():
    body = openai_error(TPM.replace("Please try again in 534ms.", ""), "tokens")
    assert waits({}, body) == 0.534


def test_a_request_is_one_whether_it_is_said_or_not():
    headers = announced(limit_requests="600", remaining_requests="0", reset_requests="1m0s")
    assert waits(headers, openai_error("slow", "requests")) == 0.1
    assert waits(headers, None) is None  # it may be another limit that was hit


def test_nothing_is_missing_from_a_limit_that_was_not_hit():
    headers = announced(limit_requests="600", remaining_requests="599", reset_requests="100ms")
    assert waits(headers, openai_error("slow", "requests")) is None


# --- streams ------------------------------------------------------------------

STREAMED = {"code": "rate_limit_exceeded", "message": TPM}


@pytest.mark.parametrize(
    "error",
    [
        STREAMED,
        {"error": STREAMED},
        {"type": "error", **STREAMED, "param": None, "sequence_number": 3},
        {"type": "response.failed", "response": {"id": "resp_x", "status": "failed", "error": STREAMED}},
        {"id": "resp_x", "status": "failed", "error": STREAMED},
        json.dumps({"error": STREAMED}),
        json.dumps({"error": STREAMED}).encode(),
        {"error": {"code": 429, "message": TPM}},
        {"error": {"code": None, "type": "server_error", "message": TPM}},
        TPM,
    ],
)
def test_a_rate_limit_may_come_inside_a_stream(error):
    assert read_stream_error(error) == rate("tokens", 0.534, 60, 30_000, 29_446, 821)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"type": "too_many_requests", "code": "no_capacity", "message": AZURE_BUSY}},
        {"error": f"Busy. {AZURE_BUSY}", "code": 503},
        {"error": {"type": "overloaded_error", "message": AZURE_BUSY}},
        {"type": "error", "error": {"type": "service_unavailable_error", "message": AZURE_BUSY}},
        {"type": "response.failed", "response": {"error": {"code": "server_is_overloaded", "message": AZURE_BUSY}}},
        {"message": AZURE_BUSY, "type": "service_tier_capacity_exceeded", "code": "3505"},
    ],
)
def test_overload_may_come_inside_a_stream(error):
    assert read_stream_error(error) == Refusal("overload", None, 6)


def test_slow_down_may_come_inside_a_stream():
    error = {"error": {"code": "slow_down", "type": "rate_limit_error", "message": SUDDEN}}
    assert read_stream_error(error) == Refusal("overload", slow_down=True)


def test_the_end_of_money_may_come_inside_a_stream():
    assert read_stream_error({"code": "insufficient_quota", "message": "…"}) == Refusal("billing")
    assert read_stream_error({"error": {"code": 402, "message": "Insufficient credits"}}) == Refusal("billing")


@pytest.mark.parametrize(
    "error",
    [
        None,
        "",
        [],
        "boom",
        {"code": "server_error", "message": "The server had an error"},
        {"code": "context_length_exceeded", "message": "too many tokens"},
        {"error": {"code": 500, "message": "…"}},
        {"type": "response.completed", "response": {"error": None, "status": "completed"}},
    ],
)
def test_another_error_inside_a_stream_is_no_refusal(error):
    assert read_stream_error(error) is None


# --- hostile ------------------------------------------------------------------

keys = st.sampled_from(["error", "code", "type", "status", "message", "details", "metadata", "response", "detail"])
keys |= st.sampled_from(["headers", "raw", "violations", "quotaId", "quotaValue", "retryDelay", "X-RateLimit-Reset"])
messages = st.builds(
    lambda what, numbers, rest: (
        f"on {what} per min: Limit {numbers[0]}, Used {numbers[1]}, "
        f"Requested {numbers[2]}. Please try again in {numbers[3]} retry after {numbers[4]} seconds {rest}"
    ),
    st.sampled_from(["tokens", "requests", "x"]),
    st.lists(values, min_size=5, max_size=5),
    st.text(max_size=20),
)
messages |= st.builds(LITELLM_CROSSED.format, values, values, values)
messages |= st.builds("Limit type: tokens. Current limit: {}, Remaining: {}. Limit resets at: {}".format, *[values] * 3)
messages |= st.sampled_from([SUDDEN, ACCELERATION, NO_CREDITS, "GenerateRequestsPerDayPerProjectPerModel"])
bodies = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), values, messages, st.binary(max_size=60)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(keys, st.text(max_size=5)), inner, max_size=5)
    ),
)


def assert_sound(refusal):
    for field in fields(refusal):
        value = getattr(refusal, field.name)
        if isinstance(value, float):
            assert math.isfinite(value)
            assert value >= 0 if field.name in ("used", "requested") else value > 0
    assert refusal.retry_after is None or refusal.retry_after <= 31 * DAY
    assert_possible(refusal.announcement)


@given(st.sampled_from([402, 429, 413, 503, 529]), all_headers, bodies, st.floats())
@example(429, {}, b'{"error":' * 20_000, NOW)
@example(429, {}, "[" * 60_000, NOW)
@example(429, {}, '{"error": {"code": 1e400, "message": -Infinity}}', NOW)
@example(429, {}, f'{{"error": {"9" * 5000}}}', NOW)
@example(429, {}, {"details": [{"violations": [{"quotaId": 10**5000, "quotaValue": 10**5000}]}]}, NOW)
@example(429, {}, {"metadata": {"headers": {"X-RateLimit-Reset": 10**5000, "X-RateLimit-Limit": True}}}, NOW)
def test_no_refusal_says_an_impossible_number(status, headers, body, wall_now):
    refusal = read_refusal(status, headers, body, wall_now=wall_now)
    if refusal is not None:
        assert_sound(refusal)
    streamed = read_stream_error(body)
    if streamed is not None:
        assert_sound(streamed)


PIECES = ["(for limit ", "on on ", "on a-", "try again in 1", "1h", "tokensper", "on x per min: Limit 1, ", "5 ", "1,"]
PIECES += [
    "current rpm: 1, rpm limit: ",
    "limit type: tokens. current limit: 1, ",
    "0",
    "output token",
    " per ",
    "a-a ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_hostile_message_is_read_in_no_time(piece):
    text = piece * (65_000 // len(piece))
    start = time.perf_counter()
    for body in ({"error": {"message": text, "code": "rate_limit_exceeded"}}, text, text.encode()):
        refused(body)
        read_stream_error(body)
    quotas = [{"violations": [{"quotaId": text, "quotaValue": text}] * 1000}] * 1000
    refused({"error": {"details": quotas, "code": text, "metadata": {"headers": dict.fromkeys([text, "x"], text)}}})
    assert time.perf_counter() - start < 0.5


def test_no_word_of_the_message_is_in_the_repr():
    refusal = refused(openai_error("Incorrect key sk-secret: say hello (for limit sk secret)", "tokens"))
    assert "secret" not in repr(refusal)
    assert "hello" not in repr(refusal)


def test_nothing_read_from_a_body_keeps_its_text():
    said = read_body(openai_error("say hello", "tokens"))
    assert "hello" not in repr(said)
    assert "hello" not in repr(refused(openai_error("say hello (for limit gpt-4.1)", "tokens")))
