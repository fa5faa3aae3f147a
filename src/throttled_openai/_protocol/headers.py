"""Response headers -> the limits the server announced.

What a server sends is material, not truth: a value that is negative, not finite, absurdly large or
of the wrong type is "not told", and nothing here raises. Nor is a limit told whose unit or period
would be a guess: guessed wrong, it makes us faster than the server allows. Numbers in brackets are
sections of the project's reference on how providers count, announce and refuse.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from .durations import DAY, LONGEST, MINUTE, MONTH, UNITS, parse_delay, parse_duration, parse_instant

Dimension = Literal["requests", "tokens"]


# Named tuples: two to four are made on every response, and a frozen dataclass takes twice as long.
class Window(NamedTuple):
    """One announced limit: `limit` units per `period` seconds.

    `remaining` is what was left when the server admitted that attempt: to a
    fraction of a unit where the server's time to full tells one, else rounded
    down; None: not told.
    """

    limit: float
    period: float
    remaining: float | None
    size: float | None = None
    """What the server's bucket holds when it is full, where that is less than the limit."""

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.limit / self.period


class Announcement(NamedTuple):
    """All limits one response told of, say of a minute and of a day, one a period; empty: not told."""

    requests: tuple[Window, ...]
    tokens: tuple[Window, ...]

    def of(self, dimension: Dimension) -> tuple[Window, ...]:
        return self.requests if dimension == "requests" else self.tokens


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

# What we count, and per what where the name says so: `req-10-second` and `tokens-month` (Mistral),
# `requests-day` (Cerebras), `tokens-per-minute` (DigitalOcean), and `minute` alone (Kong), which counts
# requests. `tokens_usage_based` is OpenAI's of 2023. Fireworks's two count all input and that which no
# cache had; it documents them as per second, but sends 7200000 where it documents 3.6 million a minute
# to start with.
#
# Not here: generated tokens, images, audio. Nor `x-ratelimit-limit` and `x-tokenlimit-limit`, which
# do not say per what. Together documents a second; its recorded 200 with a reset in 2 s counted
# across two seconds, and since 2026 it sends them with refusals only, where the reset is the wait.
# Nor LiteLLM's `llm_provider-…`: limits of one deployment of several. It repeats them under the
# plain names where there is no other limit.
_LIMIT_NAME: Final = re.compile(
    rb"x-ratelimit-limit-"
    rb"((?:(requests|req|tokens|project-tokens|tokens_usage_based|tokens-prompt|tokens-cache-adjusted-prompt)"
    rb"(?:-(?:per-)?(?:([1-9]\d{0,4})-)?(second|minute|hour|day|month))?)|(second|minute|hour|day|month))"
)

_GATEWAYS: Final = frozenset(
    name
    for unit in (b"Second", b"Minute", b"Hour", b"Day", b"Month")
    for name in (b"X-RateLimit-Limit-" + unit, b"x-ratelimit-limit-" + unit.lower())
)

_NUMBER: Final = re.compile(rb"\d{1,15}(?:\.\d{1,15})?")

# Of a limit: a bucket that holds less is not the one that the limit's own numbers describe.
_LESS: Final = 0.9

# Go durations are rounded to milliseconds.
_ROUNDING: Final = 0.001

NOTHING: Final = Announcement((), ())


def read_limits(headers: Mapping[str, str]) -> Announcement:
    """Limits that a response announces, whatever its status; runs on every one, so in microseconds.

    `headers` ignores case or has lower-case names.
    """
    table = _table(headers)
    requests = _window(table, _REQUESTS, least=1.0)
    tokens = _window(table, _TOKENS)
    if requests is None or tokens is None:
        return _other_dialects(table, headers)
    if not _GATEWAYS.isdisjoint(table):  # Kong's own limit beside those of the provider behind it
        return _other_dialects({name.lower(): value for name, value in table.items()}, headers)
    project = _window(table, _PROJECT_TOKENS)
    return Announcement((requests,), (tokens,) if project is None else _binding((tokens, project)))


