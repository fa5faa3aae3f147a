"""Which refusals are rate limits, overload or final, by status, code and text; and which code is kept."""

import json

import pytest

from quoted import GROQ_TOO_LARGE, SUDDEN, TOO_LARGE, TPM, google_error, limited, openai_error, rate, refused
from throttled_openai._protocol.refusals import Refusal


def test_an_html_page_says_nothing_about_the_refusal():
    page = "<html><h1>429</h1><p>Insufficient balance of capacity? Please wait 30 seconds. Limit type: tokens.</html>"
    assert refused(page) == refused(f"\n {page}".encode()) == rate()


NOTHING_FREE = (
    "You exceeded your current quota, please check your plan and billing details. To monitor your current usage, head "
    "to: https://ai.dev/rate-limit. \n* Quota exceeded for metric: generativelanguage.googleapis.com/"
    "generate_content_free_tier_requests, limit: 0, model: gemini-3-pro\nPlease retry in 36.578s."
)


def test_a_quota_of_nothing_is_final_wherever_it_is_said():
    body = [{"error": {"code": 429, "message": NOTHING_FREE, "status": "RESOURCE_EXHAUSTED"}}]
    assert refused(body) == Refusal("too_large")
    assert refused({"error": {"message": json.dumps(body), "code": 429}}) == Refusal("too_large")
    assert refused(google_error(("GenerateRequestsPerDayPerProjectPerModel-FreeTier",), message=NOTHING_FREE)).final
    metadata = {"quota_limit": "GenerateContentRequestsPerMinutePerProjectPerRegion", "quota_limit_value": "0"}
    info = {"reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com", "metadata": metadata}
    assert refused([{"error": {"code": 429, "message": "Quota exceeded for …", "details": [info]}}]).final
    metadata["quota_limit_value"] = "60"
    assert refused([{"error": {"code": 429, "details": [info]}}]) == rate("requests", None, 60, 60)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (openai_error("…", "tokens"), "rate_limit_exceeded"),
        (openai_error("…", "insufficient_quota", "insufficient_quota"), "insufficient_quota"),
        (openai_error("…", "tokens", None), "tokens"),
        ({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, "RESOURCE_EXHAUSTED"),
        ({"error": {"code": 402, "message": "…"}}, "402"),
        ({"error": {"code": "1113", "message": "…"}}, "1113"),
        ({"error": {"code": 30011}}, "30011"),
        ({"type": "error", "error": {"type": "rate_limit_error"}}, "rate_limit_error"),
        ({"code": 429, "error": {"metadata": {"raw": '{"error": {"code": "slow"}}'}}}, "slow"),
        ({"code": "Some resource has been exhausted", "error": "Your team …"}, None),
        ({"type": "https://example.com/problems/quota", "status": 429}, "429"),
        ({"error": {"code": "x" * 1_000_000}}, "x" * 64),
        ({"error": {"code": True}}, None),
        ("error code: 1015", "1015"),
        ("<html>error code: 1015</html>", None),
        (None, None),
    ],
)
def test_the_providers_code_is_kept_if_it_is_a_code(body, code):
    assert refused(body).code == code


def test_the_code_of_a_long_body_is_not_kept_longer():
    body = json.dumps(openai_error("…", None, "insufficient_quota" + "x" * 1_000)).encode()
    assert len(refused(body).code) == 64


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


def test_a_limit_below_one_is_ignored():
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


def test_the_type_does_not_distinguish_too_large():
    """OpenAI's type and code are the same for a request to send again and for one never to send again."""
    assert refused(openai_error(TPM, "tokens")).kind != refused(openai_error(TOO_LARGE, "tokens")).kind


def test_the_type_alone_names_the_dimension():
    assert refused(openai_error("slow", "tokens")).dimension == "tokens"
    assert refused(openai_error("slow", "requests")).dimension == "requests"
