"""What servers say about their limits, as recorded and as quoted in provider-semantics.md."""

import csv
import json
import math
import time
from dataclasses import fields
from email.utils import formatdate
from pathlib import Path

import httpx
import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from throttled_openai._core.durations import DAY, MINUTE, MONTH, parse_duration
from throttled_openai._core.headers import Announcement, Window, read_limits
from throttled_openai._core.refusals import Refusal, read_refusal, read_stream_error

NOTHING = Announcement((), ())
NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z

with (Path(__file__).parent / "data" / "ratelimit-samples.csv").open(encoding="utf-8") as file:
    SAMPLES = list(csv.DictReader(file))


def announced(**told):
    """Headers of the OpenAI family: `limit_requests="500"` and so on."""
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in told.items()}


def recorded(row):
    names = [f"{role}_{what}" for what in ("requests", "tokens") for role in ("limit", "remaining", "reset")]
    return announced(**{name: row[name] for name in names if row[name]})


def refused(body, status=429, headers=None, wall_now=NOW):
    return read_refusal(status, headers or {}, body, wall_now=wall_now)


def openai_error(message, kind=None, code="rate_limit_exceeded"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# --- limits -----------------------------------------------------------------


def test_an_ordinary_response_announces_two_limits_per_minute():
    headers = announced(
        limit_requests="500",
        remaining_requests="499",
        reset_requests="120ms",
        limit_tokens="30000",
        remaining_tokens="554",
        reset_tokens="58.891s",
    )
    assert read_limits(headers) == Announcement((Window(500, 60, 499),), (Window(30_000, 60, 554),))


def test_a_window_tells_its_rate():
    assert Window(500, 60, None).rate == 500 / 60


@pytest.mark.parametrize("mapping", [httpx.Headers, httpx2.Headers])
def test_names_are_read_in_any_case(mapping):
    headers = mapping({"X-RateLimit-Limit-Requests": "500", "X-RateLimit-Remaining-Requests": "499"})
    assert read_limits(headers) == Announcement((Window(500, 60, 499),), ())


@pytest.mark.parametrize("mapping", [httpx.Headers, httpx2.Headers])
def test_every_recorded_response_reads_the_same_from_httpx_and_from_a_dict(mapping):
    for row in SAMPLES:
        assert read_limits(mapping(recorded(row))) == read_limits(recorded(row))


def test_of_a_header_sent_twice_the_last_counts():
    headers = httpx.Headers(
        [("x-ratelimit-limit-tokens", "500"), ("X-Other", "1"), ("x-ratelimit-limit-tokens", "600")]
    )
    assert read_limits(headers).tokens == (Window(600, 60, None),)


def test_every_recorded_limit_is_read():
    for row in SAMPLES:
        told = read_limits(recorded(row))
        for dimension, windows in (("requests", told.requests), ("tokens", told.tokens)):
            limit, remaining = row[f"limit_{dimension}"], row[f"remaining_{dimension}"]
            found = [(window.limit, window.remaining) for window in windows]
            assert found == ([(float(limit), float(remaining))] if limit else [])


def requests_period(row):
    """The period by hand: what the recorded accounts are known to have (1.4, 3)."""
    if row["host"] == "api.groq.com":
        return DAY
    limit, reset = int(row["limit_requests"]), row["reset_requests"]
    # 10000 is both gpt-4o's RPM at tier 4 (6ms a request) and gpt-4o-mini's RPD at tier 1 (8.64s).
    return DAY if limit in (100, 200) or (limit == 10_000 and reset != "6ms") else MINUTE


def test_the_period_of_every_recorded_requests_limit_is_found():
    rows = [row for row in SAMPLES if row["limit_requests"]]
    daily = 0
    for row in rows:
        (window,) = read_limits(recorded(row)).requests
        assert window.period == requests_period(row), row
        daily += window.period == DAY
    assert (len(rows), daily) == (269, 34)


def test_every_recorded_tokens_limit_is_per_minute_but_for_one_free_account():
    odd = [row for row in SAMPLES for w in read_limits(recorded(row)).tokens if w.period != MINUTE]
    assert [(row["limit_tokens"], row["reset_tokens"]) for row in odd] == [("100000", "83h10m39.057s")]
    assert read_limits(recorded(odd[0])).tokens[0].period == MONTH


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "period"),
    [
        pytest.param(3000, 49, "20ms", 60, id="a bucket smaller than the limit"),
        pytest.param(3000, 0, "1s", 60, id="that bucket, empty"),
        pytest.param(3000, 0, "10s", 60, id="a bucket of ten seconds, empty"),
        pytest.param(3000, 2999, "0s", 60, id="rounded to nothing"),
        pytest.param(3000, 3000, "0s", 60, id="nothing missing"),
        pytest.param(500, 499, "1s", 60, id="near no period"),
        pytest.param(500, 491, "59", 60, id="the end of a fixed window"),
        pytest.param(100, 99, "10ms", 1, id="per second"),
        pytest.param(1, 0, "1s", 1, id="one per second"),
        pytest.param(20, 19, "500ms", 10, id="per ten seconds"),
        pytest.param(3600, 3500, "100s", 3600, id="per hour"),
        pytest.param(50, 0, "24h0m0s", DAY, id="a day, spent"),
        pytest.param(30_000, 29_999, "86.4s", MONTH, id="per month"),
    ],
)
def test_the_period_is_the_one_that_explains_the_reset(limit, remaining, reset, period):
    headers = announced(limit_requests=str(limit), remaining_requests=str(remaining), reset_requests=reset)
    assert read_limits(headers).requests == (Window(limit, period, remaining),)


