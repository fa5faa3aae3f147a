"""Response headers and error bodies -> what the server said about its limits.

The section numbers are those of docs/provider-semantics.md. What a server sends
is material, not truth: a value that is negative, not finite, absurdly large or
of the wrong type is "not told", and nothing here raises.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, NamedTuple

Dimension = Literal["requests", "tokens"]
Kind = Literal["rate", "overload", "too_large", "billing"]

MINUTE: Final = 60.0
DAY: Final = 86_400.0
MONTH: Final = 2_592_000.0

# By the first three letters of their names: providers write min, minute, minutes.
_UNITS: Final = {"sec": 1.0, "min": MINUTE, "hou": 3600.0, "day": DAY, "mon": MONTH}

# No limit known to us is longer than a month, so no wait is either (section 4).
_LONGEST: Final = 31 * DAY

# Longer texts are not error messages but pages, or attacks.
_LONGEST_BODY: Final = 65_536
_LONGEST_MESSAGE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Window:
    """One announced limit: `limit` units per `period` seconds.

    `remaining` is what was left when the server admitted that attempt, rounded
    down; None: not told.
    """

    limit: float
    period: float
    remaining: float | None

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.limit / self.period


@dataclass(frozen=True, slots=True)
class Announcement:
    """All limits one response told of, say of a minute and of a day; empty: not told."""

    requests: tuple[Window, ...]
    tokens: tuple[Window, ...]


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
            return _NOTHING
        left = None if self.used is None else max(0.0, self.limit - self.used)
        windows = (Window(self.limit, self.period, left),)
        if self.dimension == "requests":
            return Announcement(windows, ())
        return Announcement((), windows) if self.dimension == "tokens" else _NOTHING


# --- limits ---------------------------------------------------------------------------------------


class _Names(NamedTuple):
    """The four headers that together announce one limit."""

    limit: bytes
    remaining: bytes
    reset: bytes
    renewal: bytes  # Azure's: the period in seconds


def _family(suffix: bytes) -> _Names:
    roles = (b"limit", b"remaining", b"reset", b"renewalperiod")
    return _Names(*(b"x-ratelimit-" + role + b"-" + suffix for role in roles))


def _anthropic(prefix: bytes) -> _Names:
    roles = (b"limit", b"remaining", b"reset", b"renewalperiod")
    return _Names(*(b"anthropic-ratelimit-" + prefix + b"-" + role for role in roles))


_REQUESTS: Final = _family(b"requests")
_TOKENS: Final = _family(b"tokens")
_PROJECT_TOKENS: Final = _family(b"project-tokens")
_ANTHROPIC_REQUESTS: Final = _anthropic(b"requests")
# Our cost is the input. `tokens` is the most restrictive of several limits, for want of that one.
_ANTHROPIC_INPUT: Final = _anthropic(b"input-tokens")
_ANTHROPIC_TOKENS: Final = _anthropic(b"tokens")

# Names that carry their period, as Mistral's and Cerebras's do, and a dialect of 2023.
_LIMIT_NAME: Final = re.compile(
    rb"x-ratelimit-limit-"
    rb"((requests|req|tokens|project-tokens|tokens_usage_based)"
    rb"(?:-(?:([1-9]\d{0,4})-)?(second|minute|hour|day|month))?)"
)

_NUMBER: Final = re.compile(rb"\d{1,15}(?:\.\d{1,15})?")


_NOTHING: Final = Announcement((), ())


def read_limits(headers: Mapping[str, str]) -> Announcement:
    """Limits that a response announces, whatever its status; runs on every one, so in microseconds.

    `headers` ignores case or has lower-case names. Headers that do not say what
    they count, or per what (`x-ratelimit-limit`), are left alone.
    """
    table = _table(headers)
    requests = _window(table, _REQUESTS, 1.0)
    tokens = _window(table, _TOKENS)
    if requests is None and tokens is None:
        return _other_dialects(table, headers)
    project = _window(table, _PROJECT_TOKENS)
    return Announcement(_told(requests), _told(tokens) + _told(project))


def _told(window: Window | None) -> tuple[Window, ...]:
    return () if window is None else (window,)


def _table(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Headers as bytes; of one that was sent twice, the last."""
    # httpx.Headers scans all names at every look-up, 1.5 us each with 20
    # headers; a dict of its `raw` list costs 2.3 us once.
    raw = getattr(headers, "raw", None)
    if isinstance(raw, list):
        return dict(raw)
    return {
        name.lower().encode("utf-8", "replace"): value.encode("utf-8", "replace") for name, value in headers.items()
    }


