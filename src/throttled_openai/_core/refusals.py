"""A refusing response -> why, for how long, and whether for good.

What a server sends is material, not truth: a value that is negative, not finite, absurdly large or
of the wrong type is "not told", and nothing here raises. Numbers in brackets are sections of the
project's reference on how providers count, announce and refuse.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from .durations import DAY, LONGEST, MONTH, PART, UNITS, parse_delay, parse_duration, parse_instant
from .headers import NOTHING, Announcement, Dimension, Window, fits_period, parse_number, read_limits

Kind = Literal["rate", "overload", "too_large", "billing"]

# Longer texts are not error messages but pages, or attacks.
_LONGEST_BODY: Final = 65_536
_LONGEST_MESSAGE: Final = 4_096


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

    @property
    def final(self) -> bool:
        """Whether sending the same request again is pointless."""
        return self.kind in ("too_large", "billing")

    @property
    def announcement(self) -> Announcement:
        """The limit the refusal names, as headers would announce it."""
        if self.limit is None or self.period is None:
            return NOTHING
        left = None if self.used is None else max(0.0, self.limit - self.used)
        windows = (Window(self.limit, self.period, left),)
        if self.dimension == "requests":
            return Announcement(windows, ())
        return Announcement((), windows) if self.dimension == "tokens" else NOTHING


_BILLING: Final = frozenset(
    {
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "organization_usage_limit_exceeded",
    }
)

# Codes of errors inside a stream, whose status has already been 200.
_STREAMED_RATE: Final = frozenset(
    {
        "429",
        "rate_limit_error",
        "rate_limit_exceeded",
        "rate_limited",
        "requests",
        "resource_exhausted",
        "tokens",
        "too_many_requests",
    }
)
_STREAMED_OVERLOAD: Final = frozenset(
    {
        "503",
        "529",
        "engine_overloaded",
        "no_capacity",
        "overloaded",
        "overloaded_error",
        "resource_unavailable",
        "server_is_overloaded",
        "slow_down",
        "unavailable",
    }
)

_FLAGS: Final = re.ASCII | re.IGNORECASE

# Capacity, not rate: Azure's `no_capacity`, Mistral's 3505, flex, TGI, DeepSeek.
_NO_ROOM: Final = re.compile(r"capacity|concurren|overload|high demand|resource[_ ]unavailable|max_parallel", _FLAGS)

# OpenAI and Groq (1.5): "on tokens per min (TPM): Limit 30000, Used 29446, Requested 821".
_AMOUNT: Final = r"\d{1,15}(?:,\d{3}){0,4}"
_NUMBERS: Final = re.compile(
    r"\bon (?P<what>[\w -]{1,40}?) per (?P<per>\w{3,10})(?: \(\w{1,8}\))?: "
    rf"Limit (?P<limit>{_AMOUNT})(?:, Used (?P<used>{_AMOUNT}))?(?:, Requested ~?(?P<requested>{_AMOUNT}))?",
    _FLAGS,
)
_GROUP: Final = re.compile(r"\(for limit ([\w.:/-]{1,100})\)", _FLAGS)

# Elsewhere: which limit, and per what.
_NAMED: Final = tuple(
    re.compile(pattern, _FLAGS)
    for pattern in (
        # Anthropic: "of 20,000 input tokens per minute".
        (
            rf"(?:\b(?P<limit>{_AMOUNT}) (?:(?:in|out)put )?)?"
            r"\b(?P<what>token|request|call)s?[ -]per[ -](?P<per>sec|min|hour|day|month)"
        ),
        # OpenRouter: "free-models-per-day".
        r"\bfree-(?P<what>model)s-per-(?P<per>min|day)",
        # Gemini's quotaId: "GenerateRequestsPerDayPerProjectPerModel-FreeTier".
        r"(?P<what>token|request)sper(?:[a-z]{0,40}?per)?(?P<per>minute|day)",
        # Azure: "have exceeded token rate limit"; Mistral: "Requests rate limit exceeded".
        r"\b(?P<what>token|request|call)s? rate limit",
        # LiteLLM: "Limit type: tokens".
        r"\blimit type: (?P<what>token|request)s?\b",
    )
)

_WAIT: Final = re.compile(rf"\btry again in ((?:{PART}){{1,8}})", _FLAGS)
_WAIT_IN_WORDS: Final = re.compile(
    r"\b(?:try again|retry) (?:in|after) (\d{1,9}(?:\.\d{1,9})?) ?(sec|min|hour)", _FLAGS
)
_RESETS_AT: Final = re.compile(
    r"\bresets at: (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: UTC|Z|[+-]\d\d:\d\d)?)", _FLAGS
)


@dataclass(frozen=True, slots=True, repr=False)
class _Said:
    """What an error body says, at whatever depth it says it."""

    message: str
    codes: frozenset[str]  # every code, type and status, in lower case
    quotas: tuple[str, ...]  # names of the exhausted ones (Google)
    waits: tuple[object, ...]  # Google's RetryInfo, then OpenRouter's reset


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
    if status not in (413, 429, 503, 529):
        return None
    said = _said(body)
    # Groq's too-large. Without this code it is a proxy that counts bytes.
    if status == 413 and "rate_limit_exceeded" not in said.codes:
        return None
    return _refusal(status, headers, said, wall_now)


def read_stream_error(error: object) -> Refusal | None:
    """Why the server ended a stream of status 200 with this error event; None if it is no refusal."""
    said = _said(error)
    if said.codes & _STREAMED_OVERLOAD:
        return _refusal(503, {}, said, math.nan)
    if said.codes & _STREAMED_RATE or _is_billing(said.codes):
        return _refusal(429, {}, said, math.nan)
    return None


def _refusal(status: int, headers: Mapping[str, str], said: _Said, wall_now: float) -> Refusal:
    named = _named(said)
    kind = _kind(status, said, named)
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
    )


def _kind(status: int, said: _Said, named: _Limit) -> Kind:
    if status in (503, 529):
        return "overload"
    if _is_billing(said.codes):
        return "billing"
    if status == 413 or _is_too_large(said, named):
        return "too_large"
    if named.limit is None and (_NO_ROOM.search(said.message) or any(map(_NO_ROOM.search, said.codes))):
        return "overload"
    return "rate"


def _is_too_large(said: _Said, named: _Limit) -> bool:
    if named.limit is not None and named.requested is not None and named.requested > named.limit:
        return True
    # Azure says "retry after 86400 seconds" to what can never fit (2). Taken as a
    # wait it would stop the whole budget for a day.
    message = said.message.lower()
    never = named.dimension == "tokens" and "retry after 86400 seconds" in message
    return never or "request too large" in message


def _is_billing(codes: frozenset[str]) -> bool:
    return any(code in _BILLING or code.endswith("_spend_limit_exceeded") for code in codes)


def _retry_after(headers: Mapping[str, str], said: _Said, wall_now: float) -> float | None:
    """Seconds to wait as the best source tells them, from the most exact to the least (section 4)."""
    date = parse_instant(headers.get("date", ""))
    now = wall_now if date is None else date
    for delay in _waits(headers, said, now):
        # The SDK takes 0 as absent too; it would be an attempt in a tight loop.
        if delay is not None and 0.0 < delay <= LONGEST:
            return delay
    return None


def _waits(headers: Mapping[str, str], said: _Said, now: float) -> Iterator[float | None]:
    milliseconds = parse_number(headers.get("retry-after-ms", "").encode("utf-8", "replace"))
    yield None if milliseconds is None else milliseconds / 1000
    yield parse_delay(headers.get("retry-after"), now)
    *retry_info, reset = said.waits
    for delay in retry_info:
        yield parse_delay(delay, now)
    yield _message_wait(said.message)
    yield _words_wait(said.message)
    resets_at = _RESETS_AT.search(said.message)
    yield None if resets_at is None else parse_delay(resets_at[1], now)
    yield parse_delay(reset, now)
    # The end of a fixed window; the resets with a dimension are times to full,
    # many times longer than the wait.
    yield parse_delay(headers.get("x-ratelimit-reset"), now)


def _message_wait(message: str) -> float | None:
    wait = _WAIT.search(message)
    return None if wait is None else parse_duration(wait[1].lower())


def _words_wait(message: str) -> float | None:
    wait = _WAIT_IN_WORDS.search(message)
    return None if wait is None else float(wait[1]) * UNITS[wait[2][:3].lower()]


def _refill(announced: Announcement, named: _Limit) -> float | None:
    """Seconds until the named limit has refilled what is missing: `(requested - remaining) / rate`."""
    if named.dimension is None:
        return None
    # A call is one request, whether the server says so or not.
    requested = 1.0 if named.dimension == "requests" else named.requested
    if named.limit and named.used is not None and named.period:
        windows: tuple[Window, ...] = (Window(named.limit, named.period, named.limit - named.used),)
    else:
        windows = announced.requests if named.dimension == "requests" else announced.tokens
    waits = [
        (requested - window.remaining) / window.rate
        for window in windows
        if requested is not None and window.remaining is not None
    ]
    longest = max(waits, default=0.0)
    return longest if 0.0 < longest <= LONGEST else None


def _named(said: _Said) -> _Limit:
    match = _NUMBERS.search(said.message)
    if match is not None:
        return _true_period(_limit(match), _message_wait(said.message))
    found = [match for pattern in _NAMED for text in (said.message, *said.quotas) if (match := pattern.search(text))]
    if found:
        # Of several exhausted quotas, the longest is the one to wait for.
        return max(map(_limit, found), key=lambda limit: limit.period or 0.0)
    # OpenAI's `type` is the dimension; alone, it tells nothing else.
    if "requests" in said.codes:
        return _Limit("requests")
    return _Limit("tokens" if said.codes & {"tokens", "tokens_usage_based"} else None)


def _limit(match: re.Match[str]) -> _Limit:
    told = match.groupdict(default="")
    what = told["what"].lower()
    dimension: Dimension | None = None
    if "token" in what:
        dimension = "tokens"
    elif what.startswith(("request", "call", "model")):  # not "input-images"
        dimension = "requests"
    amounts = (parse_number(told.get(name, "").replace(",", "").encode()) for name in ("limit", "used", "requested"))
    return _Limit(dimension, UNITS.get(told.get("per", "")[:3].lower()), *amounts)


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
        if period > named.period and fits_period(period, wait, named.limit, missing, least=1.0):
            return replace(named, period=period)
    return named


def _said(body: object) -> _Said:
    """Collect from the outside in, whatever the nesting.

    `[{"error": {…}}]` (Gemini), `{"response": {"error": {…}}}` (a stream's event),
    `{"error": "…"}` (Ollama), `{"message": …}` (Mistral), text.
    """
    level = _parsed(body)
    message = ""
    codes: set[str] = set()
    details: list[Mapping[str, object]] = []
    reset: object = None
    for _ in range(6):
        if isinstance(level, list):  # Gemini
            level = level[0] if level else None
        if isinstance(level, str):
            message = level
        if not isinstance(level, Mapping):
            break
        codes.update(str(level[key])[:64].lower() for key in ("code", "type", "status") if _is_code(level.get(key)))
        text = level.get("message")
        message = text if isinstance(text, str) else message
        listed = level.get("details")
        if isinstance(listed, list):
            details += [detail for detail in listed[:16] if isinstance(detail, Mapping)]
        reset = _reset_in(level.get("metadata")) or reset
        level = next((level[key] for key in ("error", "response", "detail") if level.get(key) is not None), None)
    quotas = [
        violation["quotaId"]
        for detail in details
        if isinstance(violations := detail.get("violations"), list)
        for violation in violations[:16]
        if isinstance(violation, Mapping) and isinstance(violation.get("quotaId"), str)
    ]
    waits = [detail.get("retryDelay") for detail in details]
    return _Said(message[:_LONGEST_MESSAGE], frozenset(codes), tuple(quotas), (*waits, reset))


def _is_code(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and 0 <= value < 1000)


def _reset_in(metadata: object) -> object:
    """OpenRouter puts the header into the body: `{"headers": {"X-RateLimit-Reset": "1791331200000"}}`."""
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    return headers.get("X-RateLimit-Reset") if isinstance(headers, Mapping) else None


def _parsed(body: object) -> object:
    if isinstance(body, (bytes, bytearray)):
        body = bytes(body[:_LONGEST_BODY]).decode("utf-8", "replace")
    if isinstance(body, str) and len(body) <= _LONGEST_BODY and body.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
    return body
