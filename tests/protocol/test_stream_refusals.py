"""Refusals and other errors that come inside a stream."""

import json

import pytest

from quoted import AZURE_BUSY, SUDDEN, TPM, new_api, openai_error, rate
from throttled_openai._protocol.refusals import Refusal, read_stream_error

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
    assert read_stream_error(new_api("…")) == Refusal("billing")
    assert read_stream_error({"error": {"type": "exceeded_current_quota_error"}}) == Refusal("billing")


def test_a_quota_of_tokens_may_come_inside_a_stream():
    error = openai_error("Allocated quota exceeded, please increase your quota limit.", None, "insufficient_quota")
    assert read_stream_error(error) == rate("tokens")


def test_a_plans_limit_may_come_inside_a_stream():
    error = {"type": "error", "error": {"type": "usage_limit_reached", "resets_in_seconds": 13_872}, "status_code": 429}
    assert read_stream_error(error) == rate(None, 13_872)


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
