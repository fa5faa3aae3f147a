"""The limit that an error body names: its dimension, its period and its numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from .durations import DAY, MINUTE, MONTH, UNITS, plausible
from .error_body import ErrorBody
from .headers import Dimension, exact_level, parse_number
from .retry_after import wait_in_text

_FLAGS: Final = re.ASCII | re.IGNORECASE

# OpenAI and Groq: "on tokens per min (TPM): Limit 30000, Used 29446, Requested 821".
_AMOUNT: Final = r"\d{1,15}(?:,\d{3}){0,4}"
_NUMBERS: Final = re.compile(
    r"\bon (?P<what>[\w -]{1,40}?) per (?P<per>\w{3,10})(?: \(\w{1,8}\))?: "
    rf"Limit (?P<limit>{_AMOUNT})(?:, Used (?P<used>{_AMOUNT}))?(?:, Requested ~?(?P<requested>{_AMOUNT}))?",
    _FLAGS,
)

# The words of others: which limit, and per what.
_WHAT: Final = r"(?<![/a-z])(?P<what>(?:(?:in|out)put[ _])?token|request|call|quer(?:y|ie))s?"
_NAMED: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        # Anthropic: "of 20,000 input tokens per minute"; Cohere: "10 API calls / minute"; Google's metrics:
        # "generate_content_requests_per_minute_per_project".
        rf"(?:\b(?P<limit>{_AMOUNT}) (?:api )?)?{_WHAT}(?:[ _-]per[ _-]| ?/ ?)(?P<per>sec|min|hour|day|week|month)",
        # Anthropic, 2024: "Number of request tokens has exceeded your per-minute rate limit".
        r"\bnumber of (?P<what>request tokens|requests) has exceeded your (?:per-)?(?P<per>minute|hour|daily)\b",
        # OpenRouter: "free-models-per-day".
        r"\bfree-(?P<what>model)s-per-(?P<per>min|day)",
        # Azure: "have exceeded token rate limit"; Mistral: "Requests rate limit exceeded".
        rf"{_WHAT} rate limit",
        # LiteLLM says "Limit type: tokens. Current limit: 200, Remaining: 200."
        (
            r"\blimit type: (?P<what>token|request)s?\b"
            rf"(?:\. current limit: (?P<limit>{_AMOUNT}), remaining: (?P<left>-?{_AMOUNT}))?"
        ),
        # Moonshot: "reached project TPM rate limit, current: 1410, limit: 100"; SiliconFlow: "TPM limit reached".
        (
            r"\b(?P<what>[rt])p(?P<per>[smhd]) (?:rate )?limit\b"
            rf"(?:, current: (?P<used>{_AMOUNT}), limit: (?P<limit>{_AMOUNT}))?"
        ),
        # Azure, for models of other vendors: "Rate limit of 50 per 86400s exceeded for UserByModelByDay".
        rf"\brate limit of (?P<limit>{_AMOUNT}) per (?P<per>\d{{1,7}})s exceeded for (?P<what>\w{{1,64}})",
        # DashScope, which uses codes about billing for its rate limits; the first is an anchor in its documentation.
        r"#(?P<what>token)-limit\b",
        r"(?<!free )\ballocated (?P<what>quota) exceeded",
        r"\bcurrent (?P<what>request)s list\b",
    )
)
# The words for tokens and for requests. Output tokens are neither, because we count the input.
_TOKENS: Final = re.compile(r"(?!.*output).*token.*|t|quota")
_REQUESTS: Final = re.compile(r"(?:request|call|quer|model|user).*|r")
_PERIODS: Final = {"s": 1.0, "m": MINUTE, "h": 3600.0, "d": DAY, "dai": DAY, **UNITS}
# Gemini's quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier".
_QUOTA: Final = re.compile(r"(?P<what>token|request)sper(?:[a-z]{0,40}?per)?(?P<per>minute|day)", _FLAGS)
# LiteLLM before 2025: "current rpm: 1, rpm limit: 1, current tpm: 348, tpm limit: 9223372036854775807".
_CROSSED: Final = re.compile(r"\bcurrent ([rt])pm: (\d{1,15}), \1pm limit: (\d{1,15})\b", _FLAGS)


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """One limit as an error body describes it; None for everything it does not mention.

    `period` is in seconds. `limit`, `used` and `requested` count requests or tokens.
    """

    dimension: Dimension | None = None
    period: float | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None


def named_limit(error: ErrorBody) -> NamedLimit:
    """The limit that refused the attempt, as the text and the codes describe it."""
    match = _NUMBERS.search(error.message)
    if match is not None:
        return _true_period(_limit_in(match), wait_in_text(error.message))
    crossed = _CROSSED.findall(error.message)
    for which, used, most in crossed:
        if float(used) >= float(most):
            return NamedLimit("requests" if which in "rR" else "tokens", MINUTE, float(most), float(used))
    if crossed:  # neither was reached, so it was LiteLLM's third limit, that of calls in flight
        return NamedLimit()
    found = [_limit_in(match) for pattern in _NAMED if (match := pattern.search(error.message))]
    found += [
        replace(_limit_in(match), limit=parse_number(value.encode("utf-8", "replace")))
        for name, value in error.quotas
        if (match := _QUOTA.search(name))
    ]
    if found:
        # Of several exhausted quotas, the call has to wait for the longest.
        return _with_header_numbers(max(found, key=lambda limit: limit.period or 0.0), error.limits)
    # OpenAI's `type` is the dimension, which is all it says. Together has an `error_type`, DashScope has codes.
    if error.codes & {"requests", "dynamic_request_limited", "limit_requests"}:
        return NamedLimit("requests")
    tokens = {"tokens", "tokens_usage_based", "dynamic_token_limited", "throttling.allocationquota"}
    return NamedLimit("tokens" if error.codes & tokens else None)


def has_numbers(message: str) -> bool:
    """Whether a text gives the numbers of a limit as OpenAI and Groq do."""
    return _NUMBERS.search(message) is not None


def names_rate_or_wait(message: str) -> bool:
    """Whether a text names a rate limit or a wait: then that is its subject, whatever else it mentions."""
    return wait_in_text(message) is not None or any(pattern.search(message) for pattern in (_NUMBERS, *_NAMED))


def _limit_in(match: re.Match[str]) -> NamedLimit:
    found = {name: text or "" for name, text in match.groupdict().items()}
    what, per = found["what"].lower(), found.get("per", "").lower()
    dimension: Dimension | None = None
    if _TOKENS.fullmatch(what):
        dimension = "tokens"
    elif _REQUESTS.fullmatch(what):  # not "input-images"
        dimension = "requests"
    period = plausible(float(per)) if per.isdigit() else _PERIODS.get(per[:3])
    limit, used, requested = (_amount(found.get(name, "")) for name in ("limit", "used", "requested"))
    if "concurrent" in what or period == 0.0:  # a limit of calls in flight, which is no rate
        return NamedLimit()
    if limit is not None and "left" in found:
        # LiteLLM's limits are `rpm_limit` and `tpm_limit`. The remainder it gives may be below zero. If it is the
        # whole limit, another counter refused.
        period, left = MINUTE, _amount(found["left"]) or 0.0
        used = limit - left if left < limit else None
    return NamedLimit(dimension, period, limit, used, requested)


def _amount(text: str) -> float | None:
    return parse_number(text.replace(",", "").encode())


def _with_header_numbers(named: NamedLimit, headers: Mapping[str, str]) -> NamedLimit:
    """`named` with the numbers of the headers that OpenRouter quotes in the body."""
    limit, left = (_amount(headers.get(f"x-ratelimit-{name}", "")) for name in ("limit", "remaining"))
    if named.limit is not None or limit is None or limit < 1.0:
        return named
    return replace(named, limit=limit, used=limit - left if left is not None and left <= limit else None)


def _true_period(named: NamedLimit, wait: float | None) -> NamedLimit:
    """`named` with a longer period if only that explains the wait.

    OpenAI calls the 30-day limit of free accounts "tokens per min" and asks to try again in 114 hours.
    """
    if wait is None or not named.limit or not named.period or named.used is None or named.requested is None:
        return named
    missing = named.used + named.requested - named.limit
    if missing <= 0.0:
        return named
    for period in (3600.0, DAY, MONTH):
        explains = exact_level(named.limit, period, named.limit - missing, wait, least=1.0) is not None
        if period > named.period and explains:
            return replace(named, period=period)
    return named