@given(
    limit=st.integers(1, 10_000_000),
    period=st.sampled_from([60.0, 3600.0, DAY, MONTH]),
    taken=st.floats(0, 1),
)
def test_the_period_of_a_bucket_is_found_unless_it_refills_in_a_millisecond(limit, period, taken):
    used = max(1.0, taken * limit)
    remaining = math.floor(limit - used)
    seconds = round(used * period / limit, 3)
    headers = announced(limit_requests=str(limit), remaining_requests=str(remaining), reset_requests=f"{seconds:.3f}s")
    found = read_limits(headers).requests[0].period
    assert found == (MINUTE if seconds <= 0.001 else period)


def test_azure_says_its_period_and_its_resets_are_ignored():
    headers = announced(
        limit_requests="120",
        remaining_requests="119",
        reset_requests="500",
        renewalperiod_requests="10",
        limit_tokens="120000",
        remaining_tokens="119986",
        reset_tokens="7",
        renewalperiod_tokens="60",
    )
    assert read_limits(headers) == Announcement((Window(120, 10, 119),), (Window(120_000, 60, 119_986),))


def test_azure_says_minus_one_and_zero_when_it_does_not_know():
    headers = announced(
        limit_requests="-1", remaining_requests="-1", limit_tokens="0", remaining_tokens="0", reset_tokens="0"
    )
    assert read_limits(headers) == NOTHING


def test_a_remainder_without_a_limit_is_nothing():
    assert read_limits(announced(remaining_requests="118", remaining_tokens="119968")) == NOTHING


def test_groq_announces_requests_per_day():
    headers = announced(limit_requests="14400", remaining_requests="14397", reset_requests="17.563999999s")
    assert read_limits(headers).requests == (Window(14_400, DAY, 14_397),)


def test_mistral_names_its_periods():
    headers = announced(
        **{
            "limit-req-10-second": "60",
            "remaining-req-10-second": "59",
            "limit-tokens-minute": "75000",
            "remaining-tokens-minute": "74922",
            "limit-tokens-month": "10000000000",
            "remaining-tokens-month": "9999999922",
            "tokens-query-cost": "78",
        }
    )
    assert read_limits(headers) == Announcement(
        (Window(60, 10, 59),), (Window(75_000, 60, 74_922), Window(1e10, MONTH, 9_999_999_922))
    )


def test_cerebras_names_its_periods():
    headers = announced(
        **{
            "limit-requests-day": "14400",
            "remaining-requests-day": "14399",
            "reset-requests-day": "3600",
            "limit-tokens-minute": "60000",
            "remaining-tokens-minute": "59000",
            "reset-tokens-minute": "26.5",
        }
    )
    assert read_limits(headers) == Announcement((Window(14_400, DAY, 14_399),), (Window(60_000, 60, 59_000),))


def test_anthropic_announces_per_minute_and_its_input_is_what_we_estimate():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2024-03-26T20:00:00Z",
        "anthropic-ratelimit-tokens-limit": "38000",
        "anthropic-ratelimit-input-tokens-limit": "30000",
        "anthropic-ratelimit-input-tokens-remaining": "29000",
        "anthropic-ratelimit-output-tokens-limit": "8000",
    }
    assert read_limits(headers) == Announcement((Window(50, 60, 49),), (Window(30_000, 60, 29_000),))


def test_the_ietf_headers_name_quota_and_window():
    headers = {
        "ratelimit-policy": '"burst";q=100;w=60,"daily";q=1000;w=86400, "bytes";q=5;w=1;qu="content-bytes"',
        "ratelimit": '"daily";r=50;t=30',
    }
    assert read_limits(headers) == Announcement((Window(100, 60, None), Window(1000, DAY, 50)), ())


def test_the_ietf_lists_may_span_header_lines():
    headers = httpx.Headers([("RateLimit-Policy", '"a";q=10;w=1'), ("RateLimit-Policy", '"b";q=100;w=60;qu="tokens"')])
    assert read_limits(headers) == Announcement((Window(10, 1, None),), (Window(100, 60, None),))


