"""Any refusal is read quickly, gives no impossible number, and leaves none of its text behind."""

import math
import time
from dataclasses import fields

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from header_samples import NOW, all_headers, assert_possible, values
from quoted import ACCELERATION, LITELLM_CROSSED, NO_CREDITS, SUDDEN, openai_error, refused
from throttled_openai._protocol.durations import DAY
from throttled_openai._protocol.error_body import parse_error_body
from throttled_openai._protocol.refusals import read_refusal, read_stream_error

keys = st.sampled_from(["error", "code", "type", "status", "message", "details", "metadata", "response", "detail"])
keys |= st.sampled_from(["resets_in_seconds", "resets_at", "retry_after", "retry_after_ms", "quota_limit", "errors"])
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
@example(402, {}, b'{"error":' * 100_000 + b"1" + b"}" * 100_000, NOW)
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
    "try again in 1 day 1 hour, and ",
    "1 hour ",
    "reached your a ",
    "credits have been ",
    "insufficient paid ",
    "used all of your ",
    "exceeded for metric: a, limit: ",
    "exceeded the call rate limit retry after 86400",
    "rate limit of 1 per 1s exceeded for ",
    "tpm limit, current: 1, limit: 1,",
    "tokens limit exceeded: 1 > ",
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
    said = parse_error_body(openai_error("say hello", "tokens"))
    assert "hello" not in repr(said)
    assert "hello" not in repr(refused(openai_error("say hello (for limit gpt-4.1)", "tokens")))
