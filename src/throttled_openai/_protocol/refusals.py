"""A refusing response -> why, for how long, and whether for good.

What a server sends is material, not truth: a value that is negative, not finite, absurdly large or
of the wrong type is "not told", and nothing here raises. No text of an error is kept. Numbers in
brackets are sections of the project's reference on how providers count, announce and refuse.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from .billing import is_billing, is_billing_code, is_certain, is_one_calls, may_be_billing
from .durations import DAY, LONGEST, MINUTE, MONTH, SPOKEN, UNITS, parse_delay, parse_instant, parse_spoken, plausible
from .error_body import ErrorBody, parse_error_body
from .headers import NOTHING, Announcement, Dimension, Window, exact_level, list_items, parse_number, read_limits

Kind = Literal["rate", "overload", "too_large", "billing"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the server did not run an attempt, and when it might.

    `rate`: we were too fast. `overload`: the server has no room, whatever our
    rate. `too_large`: this request can never be admitted. `billing`: none can,
    until somebody pays.
    """

    kind: Kind
    dimension: Dimension | None = None  # None: the server did not name one
    retry_after: float | None = None  # seconds from the response; None: not told
    period: float | None = None  # seconds, of the named limit
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    group: str | None = None  # the shared bucket: "(for limit gpt-4.1)"
    slow_down: bool = False  # the rate grew too fast, whatever the limits: back to the former one, for a while
    # For `billing`: whether the next call would meet the same. False for a 402 without a reason, for a gateway that
    # compares the price of one call with the rest of a quota, and for an error that a gateway relays: its next call
    # may go to another provider.
    certain: bool = True
    again: bool = True  # whether the server leaves it to us to send the call again: `x-should-retry` is not "false"
    # The provider's own code, for error messages: one word of at most 64 characters, or a number. Not compared.
    code: str | None = field(default=None, compare=False)

    @property
    def final(self) -> bool:
        """Whether sending the same request again is pointless, or not wanted."""
        return self.kind in ("too_large", "billing") or not self.again

    @property
    def says_which(self) -> bool:
        """Whether it tells anything of the limit: a wait, a dimension, a number."""
        return not (self.retry_after is None and self.dimension is None and self.limit is None)

    @property
    def announcement(self) -> Announcement:
        """The limit the refusal names, as headers would announce it."""
        if self.limit is None or self.limit < 1.0 or self.period is None:
            return NOTHING
        left = None if self.used is None else max(0.0, self.limit - self.used)
        windows = (Window(self.limit, self.period, left),)
        if self.dimension == "requests":
            return Announcement(windows, ())
        return Announcement((), windows) if self.dimension == "tokens" else NOTHING


# Codes of errors inside a stream, whose status has already been 200.
_STREAMED_RATE: Final = frozenset(
    {
        "429",
        "dynamic_request_limited",
        "dynamic_token_limited",
        "limit_burst_rate",
        "limit_requests",
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limit_reached_error",
        "rate_limited",
        "requests",
        "resource_exhausted",
        "tokens",
        "too_many_requests",
        "usage_limit_reached",
    }
)
_STREAMED_OVERLOAD: Final = frozenset({"503", "529", "service_unavailable_error", "slow_down", "unavailable"})

_FLAGS: Final = re.ASCII | re.IGNORECASE

# Room, not rate: Azure's `no_capacity`, Mistral's 3505, flex, TGI, DeepSeek, Zhipu's 1302 (in Chinese). But not a
# text that offers more of it, nor Gemini's "exhausted your capacity on this model", which is a quota.
_NO_ROOM: Final = re.compile(
    r"(?<!more )(?<!your )(?<!higher )(?<!additional )(?<!increased )(?<!dedicated )(?<!provisioned )"
    r"(?<!increase )(?<!reserved )capacity"
    r"|concurren|overload|high demand|resource[_ ]unavailable|max_parallel|\u5e76\u53d1",
    _FLAGS,
)

# OpenAI: "Your request rate has increased suddenly, overloading the model", "Slow Down" (1.5).
# Anthropic: "maximum usage increase rate … to stay within the acceleration limit" (3). DashScope: "Request
# rate increased too quickly".
_SLOW_DOWN: Final = re.compile(
    r"increased (?:suddenly|too quickly)|usage increase rate|acceleration limit|^slow down", _FLAGS
)

