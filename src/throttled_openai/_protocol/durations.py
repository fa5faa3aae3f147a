"""Durations and instants as providers write them -> seconds."""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MINUTE: Final = 60.0
DAY: Final = 86_400.0
WEEK: Final = 7 * DAY
MONTH: Final = 2_592_000.0

# By the first three letters of their names: providers write min, minute, minutes.
UNITS: Final = {"sec": 1.0, "min": MINUTE, "hou": 3600.0, "day": DAY, "wee": WEEK, "mon": MONTH}

# No limit known to us is longer than a month, so no wait is either (section 4).
LONGEST: Final = 31 * DAY

_PART: Final = r"\d{1,15}(?:\.\d{1,15})?(?:ms|us|µs|μs|ns|h|m|s)"
_GO: Final = re.compile(rf"(?:{_PART}){{1,8}}", re.ASCII)
_GO_PART: Final = re.compile(r"([\d.]+)(\D+)", re.ASCII)
BARE: Final = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
# How many of a unit make a second, where one would be inexact: 534 / 1000 is 0.534.
_PER_SECOND: Final = {"ms": 1e3, "us": 1e6, "µs": 1e6, "μs": 1e6, "ns": 1e9, "s": 1.0}
_SECONDS: Final = {"h": 3600.0, "m": 60.0}

# As sentences say it: "4 days 20 hours", "1 hour and 30 minutes", "1h 30m", "an hour"; but not "a few minutes".
_UNIT: Final = r"(?:(?:milli)?second|sec|minute|min|hour|hr|day|week)s?|ms|us|µs|μs|ns|[dhms]"
_SPOKEN_PART: Final = (
    rf"(?:\d{{1,15}}(?:\.\d{{1,15}})? ?(?:{_UNIT})|(?:an?|one) (?:second|minute|hour|day|week))(?![a-z])"
)
SPOKEN: Final = rf"{_SPOKEN_PART}(?:(?:,? and |, ?| )?{_SPOKEN_PART}){{0,7}}"
_SPOKEN: Final = re.compile(SPOKEN, re.ASCII | re.IGNORECASE)
_SPOKEN_AMOUNT: Final = re.compile(r"(\d[\d.]*|an?\b|one\b) ?([a-zµμ]+)")
_SPOKEN_SECONDS: Final = {"d": DAY, "hr": 3600.0, "hrs": 3600.0, **_SECONDS}


def parse_duration(text: str) -> float | None:
    """Seconds of a Go duration (`1m26.4s`, `120ms`) or of a bare number; None if it is neither.

    Also None above 31 days, more than any limit's period.
    """
    # A single part is 98 % of OpenAI's (1.4); the pattern for all costs four times as much.
    if text[-1:] == "s":
        number = text[:-1]
        if number[-1:] == "m":
            if BARE.fullmatch(number[:-1]):
                return plausible(float(number[:-1]) / 1000)
        elif BARE.fullmatch(number):
            return plausible(float(number))
    if BARE.fullmatch(text):
        return plausible(float(text))
    if not _GO.fullmatch(text):
        return None
    total = 0.0
    for amount, unit in _GO_PART.findall(text):
        total += float(amount) * _SECONDS[unit] if unit in _SECONDS else float(amount) / _PER_SECOND[unit]
    return plausible(total)


def parse_spoken(text: str) -> float | None:
    """Seconds of what `SPOKEN` matches, in lower case; None above 31 days."""
    exact = parse_duration(text)
    if exact is not None:
        return exact
    total = 0.0
    for amount, unit in _SPOKEN_AMOUNT.findall(text):
        number = float(amount) if amount[0].isdigit() else 1.0
        if unit in _PER_SECOND or unit.startswith("milli"):
            total += number / _PER_SECOND.get(unit, 1e3)
        else:
            total += number * _SPOKEN_SECONDS.get(unit, UNITS.get(unit[:3], math.inf))
    return plausible(total)


def plausible(seconds: float) -> float | None:
    return seconds if 0.0 <= seconds <= LONGEST else None


def parse_instant(text: str) -> float | None:
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


def parse_delay(value: object, now: float) -> float | None:
    """Seconds from `now`: of a duration, also in words, a number of seconds, an epoch in s or ms, or a date."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{value:.3f}" if abs(value) < 1e14 else ""
    if not isinstance(value, str):
        return None
    if BARE.fullmatch(value):
        number = float(value)
        if number >= 1e11:
            return number / 1000 - now
        return number - now if number >= 1e9 else number
    duration = parse_duration(value)
    if duration is not None:
        return duration
    if _SPOKEN.fullmatch(value):
        return parse_spoken(value.lower())
    instant = parse_instant(value)
    return None if instant is None else instant - now
