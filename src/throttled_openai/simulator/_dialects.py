"""The dialects of providers that speak OpenAI's interface, as far as they are recorded or documented.

What they measure is the same; how they count tokens is the setting `charge`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Literal

from ._answers import EPOCH
from ._dialect import Dialect, quotas_of, to_body
from ._headers import Headers, go_duration, rate_headers, wait_milliseconds
from ._quota import DAY, MINUTE

if TYPE_CHECKING:
    from ._limiter import Limiter, Refusal

DialectName = Literal["openai", "azure", "groq", "mistral", "cerebras", "anthropic", "openrouter", "gemini", "ietf"]

_PER: Final = {MINUTE: "minute", DAY: "day"}


class _Seconds(Dialect):
    """Whoever says when to come back in whole seconds alone."""

    def wait(self, seconds: float, now: float) -> Headers:
        return super().wait(seconds, now)[:1]


class _Azure(Dialect):
    """Bare milliseconds until full, and the period, which is what to go by; "never" is a day."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        headers: Headers = []
        for name, quota in quotas_of(limiter):
            headers += (
                (f"x-ratelimit-limit-{name}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{name}", str(quota.remaining(now))),
                (f"x-ratelimit-renewalperiod-{name}", str(quota.period)),
                (f"x-ratelimit-reset-{name}", str(round(quota.shown.reset(now) * 1000))),
            )
        return headers

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter, now
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
    """Requests are always those of a day, tokens always those of a minute; too large is a 413."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        headers = rate_headers(limiter, now)
        if limiter.requests is not None and limiter.requests.period != DAY:
            headers = [(name, value) for name, value in headers if not name.endswith("-requests")]
        return headers

    def status(self, refusal: Refusal) -> int:
        return 413 if refusal.wait is None else 429

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del limiter, now
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
    """The period stands in the names. No resets, and no word on when to come back."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        headers: Headers = []
        for name, quota in quotas_of(limiter):
            suffix = f"{'req' if name == 'requests' else name}-{_PER[quota.period]}"
            headers += (
                (f"x-ratelimit-limit-{suffix}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{suffix}", str(quota.remaining(now))),
            )
        return headers

    def wait(self, seconds: float, now: float) -> Headers:
        del seconds, now
        return []

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter, now, hint
        message = f"{refusal.dimension.capitalize()} rate limit exceeded"
        return to_body({"object": "error", "message": message, "type": "rate_limited", "param": None, "code": "1300"})


class _Cerebras(_Seconds):
    """The period stands in the names; resets are seconds with a fraction."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        headers: Headers = []
        for name, quota in quotas_of(limiter):
            suffix = f"{name}-{_PER[quota.period]}"
            headers += (
                (f"x-ratelimit-limit-{suffix}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{suffix}", str(quota.remaining(now))),
                (f"x-ratelimit-reset-{suffix}", f"{quota.shown.reset(now):.3f}".rstrip("0").rstrip(".")),
            )
        return headers

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter, now, hint
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
    """Instants instead of durations, and tokens in thousands."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        headers = [_date(now)]
        for unit, quota in quotas_of(limiter):
            remaining = quota.remaining(now)
            full = datetime.fromtimestamp(math.ceil(_date_of(now + quota.shown.reset(now))), UTC)
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

    def wait(self, seconds: float, now: float) -> Headers:
        return [*super().wait(seconds, now), ("x-should-retry", "true")]

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter, now, hint
        unit = "input tokens" if refusal.dimension == "tokens" else "requests"
        message = (
            f"This request would exceed the rate limit for your organization of {refusal.limit:,.0f} {unit} per "
            f"{_PER[refusal.period]}. For details, refer to: https://docs.anthropic.com/en/api/rate-limits."
        )
        return to_body(
            {"error": {"code": "rate_limit_error", "message": message, "type": "invalid_request_error", "param": None}}
        )


class _OpenRouter(Dialect):
    """Nothing but refusals, and in their body headers with the instant to come back at."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        del limiter, now
        return []

    def wait(self, seconds: float, now: float) -> Headers:
        del seconds
        return [_date(now)]

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter
        what = "free-models" if refusal.dimension == "requests" else "tokens"
        told = {"X-RateLimit-Limit": f"{refusal.limit:.0f}", "X-RateLimit-Remaining": "0"}
        if hint and refusal.wait is not None:
            told["X-RateLimit-Reset"] = str(math.ceil((EPOCH + now + refusal.wait) * 1000))
        message = f"Rate limit exceeded: {what}-per-{'day' if refusal.period == DAY else 'min'}. "
        return to_body(
            {"error": {"message": message, "code": 429, "metadata": {"headers": told, "provider_name": None}}}
        )


class _Gemini(Dialect):
    """No headers; the body is a list, and its details say which limit and when to come back."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        del limiter, now
        return []

    def wait(self, seconds: float, now: float) -> Headers:
        del seconds, now
        return []

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del limiter, now
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
    """The drafts draft-ietf-httpapi-ratelimit-headers-10 and later: two headers with lists."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        quotas = list(quotas_of(limiter))
        if not quotas:
            return []
        policies = [f'"{name}";q={quota.limit:.0f};w={quota.period}' for name, quota in quotas]
        left = [f'"{name}";r={quota.remaining(now)};t={_seconds(quota.shown.reset(now))}' for name, quota in quotas]
        return [("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(left))]

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        del model, limiter, now, hint
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


def _date(now: float) -> tuple[str, str]:
    """What the server's clock says, for whoever reads the instants it sends: they are not of today."""
    return "date", formatdate(_date_of(now), usegmt=True)


def _date_of(now: float) -> float:
    """Seconds since 1970; after the year 9999, which is the last with a date, its end."""
    return min(EPOCH + now, 253_402_300_799)