def test_the_old_ietf_drafts_had_three_headers():
    headers = {
        "ratelimit-limit": "100, 100;w=60, 1000;w=3600",
        "ratelimit-remaining": "50",
        "ratelimit-reset": "30",
    }
    assert read_limits(headers).requests == (Window(100, 60, 50), Window(1000, 3600, None))


def test_a_project_limit_is_a_second_window():
    headers = announced(
        **{
            "limit-tokens": "150000",
            "remaining-tokens": "149984",
            "limit-project-tokens": "60000",
            "remaining-project-tokens": "57000",
            "reset-project-tokens": "3s",
        }
    )
    assert read_limits(headers).tokens == (Window(150_000, 60, 149_984), Window(60_000, 60, 57_000))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"x-ratelimit-limit": "2", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "2"},
        announced(**{"limit-input-images": "50000", "limit-tokens-generated": "600"}),
        announced(**{"limit-tokens-99999-month": "5", "limit-req-0-second": "5"}),
        {"ratelimit-limit": "100", "ratelimit-policy": ";;;==,,", "ratelimit": ""},
        {"ratelimit-policy": '"a";q=1;w=0, "b";q=0;w=1, "c";q=1, "d";w=1'},
    ],
)
def test_headers_without_a_limit_of_ours_announce_nothing(headers):
    assert read_limits(headers) == NOTHING


BROKEN = ["", "-5", "0", "nan", "inf", "1e400", "1e3", "+5", "0x10", "1_000", "٣٠٠", "²", "500, 500", "500,500"]
BROKEN += ["9" * 16, "9" * 5000, "0.5", "null", "\udcff", "5 5", "[]"]


@pytest.mark.parametrize("value", BROKEN)
def test_a_broken_limit_is_not_told(value):
    assert read_limits(announced(limit_requests=value)) == NOTHING
    assert read_limits(announced(**{"limit-req-minute": value})) == NOTHING
    assert read_limits({"ratelimit-policy": f'"a";q={value};w=60'}).tokens == ()


@pytest.mark.parametrize("value", [value for value in BROKEN if value not in ("0", "0.5")] + ["501"])
def test_a_broken_remainder_is_not_told(value):
    headers = announced(limit_requests="500", remaining_requests=value, reset_requests="8.64s")
    assert read_limits(headers).requests == (Window(500, 60, None),)


@pytest.mark.parametrize("value", [*BROKEN, "-8.64s", "nans", "1e3s", "800h0m0s"])
def test_a_broken_reset_leaves_a_minute(value):
    headers = announced(limit_requests="500", remaining_requests="499", reset_requests=value)
    assert read_limits(headers).requests == (Window(500, 60, 499),)


# --- durations --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("120ms", 0.12),
        ("534ms", 0.534),
        ("6s", 6.0),
        ("58.891s", 58.891),
        ("17.563999999s", 17.563999999),
        ("7m12s", 432.0),
        ("1m26.4s", 86.4),
        ("114h18m0s", 411_480.0),
        ("83h10m39.057s", 299_439.057),
        ("1h", 3600.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("5ns", 5e-9),
        ("26.5", 26.5),
        ("3600", 3600.0),
        ("744h", 31 * DAY),
    ],
)
def test_a_duration_is_in_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "s", "ms", "-5s", "-1", "1.s", ".5s", "1 s", "1S", "5d", "745h", "1e3", "nan", "٣s", "²s", "5s\n"]
)
def test_what_is_no_duration_is_none(text):
    assert parse_duration(text) is None


def test_every_recorded_reset_is_a_duration():
    resets = [row[name] for row in SAMPLES for name in ("reset_requests", "reset_tokens") if row[name]]
    assert len(resets) == 533
    assert all(parse_duration(reset) is not None for reset in resets)


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


def rate(*told):
    """A refusal for our rate: dimension, retry_after, period, limit, used, requested, as far as told."""
    return Refusal("rate", *told)


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
    pytest.param(OPENROUTER, rate("requests", 7200, DAY), id="openrouter"),
    pytest.param({"error": {"message": LITELLM, "type": "None", "code": "429"}}, rate("tokens", 30), id="litellm"),
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
    ],
)
def test_no_money_is_final_whatever_the_headers_promise(code):
    refusal = refused(openai_error("…", "insufficient_quota", code), headers={"retry-after": "5"})
    assert refusal == Refusal("billing")


def test_a_limit_of_zero_is_no_limit_to_wait_for():
    refusal = refused(openai_error(limited("images per minute", 0, 0, 1, "1s")))
    assert (refusal.kind, refusal.limit) == ("too_large", None)


