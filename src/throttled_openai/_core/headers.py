"""Response headers -> the limits the server announced.

What a server sends is material, not truth: a value that is negative, not finite, absurdly large or
of the wrong type is "not told", and nothing here raises. Numbers in brackets are sections of the
project's reference on how providers count, announce and refuse.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from .durations import DAY, LONGEST, MINUTE, MONTH, UNITS, parse_duration

Dimension = Literal["requests", "tokens"]


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


NOTHING: Final = Announcement((), ())


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
        return NOTHING
    requests: list[Window] = []
    tokens: list[Window] = []
    for match in filter(None, map(_LIMIT_NAME.fullmatch, named)):
        suffix, what, count, unit = match.groups()
        period = None if unit is None else UNITS[unit[:3].decode()] * int(count or 1)
        if period is not None and period > LONGEST:
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
    limit = parse_number(table.get(limit_name))
    if limit is None or limit < 1.0:
        return None
    remaining = parse_number(table.get(remaining_name))
    if remaining is not None and remaining > limit:
        remaining = None
    if period is None:
        renewal = parse_number(table.get(renewal_name))
        if renewal and renewal <= LONGEST:
            period = renewal
        elif remaining is None or remaining == limit:
            period = MINUTE
        else:
            period = _period(table.get(reset_name, b""), limit, limit - remaining, least)
    return Window(limit, period, remaining)


def parse_number(text: bytes | None) -> float | None:
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
    if not wait or (missing <= 1.0 and not least) or fits_period(MINUTE, wait, limit, missing, least):
        return MINUTE
    for period in (3600.0, DAY, MONTH):
        if fits_period(period, wait, limit, missing, least):
            return period
    for period in (10.0, 1.0):
        # A limit per minute that is enforced per second is a bucket of limit/60.
        # Empty, it looks like a limit per second: believing that would be 60
        # times too fast.
        burst = limit * period / MINUTE
        if burst < max(1.0, limit - missing) and fits_period(period, wait, limit, missing, least):
            return period
    return MINUTE


def fits_period(period: float, wait: float, limit: float, missing: float, least: float) -> bool:
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
    left = {name: parse_number(told.get("r")) for name, told in _items(headers.get("ratelimit"))}
    for name, told in _items(headers.get("ratelimit-policy")):
        unit = told.get("qu", b"requests").strip(b'"')
        kind = {b"requests": requests, b"tokens": tokens}.get(unit)
        if kind is not None:
            kind += _policy(parse_number(told.get("q")), told, left.get(name))
    if not requests and not tokens:
        # The first value is the limit that `remaining` is of; those with a window follow.
        listed = list(_items(headers.get("ratelimit-limit")))
        remaining = parse_number(headers.get("ratelimit-remaining", "").encode("utf-8", "replace"))
        for name, told in listed[:16]:
            requests += _policy(parse_number(name), told, remaining if name == listed[0][0] else None)
    return Announcement(tuple(requests), tuple(tokens))


def _policy(limit: float | None, told: dict[str, bytes], remaining: float | None) -> list[Window]:
    period = parse_number(told.get("w"))
    if limit is None or limit < 1.0 or not period or period > LONGEST:
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