# OpenAI and Groq (1.5): "on tokens per min (TPM): Limit 30000, Used 29446, Requested 821".
_AMOUNT: Final = r"\d{1,15}(?:,\d{3}){0,4}"
_NUMBERS: Final = re.compile(
    r"\bon (?P<what>[\w -]{1,40}?) per (?P<per>\w{3,10})(?: \(\w{1,8}\))?: "
    rf"Limit (?P<limit>{_AMOUNT})(?:, Used (?P<used>{_AMOUNT}))?(?:, Requested ~?(?P<requested>{_AMOUNT}))?",
    _FLAGS,
)
_GROUP: Final = re.compile(r"\(for limit ([\w.:/-]{1,100})\)", _FLAGS)

# Elsewhere: which limit, and per what.
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
        # Azure, models of others: "Rate limit of 50 per 86400s exceeded for UserByModelByDay".
        rf"\brate limit of (?P<limit>{_AMOUNT}) per (?P<per>\d{{1,7}})s exceeded for (?P<what>\w{{1,64}})",
        # DashScope, whose codes are those of money; the first is an anchor in its documentation.
        r"#(?P<what>token)-limit\b",
        r"(?<!free )\ballocated (?P<what>quota) exceeded",
        r"\bcurrent (?P<what>request)s list\b",
    )
)
# The words for tokens and for requests. Generated ones are neither: our cost is the input.
_TOKENS: Final = re.compile(r"(?!.*output).*token.*|t|quota")
_REQUESTS: Final = re.compile(r"(?:request|call|quer|model|user).*|r")
_PERIODS: Final = {"s": 1.0, "m": MINUTE, "h": 3600.0, "d": DAY, "dai": DAY, **UNITS}
# Gemini's quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier".
_QUOTA: Final = re.compile(r"(?P<what>token|request)sper(?:[a-z]{0,40}?per)?(?P<per>minute|day)", _FLAGS)
# A quota of nothing, where no quotaValue says so: "* Quota exceeded for metric: …, limit: 0, model: gemini-2.0-flash".
_NOTHING_ALLOWED: Final = re.compile(r"\bexceeded for (?:quota )?metric:? [^\s,]{1,200}, limit: 0(?![.,]?\d)", _FLAGS)
# LiteLLM before 2025: "current rpm: 1, rpm limit: 1, current tpm: 348, tpm limit: 9223372036854775807".
_CROSSED: Final = re.compile(r"\bcurrent ([rt])pm: (\d{1,15}), \1pm limit: (\d{1,15})\b", _FLAGS)

# "try again in 534ms", "retry after 22 seconds", "try again in about 2 hours", "please wait 587 hours 33 minutes",
# "your quota will reset after 3h2m13s", and Google's field where a gateway quotes it.
_WAIT: Final = re.compile(
    r"\b(?:(?:try|retry|submit)(?: (?:your|the|this) request)?(?: again)?[ -](?:in|after)|wait|resets? (?:in|after)"
    r"|retrydelay[\"']?):? ?[\"']?"
    rf"(?:about |approximately |around |another |at least |~ ?)?(?P<wait>{SPOKEN})",
    _FLAGS,
)
_RESETS_AT: Final = re.compile(
    r"\bresets at: (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: UTC|Z|[+-]\d\d:\d\d)?)"
    # A local time says nothing: Zhipu's "will reset at 2026-09-09 05:38:28" is Beijing's.
    r"|\bresets? at:? (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: UTC|Z|[+-]\d\d:\d\d))",
    _FLAGS,
)
# A day to the second is measured by nobody: it is Azure's word for "not known", in its texts and beside them in its
# headers (2). Where a limit of tokens asks to "retry after" it, the request can never fit.
_UNKNOWN: Final = re.compile(r"\b(?:retry after|try again in) 86400 sec", _FLAGS)
_NEVER: Final = "retry after 86400 seconds"


@dataclass(frozen=True, slots=True)
class _Limit:
    """The limit that an error body names."""

    dimension: Dimension | None = None
    period: float | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None


def read_refusal(status: int, headers: Mapping[str, str], body: object, *, wall_now: float) -> Refusal | None:
    """Why the server refused, or None if this status is not a refusal.

    `body` is bytes, text or parsed JSON, as far as it could be read. `wall_now`,
    seconds since 1970, turns dates into delays where the response has no date
    of its own.
    """
    if status not in (402, 413, 429, 503, 529):
        return None
    said = parse_error_body(body)
    # Groq's too-large. Without this code it is a proxy that counts bytes.
    if status == 413 and "rate_limit_exceeded" not in said.codes:
        return None
    return _refusal(status, headers, said, wall_now)


