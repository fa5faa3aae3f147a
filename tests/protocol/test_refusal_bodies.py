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
from throttled_openai._protocol.durations import DAY, MONTH
from throttled_openai._protocol.error_body import parse_error_body
from throttled_openai._protocol.refusals import Refusal, read_refusal, read_stream_error


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
        pytest.param(429, google_error(message="Your prepayment credits are depleted."), id="gemini, prepaid"),
        pytest.param(
            429, google_error(message="Your project has exceeded its monthly spending cap."), id="gemini, cap"
        ),
        pytest.param(429, {"error": {"message": "You have run out of credits"}}, id="xai"),
        pytest.param(
            429,
            {
                "code": "Some resource has been exhausted",
                "error": "Your team x has either used all available credits or reached its monthly spending limit. To "
                "continue making API requests, please purchase more credits or raise your spending limit.",
            },
            id="xai, 2026",
        ),
        pytest.param(429, {"error": {"type": "budget_exceeded", "message": "Budget has been exceeded!"}}, id="litellm"),
        pytest.param(
            429,
            {"error": {"message": "ExceededBudget: End User=x over budget. Spend=0.0009, Budget=0.0001", "code": 400}},
            id="litellm, a user",
        ),
        pytest.param(
            429,
            {
                "error": {
                    "type": "exceeded_current_quota_error",
                    "message": "You exceeded your current token quota: <org-x> 0, please check your account balance",
                }
            },
            id="moonshot",
        ),
        pytest.param(
            429,
            {
                "error": {
                    "type": "exceeded_current_quota_error",
                    "message": "Your account x <ak-y> is suspended due to insufficient balance, please recharge your "
                    "account or check your plan and billing details",
                }
            },
            id="moonshot, suspended",
        ),
        pytest.param(
            429,
            {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}},
            id="z.ai",
        ),
        pytest.param(
            429, {"error": {"code": "1113", "message": "\u4f59\u989d\u4e0d\u8db3\u6216\u65e0\u53ef\u7528"}}, id="zhipu"
        ),
        pytest.param(
            429, {"error": {"code": "1113", "message": "\u60a8\u7684\u8d26\u6237\u5df2\u6b20\u8d39"}}, id="zhipu, debt"
        ),
        pytest.param(
            429,
            {"error": {"code": "1309", "message": "Your GLM Coding Plan has expired. Renew it."}},
            id="z.ai, a plan",
        ),
        pytest.param(429, {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"}, id="sub2api"),
        pytest.param(
            429,
            {"error": {"message": "insufficient balance (1008)", "type": "insufficient_balance_error"}},
            id="minimax",
        ),
        pytest.param(
            429,
            {"code": 30011, "message": "Your paid balance is insufficient. Please top up and try again."},
            id="siliconflow",
        ),
        pytest.param(
            429, {"error": {"code": "AccountOverdueError", "message": "…", "type": "Forbidden"}}, id="volcengine"
        ),
        pytest.param(
            429, {"code": "PrepaidBillOverdue", "message": "The prepaid bill is overdue."}, id="dashscope, a bill"
        ),
        pytest.param(
            429, openai_error("Free allocated quota exceeded.", None, "insufficient_quota"), id="dashscope, free tokens"
        ),
        pytest.param(429, {"code": "SPEND_LIMIT_EXCEEDED", "message": "…"}, id="cline"),
        pytest.param(
            402,
            {"error": "You have exceeded your monthly included credits for Inference Providers. Subscribe to PRO …"},
            id="hugging face",
        ),
        pytest.param(
            402,
            {"error": {"message": "Credit limit exceeded, please navigate to …", "type": "credit_limit"}},
            id="together",
        ),
        pytest.param(
            429,
            {
                "type": "error",
                "error": {"type": "invalid_request_error", "message": "Your credit balance is too low …"},
            },
            id="anthropic",
        ),
        *(
            pytest.param(429, {"error": {"message": text, "type": "rate_limit_error"}}, id=text)
            for text in (
                "Your free credits have been exhausted.",
                "Credits exhausted",
                "You have no remaining credits.",
                "You don't have enough credits to run this model.",
                "Out of funds",
                "insufficient_funds: top up",
                "Payment required: please add funds to your account.",
                "The workspace has reached its billing cap.",
                "You have hit your spend limit for this project.",
                "Spend limit reached",
                "Monthly budget exceeded for this key",
                "Organization has been restricted due to unpaid invoices.",
                "The request failed because your account has an overdue balance.",
                "YOUR SUBSCRIPTION HAS EXPIRED",
            )
        ),
    ],
)
def test_no_money_is_said_in_many_ways(status, body):
    assert refused(body, status, {"retry-after": "5"}) == Refusal("billing")


