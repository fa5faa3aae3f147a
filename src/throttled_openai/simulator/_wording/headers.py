"""OpenAI's rate limit headers, and how durations are written in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._quotas.model_limits import ModelLimits

Headers = list[tuple[str, str]]


def go_duration(seconds: float) -> str:
    """Write `seconds`, rounded to milliseconds, as Go does: `120ms`, `58.891s`, `1m26.4s`, `0s`."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, fraction = divmod(milliseconds, 1000)
    text = f"{whole}.{fraction:03}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def rate_headers(limits: ModelLimits, now: float) -> Headers:
    """A snapshot of both limits; `reset` is the time until full, not until the next request fits."""
    headers: Headers = []
    for name, quota in (("requests", limits.requests), ("tokens", limits.tokens)):
        if quota is not None:
            headers += (
                (f"x-ratelimit-limit-{name}", f"{quota.limit:.0f}"),
                (f"x-ratelimit-remaining-{name}", str(quota.remaining(now))),
                (f"x-ratelimit-reset-{name}", go_duration(quota.shown.reset(now))),
            )
    return headers


def wait_milliseconds(wait: float) -> int:
    """Round a wait up to the millisecond, so that a client that obeys exactly is not refused again."""
    return math.ceil(wait * 1000 - 1e-6)


def retry_headers(wait: float) -> Headers:
    milliseconds = wait_milliseconds(wait)
    return [("retry-after", str(math.ceil(milliseconds / 1000))), ("retry-after-ms", str(milliseconds))]
