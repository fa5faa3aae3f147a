"""The other clients of the same account: what they want, when, and what they have got."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._settings import Settings

# Seconds: they take in small slices, so that they find in a short window or bucket what comes in.
_SLICE: Final = 0.05

# In silence longer than so many slices the slices are longer.
_MOST: Final = 20_000


class Neighbours:
    """A steady stream that takes `requests` and `tokens` a second, as far as they are there and it is fair."""

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
        """The time since it was asked last, in slices: the middle and the seconds of each."""
        start, self._at = min(self._at, now), now  # a clock that starts again brings nothing
        if not (self.requests or self.tokens) or start == now:
            return
        count = min(_MOST, math.ceil((now - start) / _SLICE))
        for number in range(count):
            yield start + (now - start) * (number + 0.5) / count, (now - start) / count