def _other_dialects(table: dict[bytes, bytes], headers: Mapping[str, str]) -> Announcement:
    named = {low: value for name, value in table.items() if b"ratelimit" in (low := name.lower())}
    if not named:
        return _NOTHING
    requests: list[Window] = []
    tokens: list[Window] = []
    for match in filter(None, map(_LIMIT_NAME.fullmatch, named)):
        suffix, what, count, unit = match.groups()
        period = None if unit is None else _UNITS[unit[:3].decode()] * int(count or 1)
        if period is not None and period > _LONGEST:
            continue
        kind, least = (requests, 1.0) if what.startswith(b"req") else (tokens, 0.0)
        kind += _told(_window(named, _family(suffix), least, period))
    requests += _told(_window(named, _ANTHROPIC_REQUESTS, period=MINUTE))
    tokens += _told(_window(named, _ANTHROPIC_INPUT, period=MINUTE) or _window(named, _ANTHROPIC_TOKENS, period=MINUTE))
    if requests or tokens:
        return Announcement(tuple(requests), tuple(tokens))
    return _ietf(headers)


def _window(table: dict[bytes, bytes], names: _Names, least: float = 0.0, period: float | None = None) -> Window | None:
    limit_name, remaining_name, reset_name, renewal_name = names
    limit = _number(table.get(limit_name))
    if limit is None or limit < 1.0:
        return None
    remaining = _number(table.get(remaining_name))
    if remaining is not None and remaining > limit:
        remaining = None
    if period is None:
        renewal = _number(table.get(renewal_name))
        if renewal and renewal <= _LONGEST:
            period = renewal
        elif remaining is None or remaining == limit:
            period = MINUTE
        else:
            period = _period(table.get(reset_name, b""), limit, limit - remaining, least)
    return Window(limit, period, remaining)


def _number(text: bytes | None) -> float | None:
    """Value of a plain number; None for signs, exponents, lists, and more than 15 digits."""
    if text is None:
        return None
    if text.isdigit() and len(text) <= 15:  # of bytes, ASCII digits only
        return float(text)
    return float(text) if _NUMBER.fullmatch(text) else None


def _period(reset: bytes, limit: float, missing: float, least: float) -> float:
    """Seconds in which the bucket fills, as its time to full betrays; a minute where it does not.

    OpenAI and Groq announce daily limits under the names of limits per minute
    (1.4). `least`: units that are certainly missing, as the snapshot includes the
    attempt itself.
    """
    # A bare number is Azure's, in no known unit, or the end of a fixed window.
    wait = parse_duration(reset.decode("latin-1")) if reset[-1:] == b"s" else None
    if not wait or (missing <= 1.0 and not least) or _fits(MINUTE, wait, limit, missing, least):
        return MINUTE
    for period in (3600.0, DAY, MONTH):
        if _fits(period, wait, limit, missing, least):
            return period
    for period in (10.0, 1.0):
        # A limit per minute that is enforced per second is a bucket of limit/60.
        # Empty, it looks like a limit per second: believing that would be 60
        # times too fast.
        burst = limit * period / MINUTE
        if burst < max(1.0, limit - missing) and _fits(period, wait, limit, missing, least):
            return period
    return MINUTE


def _fits(period: float, wait: float, limit: float, missing: float, least: float) -> bool:
    """Whether `limit` per `period` refills `missing` units in `wait`.

    `missing` is rounded up to whole units and `wait` to milliseconds; 832 of 842
    recorded values are that exact.
    """
    scale = limit / period
    return (wait - 0.001) * scale <= missing and max(missing - 1.0, least) <= (wait + 0.001) * scale


def _ietf(headers: Mapping[str, str]) -> Announcement:
    """`RateLimit-Policy: "burst";q=100;w=60` with `RateLimit: "burst";r=50;t=30`, and drafts before 07."""
    requests: list[Window] = []
    tokens: list[Window] = []
    left = {name: _number(told.get("r")) for name, told in _items(headers.get("ratelimit"))}
    for name, told in _items(headers.get("ratelimit-policy")):
        unit = told.get("qu", b"requests").strip(b'"')
        kind = {b"requests": requests, b"tokens": tokens}.get(unit)
        if kind is not None:
            kind += _policy(_number(told.get("q")), told, left.get(name))
    if not requests and not tokens:
        # The first value is the limit that `remaining` is of; those with a window follow.
        listed = list(_items(headers.get("ratelimit-limit")))
        remaining = _number(headers.get("ratelimit-remaining", "").encode("utf-8", "replace"))
        for name, told in listed[:16]:
            requests += _policy(_number(name), told, remaining if name == listed[0][0] else None)
    return Announcement(tuple(requests), tuple(tokens))


def _policy(limit: float | None, told: dict[str, bytes], remaining: float | None) -> list[Window]:
    period = _number(told.get("w"))
    if limit is None or limit < 1.0 or not period or period > _LONGEST:
        return []
    return [Window(limit, period, remaining if remaining is not None and remaining <= limit else None)]


