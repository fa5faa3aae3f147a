"""Retry-After: how long a refusing response asks to wait, in its headers, the fields of its body, or its text."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from .durations import DAY, LONGEST, SPOKEN, parse_delay, parse_instant, parse_spoken
from .error_body import ErrorBody
from .headers import list_items, parse_number

_FLAGS: Final = re.ASCII | re.IGNORECASE

# "try again in 534ms", "retry after 22 seconds", "try again in about 2 hours", "please wait 587 hours 33 minutes",
# "your quota will reset after 3h2m13s", and Google's field where a gateway quotes it.
_WAIT: Final = re.compile(
    r"\b(?:(?:try|retry|submit)(?: (?:your|the|this) request)?(?: again)?[ -](?:in|after)|wait|resets? (?:in|after)"
    r"|retrydelay[\"']?):? ?[\"']?"
    rf"(?:about |approximately |around |another |at least |~ ?)?(?P<wait>{SPOKEN})",
    _FLAGS,
)
# A local time is no use: Zhipu's "will reset at 2026-09-09 05:38:28" is Beijing's.
_RESETS_AT: Final = re.compile(
    r"\bresets at: (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: UTC|Z|[+-]\d\d:\d\d)?)"
    r"|\bresets? at:? (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?: UTC|Z|[+-]\d\d:\d\d))",
    _FLAGS,
)
# Exactly a day is Azure's way of saying that the wait is not known, in its texts and in the headers beside them.
_UNKNOWN: Final = re.compile(r"\b(?:retry after|try again in) 86400 sec", _FLAGS)


def read_retry_after(headers: Mapping[str, str], error: ErrorBody, wall_now: float) -> float | None:
    """Seconds to wait from the best source, which is the first below; None if the response asks for no wait."""
    date = parse_instant(headers.get("date", ""))
    now = wall_now if date is None else date
    unknown = DAY if _UNKNOWN.search(error.message) else None
    for delay in _waits(headers, error, now):
        # The SDK ignores 0 too: waiting 0 seconds would be retrying in a tight loop.
        if delay is not None and 0.0 < delay <= LONGEST and delay != unknown:
            return delay
    return None


def wait_in_text(message: str) -> float | None:
    """Seconds of the first wait in an error text; None if there is none."""
    wait = _WAIT.search(message)
    return None if wait is None else parse_spoken(wait["wait"].lower())


def _waits(headers: Mapping[str, str], error: ErrorBody, now: float) -> Iterator[float | None]:
    """Every wait in the response, from the most exact source to the least."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = parse_number(headers.get(name, "").encode("utf-8", "replace"))
        yield None if milliseconds is None else milliseconds / 1000
    for name in ("retry-after", "x-retry-after", "x-ratelimit-retry-after", "x-retry-in"):
        yield parse_delay(headers.get(name), now)
    for delay in error.delays:
        yield parse_delay(delay, now)
    yield wait_in_text(error.message)
    resets_at = _RESETS_AT.search(error.message)
    yield None if resets_at is None else parse_delay(resets_at[1] or resets_at[2], now)
    # The end of a fixed window, which is Together's wait. Resets that name a dimension (`…-reset-tokens`) are left
    # out: they are times until the bucket is full, many times longer than the wait.
    for source in (error.limits, headers):
        yield parse_delay(source.get("x-ratelimit-reset"), now)
    yield parse_delay(headers.get("ratelimit-reset"), now)
    for _, parameters in list_items(headers.get("ratelimit")):
        yield parse_delay(parameters.get("t", b"").decode(), now) if parameters.get("r") == b"0" else None
    # Resets that are instants are waits nevertheless: DigitalOcean's say when a request of this size will fit, and
    # the soonest belongs to the limit that refused.
    yield min(_instants_to_come(headers, now), default=None)


def _instants_to_come(headers: Mapping[str, str], now: float) -> Iterator[float]:
    for name, value in headers.items():
        if name.lower().startswith("x-ratelimit-reset-"):
            instant = parse_number(value.encode("utf-8", "replace"))
            delay = None if instant is None or instant < 1e9 else parse_delay(value, now)
            if delay is not None and delay > 0.0:
                yield delay
