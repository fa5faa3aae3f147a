"""Texts of refusals as servers send them, and short forms of the expected answer.

They are recorded, from the documentation of a provider, or from a public log of the year given.
"""

from header_samples import NOW
from throttled_openai._protocol.refusals import Refusal, read_refusal


def refused(body, status=429, headers=None, wall_now=NOW):
    return read_refusal(status, headers or {}, body, wall_now=wall_now)


def openai_error(message, kind=None, code="rate_limit_exceeded"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


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


def new_api(message):
    return {"error": {"message": message, "type": "new_api_error", "param": "", "code": "insufficient_user_quota"}}