def _items(field: str | None) -> Iterator[tuple[bytes, dict[str, bytes]]]:
    """Members of a structured list, each with its parameters."""
    for member in (field or "")[:1024].split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield (
            name.encode("utf-8", "replace"),
            {key.strip(): value.strip().encode("utf-8", "replace") for key, _, value in pairs},
        )


# --- durations ------------------------------------------------------------------------------------

_PART: Final = r"\d{1,15}(?:\.\d{1,15})?(?:ms|us|µs|μs|ns|h|m|s)"
_GO: Final = re.compile(rf"(?:{_PART}){{1,8}}", re.ASCII)
_GO_PART: Final = re.compile(r"([\d.]+)(\D+)", re.ASCII)
_BARE: Final = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
# How many of a unit make a second, where one would be inexact: 534 / 1000 is 0.534.
_PER_SECOND: Final = {"ms": 1e3, "us": 1e6, "µs": 1e6, "μs": 1e6, "ns": 1e9, "s": 1.0}
_SECONDS: Final = {"h": 3600.0, "m": 60.0}


def parse_duration(text: str) -> float | None:
    """Seconds of a Go duration (`1m26.4s`, `120ms`) or of a bare number; None if it is neither.

    Also None above 31 days, more than any limit's period.
    """
    # `Nms` and `Ns` are 96 % of OpenAI's (1.4); the pattern costs four times as much.
    number = text[:-2] if text[-2:] == "ms" else text[:-1]
    if number.isdigit() and text[-1] == "s" and len(number) <= 7 and number.isascii():
        return float(number) / 1000 if text[-2] == "m" else _sane(float(number))
    if _BARE.fullmatch(text):
        return _sane(float(text))
    if not _GO.fullmatch(text):
        return None
    total = 0.0
    for amount, unit in _GO_PART.findall(text):
        total += float(amount) * _SECONDS[unit] if unit in _SECONDS else float(amount) / _PER_SECOND[unit]
    return _sane(total)


def _sane(seconds: float) -> float | None:
    return seconds if 0.0 <= seconds <= _LONGEST else None


def _instant(text: str) -> float | None:
    """Seconds since 1970 of an RFC 3339 or HTTP date; of LiteLLM's `2026-05-31 10:04:41 UTC`."""
    text = text.strip()[:64]
    try:
        when = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    try:
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _delay(value: object, now: float) -> float | None:
    """Seconds from `now`: of a duration, a number of seconds, an epoch in s or ms, or a date."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{value:.3f}" if abs(value) < 1e14 else ""
    if not isinstance(value, str):
        return None
    if _BARE.fullmatch(value):
        number = float(value)
        if number >= 1e11:
            return number / 1000 - now
        return number - now if number >= 1e9 else number
    duration = parse_duration(value)
    if duration is not None:
        return duration
    instant = _instant(value)
    return None if instant is None else instant - now


# --- refusals -------------------------------------------------------------------------------------

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

_WAIT: Final = re.compile(rf"\btry again in ((?:{_PART}){{1,8}})", _FLAGS)
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
    date = _instant(headers.get("date", ""))
    now = wall_now if date is None else date
    for delay in _waits(headers, said, now):
        # The SDK takes 0 as absent too; it would be an attempt in a tight loop.
        if delay is not None and 0.0 < delay <= _LONGEST:
            return delay
    return None


def _waits(headers: Mapping[str, str], said: _Said, now: float) -> Iterator[float | None]:
    milliseconds = _number(headers.get("retry-after-ms", "").encode("utf-8", "replace"))
    yield None if milliseconds is None else milliseconds / 1000
    yield _delay(headers.get("retry-after"), now)
    *retry_info, reset = said.waits
    for delay in retry_info:
        yield _delay(delay, now)
    yield _message_wait(said.message)
    yield _words_wait(said.message)
    resets_at = _RESETS_AT.search(said.message)
    yield None if resets_at is None else _delay(resets_at[1], now)
    yield _delay(reset, now)
    # The end of a fixed window; the resets with a dimension are times to full,
    # many times longer than the wait.
    yield _delay(headers.get("x-ratelimit-reset"), now)


def _message_wait(message: str) -> float | None:
    wait = _WAIT.search(message)
    return None if wait is None else parse_duration(wait[1].lower())


def _words_wait(message: str) -> float | None:
    wait = _WAIT_IN_WORDS.search(message)
    return None if wait is None else float(wait[1]) * _UNITS[wait[2][:3].lower()]


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
    return longest if 0.0 < longest <= _LONGEST else None


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
    amounts = (_number(told.get(name, "").replace(",", "").encode()) for name in ("limit", "used", "requested"))
    return _Limit(dimension, _UNITS.get(told.get("per", "")[:3].lower()), *amounts)


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
        if period > named.period and _fits(period, wait, named.limit, missing, least=1.0):
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