def new_api(message):
    return {"error": {"message": message, "type": "new_api_error", "param": "", "code": "insufficient_user_quota"}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(402, None, id="bare"),
        pytest.param(402, b"<html>Payment Required</html>", id="a page"),
        pytest.param(402, {"error": {"code": 402}}, id="the status again"),
        pytest.param(402, {"message": "You have reached the limit.", "reason": "MONTHLY_REQUEST_COUNT"}, id="kiro"),
        pytest.param(
            402, {"type": "server_error", "message": "Upstream request failed: Insufficient account funds"}, id="mimo"
        ),
        pytest.param(429, new_api("user quota is not enough (request id: 2024)"), id="one-api"),
        pytest.param(429, new_api("user [1] has 0.098 left, this needs 0.12"), id="new-api"),
        pytest.param(
            429,
            {
                "error": {
                    "message": "Provider returned error",
                    "code": 429,
                    "metadata": {"raw": json.dumps(openai_error("…", None, "insufficient_quota"))},
                }
            },
            id="openrouter, its own account there",
        ),
        pytest.param(
            429,
            openai_error("litellm.RateLimitError: XaiException - You have run out of credits", None, None),
            id="litellm",
        ),
    ],
)
def test_a_bare_402_and_a_gateways_quota_are_about_billing(status, body):
    assert refused(body, status) == Refusal("billing")


@pytest.mark.parametrize(
    "message",
    [
        NO_CREDITS,
        NO_CREDITS.replace("1056", "0"),
        "Prompt tokens limit exceeded: 36163 > 29652. To increase, visit … and upgrade to a paid account",
        "max_tokens limit exceeded: 100000 > 9577. To increase, visit …",
        "More credits are required to run this request. 128000 token capacity required, 19484 available.",
    ],
)
def test_a_request_that_the_rest_of_the_money_does_not_buy_is_too_large_and_others_may_not_be(message):
    assert refused({"error": {"message": message, "code": 402}}, 402) == Refusal("too_large")
    assert refused({"error": {"message": message, "code": 402}}, 429) == Refusal("too_large")


@pytest.mark.parametrize(
    "message",
    [
        "Add 10 credits to unlock 1000 free model requests",
        "check your billing details",
        "You exceeded your current quota, please check your plan and billing details.",
        "Rate limit reached. You can increase your rate limit by adding a payment method at …/account/billing.",
        "Rate limit reached. Purchase more credits or raise your spending limit for a higher tier.",
        "AI inference rate limit exceeded. Maximum 100 credits per 1 hour or 400 credits per day. Pro models cost 4.",
        "Rate limited. No credits were deducted from your balance.",
        "You have exceeded your rate limit; your remaining credits are not affected.",
        "Too many requests. Your credit balance is not enough for a higher tier. Please try again in 20s.",
        "You have run out of credits for this minute: 100 requests per minute.",
        "Token budget has been exceeded for this window.",
        "Rate limited. There is no payment required to continue.",
        "Too many requests. Load balance and retry.",
        "Your billing cycle limit will reset in 3 days",
        "You've reached your usage limit for this period",
        "Usage limit reached. Top up your credits to continue at once.",
        "Retry budget has been exceeded.",
        "You have reached your hourly credits.",
        "You have used all your daily free credits.",
        "Daily credits exhausted.",
        "Quota exceeded. Insufficient quota for this minute.",
        "We're receiving too many requests at the moment. Please wait a moment and try again.",
        "you (x) have reached your session usage limit, upgrade for higher limits",
        "Resource has been exhausted (e.g. check quota).",
        "Quota exceeded for metric: x/generate_content_free_tier_requests, limit: 20, model: gemini-2.5-flash",
        "Quota exceeded for metric: x/generate_content_free_tier_requests, limit: 0.5, model: gemini-2.5-flash",
        "The limit: 0, they say",
    ],
)
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "429", "quota_exceeded", "credit_limit", None])
def test_money_in_a_text_about_rates_is_not_the_end_of_it(message, code):
    assert refused({"error": {"message": message, "code": code}}).kind == "rate"


@pytest.mark.parametrize(
    "message",
    [
        "Free quota used (30 requests per hour).",
        "You have used your quota. Please try again in 5 minutes.",
        "You exceeded your current requests list.",
        "hour allocated quota exceeded",
    ],
)
@pytest.mark.parametrize("code", ["insufficient_quota", "exceeded_current_quota_error"])
def test_a_quota_that_comes_back_is_not_one_of_money_whatever_its_code(message, code):
    assert refused(openai_error(message, code, code)).kind == "rate"


@pytest.mark.parametrize("message", ["Rate limit of 10 requests per minute", "try again in 20s"])
@pytest.mark.parametrize("code", ["billing_not_active", "insufficient_balance", "project_spend_limit_exceeded"])
def test_a_code_that_names_the_money_is_about_money_whatever_the_text(message, code):
    assert refused(openai_error(message, None, code)).kind == "billing"


@pytest.mark.parametrize("text", ["Upgrade for more capacity.", "Ask us for a higher capacity.", "Use your capacity."])
def test_capacity_that_is_offered_is_no_lack_of_it(text):
    assert refused(openai_error(f"Rate limit reached. {text}")).kind == "rate"
    assert refused(openai_error("Service tier capacity exceeded")).kind == "overload"


def test_a_page_is_nobodys_word():
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
def test_the_providers_word_is_kept_if_it_is_one(body, code):
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


def test_the_type_does_not_distinguish_too_large():
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


# --- hostile ------------------------------------------------------------------

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
