"""The headers and error bodies of OpenAI and of other providers."""

import json
from typing import get_args

import pytest

from simulated import chat, error_of, headers_of, message_of, post, steady
from throttled_openai.simulator import Simulator
from throttled_openai.simulator._settings import DialectName
from throttled_openai.simulator._wording.dialects import DIALECTS


def test_it_can_announce_no_limits():
    server = Simulator(rpm=60, announce=False)
    for _ in range(60):
        assert headers_of(post(server, chat(10))) == {}
    assert headers_of(post(server, chat(10))) == {"retry-after": "1", "retry-after-ms": "1000"}


def test_it_can_refuse_without_saying_when_to_retry():
    server = Simulator(rpm=1, retry_after=False)
    post(server, chat(10))
    refused = post(server, chat(10))
    assert "retry-after" not in headers_of(refused)
    assert "try again" not in message_of(refused)


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (429, "Too many concurrent requests", "concurrency_limit_exceeded"),
        (503, "The engine is currently overloaded, please try again later", None),
    ],
)
def test_beyond_its_capacity_it_refuses_without_numbers(status, words, code):
    server = Simulator(rpm=100, max_in_flight=1, overload_status=status)
    first = server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat(10)).encode(), 0.0)
    refused = post(server, chat(10))
    server.finish(first, delivered=True)

    assert refused.status == status
    assert headers_of(refused) == {}
    assert message_of(refused) == words
    assert json.loads(refused.pieces[0])["error"]["code"] == code
    assert server.log[1].dimension == "concurrency"
    assert post(server, chat(10)).status == 200


def test_the_headers_may_show_the_bucket_that_refuses():
    server = Simulator(rpm=600, burst=1.0, show_burst=True)  # ten a second, ten at once
    first = headers_of(post(server, chat(10)))
    assert first["x-ratelimit-limit-requests"] == "600"
    assert (first["x-ratelimit-remaining-requests"], first["x-ratelimit-reset-requests"]) == ("9", "100ms")
    assert [post(server, chat(10)).status for _ in range(10)] == [200] * 9 + [429]
    assert headers_of(post(server, chat(10), now=9.0))["x-ratelimit-remaining-requests"] == "9"


def test_beyond_its_capacity_it_may_name_a_wait_and_a_code():
    server = Simulator(max_in_flight=1, overload_status=503, overload_code="slow_down", overload_wait=1.5)
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat(10)).encode(), 0.0)
    refused = post(server, chat(10))

    assert headers_of(refused) == {"retry-after": "2", "retry-after-ms": "1500"}
    assert json.loads(refused.pieces[0])["error"]["code"] == "slow_down"


def test_every_response_has_an_id_of_its_own_and_its_processing_time():
    server = steady()
    heads = [dict(post(server, chat(10)).headers) for _ in range(2)]
    assert heads[0]["x-request-id"] != heads[1]["x-request-id"]
    assert heads[0]["openai-processing-ms"] == "1000"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "We could not parse the JSON body"),
        ("POST", "/v1/chat/completions", b"[]", 400, "must be a JSON object"),
        ("POST", "/v1/chat/completions", b'{"messages": []}', 400, "you must provide a model parameter"),
        ("POST", "/v1/chat/completions", b'{"model": "m"}', 400, "Missing required parameter: 'messages'."),
        ("POST", "/v1/fine_tuning/jobs", b"{}", 404, "Invalid URL (POST /v1/fine_tuning/jobs)"),
        ("GET", "/", b"", 404, "Invalid URL (GET /)"),
        ("POST", "/v1/files", b"{}", 400, "multipart"),
        ("POST", "/simulator/settings", b'{"rpm": 0}', 400, "rpm must be at least 1, got 0"),
        ("POST", "/simulator/settings", b'{"rpms": 1}', 400, "there is no setting 'rpms'; did you mean 'rpm'?"),
    ],
)
def test_mistakes_are_answered_in_openais_shape_and_not_counted(method, path, body, status, words):
    server = Simulator()
    reply = server.receive(method, path, {}, body, 0.0)
    error = json.loads(reply.pieces[0])["error"]
    assert reply.status == status
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert server.attempts == 0


# Less than OpenAI says.


