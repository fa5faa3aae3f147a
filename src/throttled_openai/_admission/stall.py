"""Places held by attempts that will never be settled by themselves."""

from __future__ import annotations

import gc
import math
from typing import Final

# Seconds without progress after which abandoned attempts are searched for; doubled after each search.
STALL_TIMEOUT: Final = 5.0


class Stall:
    """When to search for abandoned streams, and the streams that may be abandoned.

    The SDK's stream and its generator refer to each other, so one that was left by `break` is freed
    only by the cyclic garbage collector, which does not run while nothing happens.
    """

    def __init__(self) -> None:
        self.streams = 0
        self.stall_timeout = STALL_TIMEOUT
        self._progress_at = -math.inf

    def note_progress(self, now: float) -> None:
        """An attempt ended."""
        self._progress_at = now
        self.stall_timeout = STALL_TIMEOUT

    def is_due(self, now: float) -> bool:
        """Whether to search now; if so, the next search comes after twice the time."""
        due = now - self._progress_at >= self.stall_timeout
        if due:
            self.stall_timeout *= 2
        return due

    def collect_streams(self) -> None:
        """Free the permits of streams that no variable refers to any more."""
        if self.streams:
            gc.collect()