def test_groq_refuses_what_is_too_large_with_413():
    assert refused(openai_error(GROQ_TOO_LARGE, "tokens"), 413) == Refusal(
        "too_large", "tokens", None, 60, 6000, None, 12_328
    )


def test_a_413_of_a_proxy_is_not_about_rates():
    assert refused(b"<html><h1>413 Request Entity Too Large</h1></html>", 413) is None


@pytest.mark.parametrize("status", [200, 302, 400, 401, 402, 403, 404, 408, 409, 422, 500, 502, 504, 520])
def test_other_statuses_are_no_refusals(status):
    assert refused(openai_error(TPM, "tokens"), status) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, "The engine is currently overloaded, please try again later"),
        (503, {"error": {"message": "Slow Down", "type": "server_error", "code": "slow_down"}}),
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
    assert waits(headers, body) == 0.534  # (821 - 554) / 500
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
        json.dumps({"error": STREAMED}),
        {"error": {"code": 429, "message": TPM}},
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
    ],
)
def test_overload_may_come_inside_a_stream(error):
    assert read_stream_error(error) == Refusal("overload", None, 6)


def test_the_end_of_money_may_come_inside_a_stream():
    assert read_stream_error({"code": "insufficient_quota", "message": "…"}) == Refusal("billing")


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

numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["1e400", "nan", "-0", "9" * 400, "٣", "500, 500", "1.5s", "5ms", "7m12s", "0s", "2026-05-28"]),
)
values = st.one_of(numbers, st.text(max_size=40), st.binary(max_size=40).map(lambda b: b.decode("latin-1")))
names = st.sampled_from(
    [
        *announced(
            **{
                f"{role}-{what}": ""
                for role in ("limit", "remaining", "reset", "renewalperiod")
                for what in ("requests", "tokens", "project-tokens", "req-10-second", "tokens-month")
            }
        ),
        *(f"anthropic-ratelimit-{x}-limit" for x in ("requests", "tokens", "input-tokens")),
        *("ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "x-ratelimit-reset"),
        *("retry-after", "retry-after-ms", "date"),
    ]
)
all_headers = st.dictionaries(st.one_of(names, st.text(max_size=20)), values, max_size=12)
keys = st.sampled_from(["error", "code", "type", "status", "message", "details", "metadata", "response", "detail"])
messages = st.builds(
    lambda what, numbers, rest: (
        f"on {what} per min: Limit {numbers[0]}, Used {numbers[1]}, "
        f"Requested {numbers[2]}. Please try again in {numbers[3]} retry after {numbers[4]} seconds {rest}"
    ),
    st.sampled_from(["tokens", "requests", "x"]),
    st.lists(values, min_size=5, max_size=5),
    st.text(max_size=20),
)
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


@given(all_headers)
def test_no_headers_announce_an_impossible_limit(headers):
    announcement = read_limits(headers)
    for window in announcement.requests + announcement.tokens:
        assert 1 <= window.limit < 1e15
        assert 0 < window.period <= 31 * DAY
        assert window.remaining is None or 0 <= window.remaining <= window.limit


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=6))
def test_headers_of_random_bytes_announce_nothing(raw):
    assert read_limits(httpx.Headers(raw)) == NOTHING


@given(st.sampled_from([429, 413, 503, 529]), all_headers, bodies, st.floats())
@example(429, {}, b'{"error":' * 20_000, NOW)
@example(429, {}, "[" * 60_000, NOW)
@example(429, {}, '{"error": {"code": 1e400, "message": -Infinity}}', NOW)
@example(429, {}, f'{{"error": {"9" * 5000}}}', NOW)
def test_no_refusal_says_an_impossible_number(status, headers, body, wall_now):
    refusal = read_refusal(status, headers, body, wall_now=wall_now)
    if refusal is not None:
        assert_sound(refusal)
    streamed = read_stream_error(body)
    if streamed is not None:
        assert_sound(streamed)


@given(values)
def test_no_duration_is_negative_or_endless(text):
    seconds = parse_duration(text)
    assert seconds is None or 0 <= seconds <= 31 * DAY


@pytest.mark.parametrize(
    "piece", ["(for limit ", "on on ", "on a-", "try again in 1", "1h", "tokensper", "on x per min: Limit 1, ", "5 "]
)
def test_a_hostile_message_is_read_in_no_time(piece):
    body = {"error": {"message": piece * 100_000, "code": "rate_limit_exceeded"}}
    start = time.perf_counter()
    refused(body)
    assert time.perf_counter() - start < 0.5


def test_no_word_of_the_message_is_in_the_repr():
    refusal = refused(openai_error("Incorrect key sk-secret: say hello (for limit sk secret)", "tokens"))
    assert "secret" not in repr(refusal)
    assert "hello" not in repr(refusal)
