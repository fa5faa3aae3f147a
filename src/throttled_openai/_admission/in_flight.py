"""The attempts in flight of all models together, and their common ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .permit import Attempt

# Calls in flight reached by probing, while no rate is known: as many connections as the SDK's own pool opens.
MAX_CONCURRENCY: Final = 1000
# Where the rate, and so the need, is known. One process cannot serve more, at any latency.
MOST_IN_FLIGHT: Final = 10_000


class InFlight:
    """Attempts admitted and not settled, and how many there may be.

    `ceiling`: the most attempts in flight. `unproven_ceiling`: the most that a limiter reaches by probing,
    without a known rate. `divided`: whether several limiters share the ceiling; a single one keeps to it
    by its own limit.
    """

    __slots__ = ("attempts", "ceiling", "divided", "unproven_ceiling")

    def __init__(self, ceiling: int, unproven_ceiling: int) -> None:
        self.ceiling = ceiling
        self.unproven_ceiling = min(unproven_ceiling, ceiling)
        self.attempts: set[Attempt] = set()
        self.divided = False

    def has_room(self) -> bool:
        """Whether the ceiling leaves room for one more attempt."""
        return not self.divided or len(self.attempts) < self.ceiling