def read_stream_error(error: object) -> Refusal | None:
    """Why the server ended a stream of status 200 with this error; None if it is no refusal.

    `error` is a whole event, its error, or a failed response, as text or parsed.
    """
    said = parse_error_body(error)
    if said.codes & _STREAMED_OVERLOAD or any(map(_NO_ROOM.search, said.codes)):
        return _refusal(503, {}, said, math.nan)
    if said.codes & _STREAMED_RATE or any(map(is_billing_code, said.codes)) or _NUMBERS.search(said.message):
        return _refusal(429, {}, said, math.nan)
    return None


def _refusal(status: int, headers: Mapping[str, str], said: ErrorBody, wall_now: float) -> Refusal:
    named = _named(said)
    slow_down = "slow_down" in said.codes or _SLOW_DOWN.search(said.message) is not None
    kind = _kind(status, said, named, slow_down=slow_down)
    if kind == "overload":
        named = _Limit()
    # Nothing to wait for: the next attempt would fail the same way.
    final = kind in ("too_large", "billing")
    wait = None if final else _retry_after(headers, said, wall_now)
    if wait is None and kind == "rate":
        wait = _refill(read_limits(headers), named)
    group = _GROUP.search(said.message)
    return Refusal(
        kind=kind,
        dimension=named.dimension,
        retry_after=wait,
        period=named.period,
        limit=named.limit or None,  # "Limit 0" is a model this account may not use
        used=named.used,
        requested=named.requested,
        group=None if group is None else group[1],
        slow_down=slow_down and not final,
        certain=kind != "billing" or is_certain(said),
        again=headers.get("x-should-retry") != "false",
        code=said.code,
    )


def _kind(status: int, said: ErrorBody, named: _Limit, *, slow_down: bool) -> Kind:
    if status in (503, 529):
        return "overload"
    if is_one_calls(said.message):
        return "too_large"
    if is_billing(status, said) or (not _is_rated(said.message) and may_be_billing(said)):
        return "billing"
    if status == 413 or _is_too_large(said, named):
        return "too_large"
    # OpenAI's text for "slow down" speaks of overload.
    no_room = _NO_ROOM.search(said.message) or any(map(_NO_ROOM.search, said.codes))
    return "overload" if no_room and named.limit is None and not slow_down else "rate"


def _is_too_large(said: ErrorBody, named: _Limit) -> bool:
    if named.limit == 0.0 or _NOTHING_ALLOWED.search(said.message):
        return True
    if named.limit is not None and named.requested is not None and named.requested > named.limit:
        return True
    message = said.message.lower()
    return (named.dimension == "tokens" and _NEVER in message) or "request too large" in message


def _retry_after(headers: Mapping[str, str], said: ErrorBody, wall_now: float) -> float | None:
    """Seconds to wait as the best source tells them, from the most exact to the least (section 4)."""
    date = parse_instant(headers.get("date", ""))
    now = wall_now if date is None else date
    unknown = DAY if _UNKNOWN.search(said.message) else None
    for delay in _waits(headers, said, now):
        # The SDK takes 0 as absent too; it would be an attempt in a tight loop.
        if delay is not None and 0.0 < delay <= LONGEST and delay != unknown:
            return delay
    return None


def _waits(headers: Mapping[str, str], said: ErrorBody, now: float) -> Iterator[float | None]:
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = parse_number(headers.get(name, "").encode("utf-8", "replace"))
        yield None if milliseconds is None else milliseconds / 1000
    for name in ("retry-after", "x-retry-after", "x-ratelimit-retry-after", "x-retry-in"):
        yield parse_delay(headers.get(name), now)
    for delay in said.delays:
        yield parse_delay(delay, now)
    yield _message_wait(said.message)
    resets_at = _RESETS_AT.search(said.message)
    yield None if resets_at is None else parse_delay(resets_at[1] or resets_at[2], now)
    # The end of a fixed window, Together's wait; the resets with a dimension are
    # times to full, many times longer than the wait.
    for told in (said.limits, headers):
        yield parse_delay(told.get("x-ratelimit-reset"), now)
    yield parse_delay(headers.get("ratelimit-reset"), now)
    for _, left in list_items(headers.get("ratelimit")):
        yield parse_delay(left.get("t", b"").decode(), now) if left.get("r") == b"0" else None
    # But not those that are instants: DigitalOcean says when a request of this
    # size will fit, and the soonest is the limit that was hit.
    yield min(_instants_to_come(headers, now), default=None)


