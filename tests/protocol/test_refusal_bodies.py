"""What servers say when they refuse: every recorded or documented body, and how it is read."""

import json

import pytest

from header_samples import NOW
from quoted import (
    ACCELERATION,
    ANTHROPIC,
    AZURE,
    AZURE_BUSY,
    FREE_TPM,
    GEMINI,
    GROQ_TPD,
    LITELLM,
    LITELLM_CROSSED,
    MISTRAL,
    MISTRAL_BUSY,
    OPENROUTER,
    SUDDEN,
    TOO_LARGE,
    TPM,
    google_error,
    limited,
    openai_error,
    rate,
    refused,
)
from throttled_openai._protocol.durations import DAY, MONTH
from throttled_openai._protocol.refusals import Refusal

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
        rate("requests", 83_652, DAY, 8),
        id="azure, models of others",
    ),
    pytest.param(
        {
            "error": {
                "code": "RateLimitReached",
                "message": "Rate limit of 40000 per 60s exceeded for "
                "UserByModelByMinuteTokens. Please wait 60 seconds before retrying.",
            }
        },
        rate("tokens", 60, 60, 40_000),
        id="azure, tokens of models of others",
    ),
    pytest.param(
        {"error": {"message": "Rate limit of 2 per 0s exceeded for UserConcurrentRequests. Please wait 0 seconds."}},
        Refusal("overload"),
        id="azure, calls in flight to models of others",
    ),
    pytest.param(
        {"error": {"code": "429", "message": AZURE.format(what="call", wait=86400)}},
        rate("requests"),
        id="azure, does not know when",
    ),
    pytest.param(
        {"error": {"message": f"litellm.RateLimitError: AzureException - {AZURE.format(what='call', wait=86400)}"}},
        rate("requests"),
        id="azure behind litellm, does not know when",
    ),
    pytest.param(
        {
            "error": {
                "type": "usage_limit_reached",
                "message": "The usage limit has been reached",
                "plan_type": "plus",
                "resets_at": NOW + 13_872,
                "eligible_promo": None,
                "resets_in_seconds": 13_872,
            }
        },
        rate(None, 13_872),
        id="chatgpt",
    ),
    pytest.param(
        openai_error(
            "You exceeded your current quota, please check your plan and billing details. For more "
            "information on this error, read the docs: https://help.aliyun.com/…/error-code#token-limit",
            "insufficient_quota",
            "insufficient_quota",
        ),
        rate("tokens"),
        id="dashscope, tokens by the documentation's anchor",
    ),
    pytest.param(
        openai_error(
            "Allocated quota exceeded, please increase your quota limit.", "insufficient_quota", "insufficient_quota"
        ),
        rate("tokens"),
        id="dashscope, tokens",
    ),
    pytest.param(
        openai_error("You exceeded your current requests list.", "limit_requests", "limit_requests"),
        rate("requests"),
        id="dashscope, requests",
    ),
    pytest.param(
        openai_error("Request rate increased too quickly. To ensure system stability, please …", "limit_burst_rate"),
        rate(slow_down=True),
        id="dashscope, too sudden",
    ),
    pytest.param(
        {"message": "Request was rejected due to rate limiting. Details: TPM limit reached.", "data": None},
        rate("tokens", None, 60),
        id="siliconflow",
    ),
    pytest.param(
        {
            "error": {
                "type": "rate_limit_reached_error",
                "message": "Your account x / proj-y <ak-z> request reached "
                "project TPM rate limit, current: 1410, limit: 100, see …",
            }
        },
        rate("tokens", None, 60, 100, 1410),
        id="moonshot, tokens",
    ),
    pytest.param(
        {
            "error": {
                "type": "rate_limit_reached_error",
                "message": "Your account x<ak-y> request reached max request: 3, please try again after 1 seconds",
            }
        },
        rate(None, 1),
        id="moonshot, requests",
    ),
    pytest.param(
        {
            "error": {
                "type": "rate_limit_reached_error",
                "message": "Your account x<ak-y> request reached max concurrency: 1, please try again after 1 seconds",
            }
        },
        Refusal("overload", None, 1),
        id="moonshot, calls in flight",
    ),
    pytest.param(
        {"error": {"code": "1302", "message": "\u5f53\u524d\u5e76\u53d1\u6570\u8fc7\u9ad8"}},
        Refusal("overload"),
        id="zhipu, calls in flight",
    ),
    pytest.param(
        {
            "error": {
                "code": "1308",
                "message": "Usage limit reached for 5 hour. Your limit will reset at 2026-09-09 05:38:28",
            }
        },
        rate(),
        id="zhipu, a plan's limit, until a local time",
    ),
    pytest.param(
        {"error": {"code": "1316", "message": "Usage limit reached. Resets at 2026-05-28T21:26:40Z"}},
        rate(None, 3600),
        id="zhipu, a plan's limit, until an instant",
    ),
    pytest.param({"error": "you've reached your hourly usage limit, please wait or upgrade"}, rate(), id="ollama"),
    pytest.param(
        {
            "message": "You are using a Trial key, which is limited to 10 API calls / minute. You can continue to use "
            "the Trial key for free or upgrade to a Production key with higher rate limits."
        },
        rate("requests", None, 60, 10),
        id="cohere",
    ),
    pytest.param(
        {"message": "Too many tokens per day, please wait before trying again."},
        rate("tokens", None, DAY),
        id="bedrock",
    ),
    pytest.param({"message": "Limit Exceeded"}, rate(), id="aws, a plan's quota"),
    pytest.param(
        {"error": {"message": "Number of request tokens has exceeded your per-minute rate limit (https://docs…)"}},
        rate("tokens", None, 60),
        id="anthropic, 2024",
    ),
    pytest.param(
        {"error": {"message": "Number of requests has exceeded your daily rate limit"}},
        rate("requests", None, DAY),
        id="anthropic, 2024, a day",
    ),
    pytest.param(
        {"error": {"code": "429", "message": "Rate limit is exceeded. Try again in 86400 seconds."}},
        rate(),
        id="azure, an API gateway that does not know when",
    ),
    pytest.param({"error": "Limit reached: 40,000 tokens/min"}, rate("tokens", None, 60, 40_000), id="a slash"),
    pytest.param({"message": "Too Many Requests"}, rate(), id="aws"),
    pytest.param(
        [
            {
                "error": {
                    "code": 429,
                    "status": "RESOURCE_EXHAUSTED",
                    "message": "Quota exceeded for aiplatform.googleapis."
                    "com/generate_content_requests_per_minute_per_project_per_base_model with base model: gemini.",
                }
            }
        ],
        rate("requests", None, 60),
        id="vertex",
    ),
    pytest.param(
        [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Resource exhausted, please try again."}}],
        rate(),
        id="vertex, shared",
    ),
    pytest.param(
        {
            "error": {
                "code": 429,
                "message": "You have exhausted your capacity on this model. Your quota will reset after 3h2m13s.",
                "status": "RESOURCE_EXHAUSTED",
            }
        },
        rate(None, 3 * 3600 + 2 * 60 + 13),
        id="gemini, a plan's limit",
    ),
    pytest.param(
        {
            "success": False,
            "result": None,
            "errors": [
                {
                    "code": 4006,
                    "message": "you have used up your daily free allocation of 10,000 neurons, please upgrade",
                }
            ],
        },
        rate(),
        id="cloudflare, a day's free allocation",
    ),
    pytest.param("error code: 1015", rate(), id="cloudflare, a blocked client"),
    pytest.param(
        {"error": "Model x is currently loading", "estimated_time": 20.0}, rate(None, 20), id="hugging face, loading"
    ),
    pytest.param(
        {"detail": "You have exhausted your API Request Quota. Retry after: 21 seconds."}, rate(None, 21), id="akamai"
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
