"""Notices: log messages about waiting, so that no call waits long in silence."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import Final

logger = logging.getLogger("throttled_openai")

# Seconds until a warning for the same reason is repeated.
WARN_EVERY: Final = 600.0


def say(level: int, message: str, *values: object) -> None:
    """Log. A handler that raises must not cost a call its permit."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *values)


def until(seconds: float) -> str:
    """The time of day in `seconds`, with the date unless it is today."""
    now = time.time()
    then = time.localtime(now + min(seconds, 366 * 86_400.0))
    today = then[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", then)


class Notices:
    """Warnings of one limiter: each reason once in `WARN_EVERY` seconds."""

    __slots__ = ("_again_at",)

    def __init__(self) -> None:
        self._again_at: dict[str, float] = {}

    def due(self, reason: str, now: float) -> bool:
        """Whether to warn for that reason now; if so, it is not due again for `WARN_EVERY` seconds."""
        if now < self._again_at.get(reason, -math.inf):
            return False
        self._again_at[reason] = now + WARN_EVERY
        return True
