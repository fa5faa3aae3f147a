"""The dialects of providers with OpenAI's interface, as recorded or documented.

They differ in wording only: how tokens are charged is the setting `charge`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from .._quotas.quota import DAY, MINUTE
from .dates import EPOCH, date_header, unix_time
from .dialect import Dialect, announced_quotas, to_body
from .headers import Headers, go_duration, rate_headers, wait_milliseconds

if TYPE_CHECKING:
    from .._quotas.model_limits import ModelLimits, QuotaRefusal
    from .._settings import DialectName

_PER: Final = {MINUTE: "minute", DAY: "day"}


class _Seconds(Dialect):
    """A provider that sends `retry-after` in whole seconds and no milliseconds."""

    def retry_after(self, seconds: float, now: float) -> Headers:
        return super().retry_after(seconds, now)[:1]


class _Azure(Dialect):
    """The time until full in milliseconds without a unit, and the period. "Never" is given as one day."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        headers: Headers = []
        for name, quota in announced_quotas(limits):
            headers += (
                (f"x-ratelimit-limit-{name}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{name}", str(quota.remaining(now))),
                (f"x-ratelimit-renewalperiod-{name}", str(quota.period)),
                (f"x-ratelimit-reset-{name}", str(round(quota.shown.reset(now) * 1000))),
            )
        return headers

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name, now
        what = "token" if refusal.dimension == "tokens" else "call"
        seconds = DAY if refusal.wait is None else _seconds(refusal.wait)
        again = f"Please retry after {seconds} seconds. " if hint or refusal.wait is None else ""
        message = (
            "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-08-01-preview have "
            f"exceeded {what} rate limit of your current OpenAI S0 pricing tier. {again}Please go here: "
            "https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."
        )
        return to_body({"error": {"code": "429", "message": message}})


class _Groq(_Seconds):
    """Announced requests are per day and tokens per minute, always. A request that is too large gets a 413."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        headers = rate_headers(limits, now)
        if limits.requests is not None and limits.requests.period != DAY:
            headers = [(name, value) for name, value in headers if not name.endswith("-requests")]
        return headers

    def status(self, refusal: QuotaRefusal) -> int:
        return 413 if refusal.wait is None else 429

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del limit_name, now
        unit, per = refusal.dimension, _PER[refusal.period]
        where = (
            f"for model `{model}` in organization `org_simulator` service tier `on_demand` on {unit} per {per} "
            f"({unit[0].upper()}P{per[0].upper()}): Limit {refusal.limit:.0f}"
        )
        if refusal.wait is None:
            message = (
                f"Request too large {where}, Requested {refusal.requested}, please reduce your message size and try "
                "again. "
            )
        else:
            again = f"Please try again in {go_duration(wait_milliseconds(refusal.wait) / 1000)}. " if hint else ""
            message = f"Rate limit reached {where}, Used {refusal.used}, Requested {refusal.requested}. {again}"
        more = f"Need more {unit}? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
        return to_body({"error": {"message": message + more, "type": unit, "code": "rate_limit_exceeded"}})


class _Mistral(Dialect):
    """The period is part of the header names. There are no reset times and no `retry-after`."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        headers: Headers = []
        for name, quota in announced_quotas(limits):
            suffix = f"{'req' if name == 'requests' else name}-{_PER[quota.period]}"
            headers += (
                (f"x-ratelimit-limit-{suffix}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{suffix}", str(quota.remaining(now))),
            )
        return headers

    def retry_after(self, seconds: float, now: float) -> Headers:
        del seconds, now
        return []

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name, now, hint
        message = f"{refusal.dimension.capitalize()} rate limit exceeded"
        return to_body({"object": "error", "message": message, "type": "rate_limited", "param": None, "code": "1300"})


