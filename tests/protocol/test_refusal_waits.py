"""How long a refusal asks to wait: in headers, in fields of the body, or in the words of its message."""

import math
from email.utils import formatdate

import httpx
import pytest

from header_samples import BROKEN, NOW, announced
from quoted import AZURE, TPM, openai_error, refused
from throttled_openai._protocol.durations import DAY


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
def test_an_impossible_wait_counts_as_absent(value):
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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("try again in 534ms", 0.534),
        ("try again in 1m26.4s", 86.4),
        ("try again in about 2 hours", 7200),
        ("try again in 4 days 20 hours", 4 * DAY + 20 * 3600),
        ("or try again in 5 days 22 hours 11 minutes.", 5 * DAY + 22 * 3600 + 11 * 60),
        ("Please wait 587 hours 33 minutes before trying again.", 587 * 3600 + 33 * 60),
        ("try again in 1 hour 30 minutes", 5400),
        ("try again in 1 hour and 30 minutes", 5400),
        ("try again in 1 hour, 5 minutes, and 3 seconds", 3903),
        ("try again in 1h 30m", 5400),
        ("try again in an hour", 3600),
        ("Try again in one minute.", 60),
        ("Try again in a day", DAY),
        ("try again in 2 weeks", 14 * DAY),
        ("try again in ~2 hrs", 7200),
        ("try again in approximately 10 mins", 600),
        ("try again in 250 milliseconds", 0.25),
        ("Please retry after 7 seconds", 7),
        ("PLEASE RETRY AFTER 7 SECONDS", 7),
        ("Retry after: 21 seconds.", 21),
        ("max rate reached: retry-in 30s", 30),
        ("You can submit the request after 49 seconds", 49),
        ("try your request again in 20s", 20),
        ("wait 6 seconds for your limit to reset", 6),
        ("Your quota will reset after 3h2m13s.", 10_933),
        ("resets in 5 hours", 18_000),
        ('VertexAIException - b\'{\\n "retryDelay": "3.5s"}\'', 3.5),
        ("try again in a few minutes", None),
        ("try again in a moment", None),
        ("try again later", None),
        ("try again in 5 parsecs", None),
        ("try again in 400 days", None),
        ("try again in 0 seconds", None),
        ("try again in -5 seconds", None),
        ("We waited 30 seconds", None),
        ("try again at 7:58 PM", None),
    ],
)
def test_a_wait_in_words_is_read_in_any_of_their_ways(text, seconds):
    assert waits({}, {"error": {"message": f"Rate limit reached. {text}"}}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("field", "value", "seconds"),
    [
        ("resets_in_seconds", 13_872, 13_872),
        ("resetsInSeconds", "13872", 13_872),
        ("resets_at", NOW + 60, 60),
        ("resets_at", int(NOW + 60) * 1000, 60),
        ("resets_at", "2026-05-28T20:27:40Z", 60),
        ("reset_at", NOW + 60, 60),
        ("retry_after", 1.5, 1.5),
        ("retry_after", "1.5", 1.5),
        ("retry-after", "1.5s", 1.5),
        ("retry_after", "2 Hours 5 minutes", 7500),
        ("retry_after", "a while", None),
        ("retry_after_seconds", 3, 3),
        ("retryAfter", NOW + 60, 60),
        ("retry_after_ms", 1500, 1.5),
        ("retry_after_ms", 1500.5, 1.5005),
        ("retryAfterMs", "1500", 1.5),
        ("retryDelay", "3.5s", 3.5),
        ("resets_at", 60, None),  # no instant
        ("resets_at", NOW - 60, None),
        ("retry_after", -1, None),
        ("retry_after", 0, None),
        ("retry_after", True, None),
        ("retry_after", None, None),
        ("retry_after", [3], None),
        ("retry_after", math.inf, None),
        ("retry_after", math.nan, None),
        ("retry_after", 1e300, None),
        ("retry_after", 10**400, None),
        ("retry_after", 32 * DAY, None),
        ("retry_after_ms", "-1500", None),
        ("retry_after_ms", math.inf, None),
        ("retry_after_ms", 10**400, None),
        ("retry_after_ms", "soon", None),
    ],
)
def test_a_wait_may_stand_in_a_field_of_the_body(field, value, seconds):
    for body in ({"error": {field: value}}, {field: value}, {"error": {"metadata": {field: value}}}):
        assert waits({}, body) == seconds
    assert waits({"retry-after": "2"}, {"error": {field: value}}) == 2.0


def test_the_seconds_of_a_body_go_before_its_instant():
    assert waits({}, {"resets_at": NOW + 60, "error": {"resets_in_seconds": 50}}) == 50


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"x-ms-retry-after-ms": "1500", "retry-after-ms": "2500"}, 2.5),
        ({"x-retry-in": "30s"}, 30),
        ({"retry-after": "30 seconds"}, 30),
        ({"x-ratelimit-retry-after": "30"}, 30),
        ({"x-retry-after": "30"}, 30),
        ({"x-retry-after": "30", "retry-after": "2"}, 2),
    ],
)
def test_some_name_the_wait_otherwise(headers, seconds):
    assert waits(headers) == seconds


def test_azures_86400_is_no_wait_in_the_headers_either():
    text = AZURE.format(what="call", wait=86400)
    assert waits({"retry-after": "86400"}, {"error": {"message": text}}) is None
    assert waits({"retry-after": "86400", "retry-after-ms": "2000"}, {"error": {"message": text}}) == 2.0
    assert waits({"retry-after": "86400"}, {"error": {"message": "Rate limit reached"}}) == DAY


@pytest.mark.parametrize("when", ["2026-05-28 20:27:40", "2026-05-28 20:27"])
def test_a_local_time_is_no_wait(when):
    assert waits({}, {"error": {"message": f"Your limit will reset at {when}"}}) is None
    assert waits({}, {"error": {"message": f"Your limit will reset at {when}Z"}}) == (60 if len(when) > 16 else None)