def _table(headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """Headers by name, all in lower case unless the limits are; what was sent twice and does not agree is `?`."""
    # httpx.Headers scans all names at every look-up, 1.5 us each with 20
    # headers; a dict of its `raw` list costs 2.3 us once, and 2 us more in lower case.
    raw = getattr(headers, "raw", None)
    if not isinstance(raw, list):
        raw = [(name.encode("utf-8", "replace"), value.encode("utf-8", "replace")) for name, value in headers.items()]
    table: dict[bytes, bytes] = dict(raw)
    if _TOKENS.limit not in table:
        raw = [(name.lower(), value) for name, value in raw]
        table = dict(raw)
    if len(table) < len(raw):
        for name, value in raw:
            if table[name] != value:
                table[name] = b"?"
    return table


def _other_dialects(table: dict[bytes, bytes], headers: Mapping[str, str]) -> Announcement:
    requests: list[Window] = []
    tokens: list[Window] = []
    for names, what, period in _limit_names(tuple(table)):
        kind, least = (requests, 1.0) if what == "requests" else (tokens, 0.0)
        kind += _told(_window(table, names, least, period))
    requests = requests or _told(_window(table, _ANTHROPIC_REQUESTS, period=MINUTE))
    tokens = tokens or _told(
        _window(table, _ANTHROPIC_INPUT, period=MINUTE) or _window(table, _ANTHROPIC_TOKENS, period=MINUTE)
    )
    if not requests and not tokens and (b"ratelimit-policy" in table or b"ratelimit-limit" in table):
        requests, tokens = _ietf(headers)
    return Announcement(_binding(requests), _binding(tokens)) if requests or tokens else NOTHING


@functools.lru_cache(maxsize=256)  # a server's responses have the same names again and again
def _limit_names(names: tuple[bytes, ...]) -> list[tuple[_Names, Dimension, float | None]]:
    """The families of limits among names of headers, of what, and their periods where the name tells."""
    found: list[tuple[_Names, Dimension, float | None]] = []
    for match in map(_LIMIT_NAME.fullmatch, names):
        if match is None:
            continue
        suffix, what, count, unit, alone = match.groups()
        unit = unit or alone
        period = None if unit is None else UNITS[unit[:3].decode()] * int(count or 1)
        if period is None or period <= LONGEST:
            found.append((_family(suffix), "requests" if alone or what.startswith(b"req") else "tokens", period))
    return found


def _told(window: Window | None) -> list[Window]:
    return [] if window is None else [window]


def _binding(windows: Iterable[Window]) -> tuple[Window, ...]:
    """At most one window a period, since a budget keeps one level for each; of two, that with less left."""
    found: dict[float, Window] = {}
    for window in windows:
        other = found.setdefault(window.period, window)
        if _left(window) < _left(other):
            found[window.period] = window
    return tuple(found.values())


def _left(window: Window) -> tuple[float, float]:
    return (window.limit if window.remaining is None else window.remaining), window.limit


def _window(table: dict[bytes, bytes], names: _Names, least: float = 0.0, period: float | None = None) -> Window | None:
    """`least`: units that are certainly missing, as the snapshot includes the attempt itself."""
    limit_name, remaining_name, reset_name, renewal_name = names
    limit = parse_number(table.get(limit_name))
    if limit is None or limit < 1.0:
        return None
    remaining = parse_number(table.get(remaining_name))
    if remaining is not None and remaining > limit:
        remaining = None
    reset = table.get(reset_name)
    if reset is None:
        reset = _forwarded_reset(table, names)
    # A bare number is Azure's, in no known unit, or the end of a fixed window.
    wait = parse_duration(reset.decode("latin-1")) if reset[-1:] == b"s" else None
    if period is None and renewal_name in table:
        period = parse_number(table[renewal_name])
        if not period or period > LONGEST:
            period = None
    level = exact_level(limit, period or MINUTE, remaining, wait, least)
    if level is None and period is None:
        if wait:
            period = _period(limit, remaining, wait, least)
            level = exact_level(limit, period or MINUTE, remaining, wait, least)
        elif wait == 0.0 or _is_within_minute(table, reset):
            period = MINUTE
        if period is None:
            return None
    period = period or MINUTE
    size = _smaller_size(limit, period, level, remaining, wait)
    return Window(limit, period, remaining if level is None else level, size)


def _smaller_size(
    limit: float, period: float, level: float | None, remaining: float | None, wait: float | None
) -> float | None:
    """What is left and what is missing, where the server tells them of a bucket for less than the limit.

    So does one that enforces a limit of a minute in shorter windows.
    """
    if level is not None or remaining is None or wait is None:
        return None
    size = remaining + wait * limit / period
    return size if size < _LESS * limit else None


def exact_level(
    limit: float, period: float, remaining: float | None, wait: float | None, least: float = 0.0
) -> float | None:
    """What is left of `limit` per `period` that is full in `wait`; None where that is not what remains.

    `remaining` is rounded down to whole units and `wait` to milliseconds; 832 of
    842 recorded values are that exact. At 1,000 units a second and more, the
    remainder is the finer of the two.
    """
    if not wait or remaining is None:
        return None
    rate = limit / period
    level, slack, most = limit - wait * rate, _ROUNDING * rate, remaining + 1.0
    if not (remaining - slack <= level <= most + slack and level <= limit - least + slack):
        return None
    return remaining if slack >= 1.0 or level < remaining else min(level, most)


def _forwarded_reset(table: dict[bytes, bytes], names: _Names) -> bytes:
    """LiteLLM repeats limit and remainder of the provider under the plain names, but not the reset (3)."""
    limit, remaining, reset, _ = (table.get(b"llm_provider-" + name, b"") for name in names)
    same = limit == table.get(names.limit) and remaining == table.get(names.remaining)
    return reset if same and reset[-1:] == b"s" else b""


def parse_number(text: bytes | None) -> float | None:
    """Value of a plain number; None for signs, exponents, lists, and more than 15 digits."""
    if text is None:
        return None
    if text.isdigit() and len(text) <= 15:  # of bytes, ASCII digits only
        return float(text)
    return float(text) if _NUMBER.fullmatch(text) else None


def _period(limit: float, remaining: float | None, wait: float, least: float) -> float | None:
    """Seconds in which a bucket fills that takes `wait` to be full, if not a minute; None: cannot be told.

    OpenAI and Groq announce daily limits under the names of limits per minute (1.4).
    """
    if remaining is None:
        return None
    missing = limit - remaining
    # Nebius rounds up to seconds, which may look like a longer period.
    whole = wait <= MINUTE and wait % 1.0 == 0.0
    if whole and abs(wait - missing * MINUTE / limit) <= 1.0:
        return MINUTE
    if missing > 1.0 or least:  # or else every longer one fits
        for period in (3600.0, DAY, MONTH):
            level = exact_level(limit, period, remaining, wait, least)
            if level is not None:
                # Whole seconds for a fraction of a unit: it may as well be the end of a fixed minute.
                return None if whole and level > remaining + 1e-6 else period
        for period in (10.0, 1.0):
            # A limit per minute that is enforced per second is a bucket of
            # limit/60. Empty, it looks like a limit per second: believing that
            # would be 60 times too fast.
            burst = limit * period / MINUTE
            if burst < max(1.0, remaining) and exact_level(limit, period, remaining, wait, least) is not None:
                return period
    # Noise, or the end of a fixed window. Of a minute, neither is longer than that.
    return MINUTE if wait <= MINUTE else None


def _is_within_minute(table: dict[bytes, bytes], reset: bytes) -> bool:
    """Whether a limit is one per minute, by a reset that is no Go duration, or is missing.

    These names mean a minute everywhere but in OpenAI's and Groq's daily limits,
    which always have a time to full. Without it, `limit-requests: 10000` may be
    10,000 a minute (gpt-4o, tier 4) or a day (gpt-4o-mini, tier 1), and the
    minute is taken: a day for a minute would slow us down for good, while a
    minute for a day is corrected by the next reset, or by the first refusal,
    which names the day.

    A fixed window of a minute ends within one. Later, it is a longer one, and
    nothing tells how long.
    """
    # Azure's resets are in no known unit (2).
    if not reset or b"apim-request-id" in table or b"x-ms-region" in table:
        return True
    seconds = parse_number(reset)
    if seconds is None or seconds >= 1e9:  # an instant
        date = parse_instant(table.get(b"date", table.get(b"Date", b"")).decode("latin-1"))
        seconds = None if date is None else parse_delay(reset.decode("latin-1"), date)
    return seconds is not None and seconds <= MINUTE


def _ietf(headers: Mapping[str, str]) -> tuple[list[Window], list[Window]]:
    """`RateLimit-Policy: "burst";q=100;w=60` with `RateLimit: "burst";r=50;t=30`, and drafts before 07."""
    requests: list[Window] = []
    tokens: list[Window] = []
    left = {name: parse_number(told.get("r")) for name, told in list_items(headers.get("ratelimit"))}
    for name, told in list_items(headers.get("ratelimit-policy")):
        unit = told.get("qu", b"requests").strip(b'"')
        kind = {b"requests": requests, b"tokens": tokens}.get(unit)
        if kind is not None:
            kind += _policy(parse_number(told.get("q")), told, left.get(name))
    if not requests and not tokens:
        # The first value is the limit that `remaining` is of; those with a window follow.
        listed = list(list_items(headers.get("ratelimit-limit")))
        remaining = parse_number(headers.get("ratelimit-remaining", "").encode("utf-8", "replace"))
        for name, told in listed[:16]:
            requests += _policy(parse_number(name), told, remaining if name == listed[0][0] else None)
    return requests, tokens


def _policy(limit: float | None, told: dict[str, bytes], remaining: float | None) -> list[Window]:
    period = parse_number(told.get("w"))
    if limit is None or limit < 1.0 or not period or period > LONGEST:
        return []
    return [Window(limit, period, remaining if remaining is not None and remaining <= limit else None)]


def list_items(field: str | None) -> Iterator[tuple[bytes, dict[str, bytes]]]:
    """Members of a structured list, each with its parameters."""
    for member in (field or "")[:1024].split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield (
            name.encode("utf-8", "replace"),
            {key.strip(): value.strip().encode("utf-8", "replace") for key, _, value in pairs},
        )