def _instants_to_come(headers: Mapping[str, str], now: float) -> Iterator[float]:
    for name, value in headers.items():
        if name.lower().startswith("x-ratelimit-reset-"):
            instant = parse_number(value.encode("utf-8", "replace"))
            delay = None if instant is None or instant < 1e9 else parse_delay(value, now)
            if delay is not None and delay > 0.0:
                yield delay


def _message_wait(message: str) -> float | None:
    wait = _WAIT.search(message)
    return None if wait is None else parse_spoken(wait["wait"].lower())


def _refill(announced: Announcement, named: _Limit) -> float | None:
    """Seconds until the named limit has refilled what is missing: `(requested - remaining) / rate`."""
    if named.dimension is None:
        return None
    # A call is one request, whether the server says so or not.
    requested = 1.0 if named.dimension == "requests" else named.requested
    if named.limit and named.used is not None and named.period:
        windows: tuple[Window, ...] = (Window(named.limit, named.period, named.limit - named.used),)
    else:
        windows = announced.of(named.dimension)
    waits = [
        (requested - window.remaining) / window.rate
        for window in windows
        if requested is not None and window.remaining is not None
    ]
    longest = max(waits, default=0.0)
    return longest if 0.0 < longest <= LONGEST else None


def _named(said: ErrorBody) -> _Limit:
    match = _NUMBERS.search(said.message)
    if match is not None:
        return _true_period(_limit(match), _message_wait(said.message))
    crossed = _CROSSED.findall(said.message)
    for which, used, most in crossed:
        if float(used) >= float(most):
            return _Limit("requests" if which in "rR" else "tokens", MINUTE, float(most), float(used))
    if crossed:  # neither: it is the third, of calls in flight
        return _Limit()
    found = [_limit(match) for pattern in _NAMED if (match := pattern.search(said.message))]
    found += [
        replace(_limit(match), limit=parse_number(value.encode("utf-8", "replace")))
        for name, value in said.quotas
        if (match := _QUOTA.search(name))
    ]
    if found:
        # Of several exhausted quotas, the longest is the one to wait for.
        return _with_listed(max(found, key=lambda limit: limit.period or 0.0), said.limits)
    # OpenAI's `type` is the dimension; alone, it tells nothing else. Together has an `error_type`, DashScope codes.
    if said.codes & {"requests", "dynamic_request_limited", "limit_requests"}:
        return _Limit("requests")
    tokens = {"tokens", "tokens_usage_based", "dynamic_token_limited", "throttling.allocationquota"}
    return _Limit("tokens" if said.codes & tokens else None)


def _limit(match: re.Match[str]) -> _Limit:
    told = {name: text or "" for name, text in match.groupdict().items()}
    what, per = told["what"].lower(), told.get("per", "").lower()
    dimension: Dimension | None = None
    if _TOKENS.fullmatch(what):
        dimension = "tokens"
    elif _REQUESTS.fullmatch(what):  # not "input-images"
        dimension = "requests"
    period = plausible(float(per)) if per.isdigit() else _PERIODS.get(per[:3])
    limit, used, requested = (_amount(told.get(name, "")) for name in ("limit", "used", "requested"))
    if "concurrent" in what or period == 0.0:  # of calls in flight, which is no rate
        return _Limit()
    if limit is not None and "left" in told:
        # LiteLLM's limits are `rpm_limit` and `tpm_limit`. What it says is left
        # may be below zero, or all of it: then it refused by another count.
        period, left = MINUTE, _amount(told["left"]) or 0.0
        used = limit - left if left < limit else None
    return _Limit(dimension, period, limit, used, requested)


def _is_rated(message: str) -> bool:
    """Whether a text tells a rate or a wait: then it is about that, whatever else it speaks of."""
    return _message_wait(message) is not None or any(pattern.search(message) for pattern in (_NUMBERS, *_NAMED))


def _amount(text: str) -> float | None:
    return parse_number(text.replace(",", "").encode())


def _with_listed(named: _Limit, told: Mapping[str, str]) -> _Limit:
    """`named` with the numbers of headers that stand in the body (OpenRouter)."""
    limit, left = (_amount(told.get(f"x-ratelimit-{name}", "")) for name in ("limit", "remaining"))
    if named.limit is not None or limit is None or limit < 1.0:
        return named
    return replace(named, limit=limit, used=limit - left if left is not None and left <= limit else None)


def _true_period(named: _Limit, wait: float | None) -> _Limit:
    """`named` with a longer period if only that explains the wait.

    OpenAI calls the 30-day limit of free accounts "tokens per min" and asks to
    try again in 114 hours (1.4).
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
