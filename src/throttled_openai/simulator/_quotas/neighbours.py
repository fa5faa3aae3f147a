"""The neighbours: other clients of the same account, and how much they take of its limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._settings import Settings

# Seconds. Neighbours take in steps this small, because a short window or bucket holds only its latest refill.
_SLICE: Final = 0.05

# The most slices at a time; after a longer silence each slice is longer.
_MOST: Final = 20_000


class Neighbours:
    """A steady demand for `requests` and `tokens` per second; `Quota.spare` decides how much of it is met."""

    __slots__ = ("_at", "requests", "taken_requests", "taken_tokens", "tokens")

    def __init__(self, settings: Settings, now: float) -> None:
        self._at = now
        self.taken_requests = 0.0
        self.taken_tokens = 0.0
        self.change(settings)

    def change(self, settings: Settings) -> None:
        self.requests = settings.neighbour_rpm / 60
        self.tokens = settings.neighbour_tpm / 60

    def slices(self, now: float) -> Iterator[tuple[float, float]]:
        """Divide the time since the last call into slices; give the middle instant and the seconds of each."""
        start, self._at = min(self._at, now), now  # a restarted clock brings no demand
        if not (self.requests or self.tokens) or start == now:
            return
        count = min(_MOST, math.ceil((now - start) / _SLICE))
        for number in range(count):
            yield start + (now - start) * (number + 0.5) / count, (now - start) / count