class _Cerebras(_Seconds):
    """The period is part of the header names; reset times are seconds with a fraction."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        headers: Headers = []
        for name, quota in announced_quotas(limits):
            suffix = f"{name}-{_PER[quota.period]}"
            headers += (
                (f"x-ratelimit-limit-{suffix}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{suffix}", str(quota.remaining(now))),
                (f"x-ratelimit-reset-{suffix}", f"{quota.shown.reset(now):.3f}".rstrip("0").rstrip(".")),
            )
        return headers

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name, now, hint
        unit, per = refusal.dimension, _PER[refusal.period]
        done = "processed" if unit == "tokens" else "sent"
        return to_body(
            {
                "message": f"{unit.capitalize()} per {per} limit exceeded - too many {unit} {done}.",
                "type": f"too_many_{unit}_error",
                "param": "quota",
                "code": f"{unit.removesuffix('s')}_quota_exceeded",
            }
        )


class _Anthropic(_Seconds):
    """Reset times are instants; remaining tokens are rounded to thousands."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        headers = [date_header(now)]
        for unit, quota in announced_quotas(limits):
            remaining = quota.remaining(now)
            full = datetime.fromtimestamp(math.ceil(unix_time(now + quota.shown.reset(now))), UTC)
            for name in ("requests",) if unit == "requests" else ("input-tokens", "tokens"):
                headers += (
                    (f"anthropic-ratelimit-{name}-limit", f"{quota.limit:.0f}"),
                    (
                        f"anthropic-ratelimit-{name}-remaining",
                        str(remaining if unit == "requests" else round(remaining, -3)),
                    ),
                    (f"anthropic-ratelimit-{name}-reset", f"{full:%Y-%m-%dT%H:%M:%SZ}"),
                )
        return headers

    def retry_after(self, seconds: float, now: float) -> Headers:
        return [*super().retry_after(seconds, now), ("x-should-retry", "true")]

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name, now, hint
        unit = "input tokens" if refusal.dimension == "tokens" else "requests"
        message = (
            f"This request would exceed the rate limit for your organization of {refusal.limit:,.0f} {unit} per "
            f"{_PER[refusal.period]}. For details, refer to: https://docs.anthropic.com/en/api/rate-limits."
        )
        return to_body(
            {"error": {"code": "rate_limit_error", "message": message, "type": "invalid_request_error", "param": None}}
        )


class _OpenRouter(Dialect):
    """No rate limit headers. The body of a refusal quotes headers with the instant to retry at."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        del limits, now
        return []

    def retry_after(self, seconds: float, now: float) -> Headers:
        del seconds
        return [date_header(now)]

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name
        what = "free-models" if refusal.dimension == "requests" else "tokens"
        headers = {"X-RateLimit-Limit": f"{refusal.limit:.0f}", "X-RateLimit-Remaining": "0"}
        if hint and refusal.wait is not None:
            headers["X-RateLimit-Reset"] = str(math.ceil((EPOCH + now + refusal.wait) * 1000))
        message = f"Rate limit exceeded: {what}-per-{'day' if refusal.period == DAY else 'min'}. "
        return to_body(
            {"error": {"message": message, "code": 429, "metadata": {"headers": headers, "provider_name": None}}}
        )


class _Gemini(Dialect):
    """No headers. The body is a list whose details give the limit and when to retry."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        del limits, now
        return []

    def retry_after(self, seconds: float, now: float) -> Headers:
        del seconds, now
        return []

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del limit_name, now
        per = _PER[refusal.period].capitalize()
        if refusal.dimension == "requests":
            quota = f"GenerateRequestsPer{per}PerProjectPerModel-FreeTier"
        else:
            quota = f"GenerateContentInputTokensPerModelPer{per}-FreeTier"
        violation = {"quotaId": quota, "quotaDimensions": {"model": model}, "quotaValue": f"{refusal.limit:.0f}"}
        details: list[object] = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
        if hint and refusal.wait is not None:
            delay = f"{wait_milliseconds(refusal.wait) / 1000:.9f}s"
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
        message = "You exceeded your current quota, please check your plan and billing details."
        error = {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}
        return to_body([{"error": error}])


class _Ietf(_Seconds):
    """draft-ietf-httpapi-ratelimit-headers-10 and later: two headers, each a list over all limits."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        quotas = list(announced_quotas(limits))
        if not quotas:
            return []
        policies = [f'"{name}";q={quota.limit:.0f};w={quota.period}' for name, quota in quotas]
        left = [f'"{name}";r={quota.remaining(now)};t={_seconds(quota.shown.reset(now))}' for name, quota in quotas]
        return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(left))]

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        del model, limit_name, now, hint
        return to_body(
            {
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Request cannot be satisfied as assigned quota has been exceeded",
                "violated-policies": [refusal.dimension],
            }
        )


DIALECTS: Final[dict[DialectName, Dialect]] = {
    "openai": Dialect(),
    "azure": _Azure(),
    "groq": _Groq(),
    "mistral": _Mistral(),
    "cerebras": _Cerebras(),
    "anthropic": _Anthropic(),
    "openrouter": _OpenRouter(),
    "gemini": _Gemini(),
    "ietf": _Ietf(),
}


def _seconds(wait: float) -> int:
    return math.ceil(wait_milliseconds(wait) / 1000)