def test_a_server_may_refuse_without_a_number_and_without_the_name_of_a_limit():
    server = Simulator(rpm=1, explain_refusals=False)
    post(server)
    refused = post(server)
    assert error_of(refused) == {
        "message": "Rate limit reached, please slow down.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert headers_of(refused)["retry-after"] == "60"
    assert server.log[1].dimension == "requests"


def test_a_server_may_say_nothing_at_all():
    server = Simulator(rpm=1, tpm=1000, max_in_flight=1, announce=False, retry_after=False, explain_refusals=False)
    assert headers_of(post(server)) == {}
    slow, large = post(server), post(server, chat(2000), now=60.0)
    server.change(rpm=None)
    server.receive("POST", "/v1/chat/completions", {}, json.dumps(chat()).encode(), 60.0)
    crowded = post(server, now=60.0)
    assert [attempt.dimension for attempt in server.log] == [None, "requests", "tokens", None, "concurrency"]
    assert [reply.status for reply in (slow, large, crowded)] == [429] * 3
    assert [headers_of(reply) for reply in (slow, large, crowded)] == [{}] * 3
    assert error_of(slow) == error_of(large) == error_of(crowded)


# Dialects.


def told(reply):
    """The headers that tell of limits, in any dialect."""
    usual = {"content-type", "x-request-id", "openai-version", "openai-processing-ms"}
    return {name: value for name, value in reply.headers if name not in usual}


def spoken(dialect, **options):
    """A success with 2 of 3 requests and 2,000 of 6,000 tokens left, a refusal, and what can never be admitted."""
    server = Simulator(rpm=3, tpm=6000, dialect=dialect, **options)
    return [post(server, chat(tokens), now=10.0) for tokens in (4000, 3000, 7000)]


def test_azure_announces_a_period_and_milliseconds_without_a_unit():
    success, refused, never = spoken("azure")
    limits = {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-renewalperiod-requests": "60",
        "x-ratelimit-reset-requests": "20000",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "2000",
        "x-ratelimit-renewalperiod-tokens": "60",
        "x-ratelimit-reset-tokens": "40000",
    }
    assert told(success) == told(never) == limits
    assert told(refused) == {**limits, "retry-after": "10", "retry-after-ms": "10000"}
    assert error_of(refused) == {
        "code": "429",
        "message": "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version "
        "2024-08-01-preview have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after "
        "10 seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the "
        "default rate limit.",
    }
    assert "Please retry after 86400 seconds." in error_of(never)["message"]


def test_azure_calls_requests_calls():
    server = Simulator(rpm=1, dialect="azure", retry_after=False)
    post(server)
    refused = post(server)
    assert "have exceeded call rate limit" in error_of(refused)["message"]
    assert "retry after" not in error_of(refused)["message"]
    assert "retry-after" not in told(refused)


def test_groq_announces_requests_per_day_and_tokens_per_minute():
    success, refused, never = spoken("groq", rpd=1000)
    limits = {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "2000",
        "x-ratelimit-reset-tokens": "40s",
    }
    assert told(success) == told(never) == limits
    assert told(refused) == {**limits, "retry-after": "10"}
    assert error_of(refused) == {
        "message": "Rate limit reached for model `gpt-4o` in organization `org_simulator` service tier `on_demand` on "
        "tokens per minute (TPM): Limit 6000, Used 4000, Requested 3000. Please try again in 10s. Need more tokens? "
        "Upgrade to Dev Tier today at https://console.groq.com/settings/billing",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
    assert (refused.status, never.status) == (429, 413)
    assert "Limit 6000, Requested 7000, please reduce your message size and try again." in error_of(never)["message"]


def test_groq_never_announces_requests_per_minute():
    server = Simulator(rpm=1, dialect="groq")
    assert told(post(server)) == {}
    assert "on requests per minute (RPM): Limit 1, Used 1, Requested 1." in error_of(post(server))["message"]


def test_mistral_has_the_period_in_the_names_and_no_retry_after():
    success, refused, _ = spoken("mistral", rpd=1000)
    assert (
        told(success)
        == told(refused)
        == {
            "x-ratelimit-limit-req-day": "1000",
            "x-ratelimit-remaining-req-day": "999",
            "x-ratelimit-limit-tokens-minute": "6000",
            "x-ratelimit-remaining-tokens-minute": "2000",
        }
    )
    assert json.loads(refused.pieces[0]) == {
        "object": "error",
        "message": "Tokens rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
    }


def test_cerebras_has_the_period_in_the_names_and_seconds_with_a_fraction():
    server = Simulator(rpd=1000, tpm=60_000, dialect="cerebras", charge="reserve")
    assert told(post(server, chat(max_tokens=700))) == {
        "x-ratelimit-limit-requests-day": "1000",
        "x-ratelimit-remaining-requests-day": "999",
        "x-ratelimit-reset-requests-day": "86.4",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59290",
        "x-ratelimit-reset-tokens-minute": "0.71",
    }
    refused = post(server, chat(max_tokens=59_900))
    assert told(refused)["retry-after"] == "1"
    assert json.loads(refused.pieces[0])["code"] == "token_quota_exceeded"


def test_anthropic_announces_instants_on_the_servers_own_calendar():
    success, refused, _ = spoken("anthropic")
    limits = {
        "date": "Sun, 15 Jun 2025 15:06:50 GMT",
        "anthropic-ratelimit-requests-limit": "3",
        "anthropic-ratelimit-requests-remaining": "2",
        "anthropic-ratelimit-requests-reset": "2025-06-15T15:07:10Z",
        "anthropic-ratelimit-input-tokens-limit": "6000",
        "anthropic-ratelimit-input-tokens-remaining": "2000",
        "anthropic-ratelimit-input-tokens-reset": "2025-06-15T15:07:30Z",
        "anthropic-ratelimit-tokens-limit": "6000",
        "anthropic-ratelimit-tokens-remaining": "2000",
        "anthropic-ratelimit-tokens-reset": "2025-06-15T15:07:30Z",
    }
    assert told(success) == limits
    assert told(refused) == {**limits, "retry-after": "10", "x-should-retry": "true"}
    assert error_of(refused) == {
        "code": "rate_limit_error",
        "message": "This request would exceed the rate limit for your organization of 6,000 input tokens per minute. "
        "For details, refer to: https://docs.anthropic.com/en/api/rate-limits.",
        "type": "invalid_request_error",
        "param": None,
    }


def test_anthropic_rounds_tokens_to_thousands():
    reply = post(Simulator(tpm=100_000, dialect="anthropic"), chat(30_400))
    assert told(reply)["anthropic-ratelimit-input-tokens-remaining"] == "70000"


def test_openrouter_gives_numbers_only_in_the_body_of_a_refusal():
    success, refused, _ = spoken("openrouter")
    assert told(success) == {}
    assert told(refused) == {"date": "Sun, 15 Jun 2025 15:06:50 GMT"}
    assert error_of(refused) == {
        "message": "Rate limit exceeded: tokens-per-min. ",
        "code": 429,
        "metadata": {
            "headers": {
                "X-RateLimit-Limit": "6000",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": "1750000020000",
            },
            "provider_name": None,
        },
    }


def test_gemini_answers_with_a_list_of_details():
    success, refused, never = spoken("gemini")
    assert told(success) == told(refused) == {}
    (only,) = json.loads(refused.pieces[0])
    assert (only["error"]["code"], only["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert only["error"]["details"][0]["violations"][0]["quotaId"].endswith("InputTokensPerModelPerMinute-FreeTier")
    assert only["error"]["details"][1]["retryDelay"] == "10.000000000s"
    assert len(json.loads(never.pieces[0])[0]["error"]["details"]) == 1


def test_the_ietfs_draft_has_two_headers_with_lists():
    success, refused, _ = spoken("ietf")
    limits = {
        "ratelimit-policy": '"requests";q=3;w=60, "tokens";q=6000;w=60',
        "ratelimit": '"requests";r=2;t=20, "tokens";r=2000;t=40',
    }
    assert told(success) == limits
    assert told(refused) == {**limits, "retry-after": "10"}
    assert json.loads(refused.pieces[0])["violated-policies"] == ["tokens"]
    assert told(post(Simulator(dialect="ietf"))) == {}


@pytest.mark.parametrize("dialect", get_args(DialectName))
def test_every_dialect_can_announce_nothing(dialect):
    success, refused, never = spoken(dialect, announce=False, retry_after=False, explain_refusals=False)
    assert told(success) == told(refused) == told(never) == {}
    assert error_of(refused)["message"] == "Rate limit reached, please slow down."


@pytest.mark.parametrize("dialect", get_args(DialectName))
def test_every_dialect_refuses_for_a_day_too(dialect):
    server = Simulator(rpd=1, tpd=6000, dialect=dialect)
    refused = [post(server), post(server)][1]
    assert (refused.status, server.log[1].dimension) == (429, "requests")
    server.change(rpd=None)
    server.drain("gpt-4o", tokens=6000)
    assert (post(server).status, server.log[2].dimension) == (429, "tokens")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_dialect_works_at_any_instant(dialect):
    server, body = Simulator(rpm=1, tpm=1000, dialect=dialect), json.dumps(chat()).encode()
    for now in (0.0, 2.0**24, 2.0**40, 2.0**52):
        replies = [server.receive("POST", "/v1/chat/completions", {}, body, now) for _ in range(2)]
        assert [reply.status for reply in replies] == [200, 429]
