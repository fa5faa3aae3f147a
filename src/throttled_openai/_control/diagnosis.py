"""The diagnosis of a refusal: what the server lacked, and which of our numbers that contradicts.

A refusal is for lack of capacity, for a rate, or for a limit per hour or day. Where the server does not say which, the
limit that was holding calls back is suspected, as that one may be set too high.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai._protocol.durations import DAY, MINUTE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from throttled_openai._protocol.headers import Announcement, Dimension
    from throttled_openai._protocol.refusals import Refusal

    from .pacer import Pacer
    from .server_window import ServerWindow

# A limit is holding calls back while less than this share of its bucket is left (of a server's window, of one second's
# refill).
PRESSED: Final = 0.5


class Diagnosis:
    """Judges refusals by the pacers and windows of one budget.

    `doubtful`: windows that were announced only once. `per_day`: limits that the user configured.
    """

    __slots__ = ("_doubtful", "_pacers", "_per_day", "_windows")

    def __init__(
        self,
        pacers: Mapping[Dimension, Pacer],
        windows: Mapping[tuple[Dimension, float], ServerWindow],
        doubtful: Collection[tuple[Dimension, float]],
        per_day: Mapping[Dimension, float | None],
    ) -> None:
        self._pacers = pacers
        self._windows = windows
        self._doubtful = doubtful
        self._per_day = per_day

    def suspects(self, refusal: Refusal, *, limit_was_binding: bool, calm: bool) -> tuple[bool, bool]:
        """What the refusal may be for: lack of capacity, and a rate.

        `limit_was_binding`: the concurrency limit was holding calls back. `calm`: the server had long accepted that
        many in flight. Without a reason from the server, and where no limit of ours was holding calls back, it counts
        as lack of capacity; where no rate is known yet, as both.
        """
        if refusal.kind == "overload":
            return True, False
        if refusal.is_explained:
            return False, True
        if limit_was_binding and calm:  # one more than the server had long served
            return True, False
        pressed = self._is_pressed()
        known = any(pacer.rate is not None for pacer in self._pacers.values())
        return limit_was_binding or not pressed, pressed or not known

    def _is_pressed(self) -> bool:
        """Whether a rate is holding calls back: one of its buckets is nearly empty."""
        if any(pacer.level < PRESSED * pacer.capacity for pacer in self._pacers.values()):
            return True
        return any(window.level < PRESSED * window.refill for window in self._windows.values())

    def dimensions_at_fault(self, refusal: Refusal) -> tuple[Dimension, ...]:
        """The dimension that the server named; else the one with a known limit, of two the emptier; else both."""
        if refusal.dimension is not None:
            return (refusal.dimension,)
        known: list[Dimension] = [name for name, pacer in self._pacers.items() if pacer.known is not None]
        return (min(known, key=self._seconds_left),) if known else tuple(self._pacers)

    def _seconds_left(self, dimension: Dimension) -> float:
        """Seconds of sending at its rate that are left in the emptiest bucket of `dimension`."""
        pacer = self._pacers[dimension]
        levels = [window.level / window.rate for (other, _), window in self._windows.items() if other == dimension]
        return min([pacer.level / (pacer.rate or 1.0), *levels])

    def windows_at_fault(
        self, dimension: Dimension, amount: float, refusal: Refusal, announced: Announcement
    ) -> dict[tuple[Dimension, float], ServerWindow]:
        """The windows that may have refused `amount`: none where the server announces that it had room in them."""
        left = [
            window.remaining
            for announcement in (announced, refusal.announcement)
            for window in announcement.of(dimension)
            if window.remaining is not None and refusal.period in (None, window.period)
        ]
        if left and min(left) >= amount:
            return {}
        return {
            key: window
            for key, window in self._windows.items()
            if key[0] == dimension and refusal.period in (None, key[1])
        }

    def is_for_configured_limit(self, refusal: Refusal) -> bool:
        """Whether it is for a limit per day that the user configured."""
        return any(
            limit is not None and (refusal.period == DAY or self._windows[dimension, DAY].level < 1.0)
            for dimension, limit in self._per_day.items()
            if refusal.dimension in (None, dimension) and refusal.period in (None, DAY)
        )

    def explains_long_wait(self, refusal: Refusal) -> bool:
        """Whether a limit of more than a minute is used up, so that the server means the long wait it named."""
        if refusal.period is not None and refusal.period > MINUTE and refusal.used is not None:
            return True
        return any(
            window.level < 1.0
            for (dimension, period), window in self._windows.items()
            if period > MINUTE and refusal.dimension in (None, dimension) and refusal.period in (None, period)
            if (dimension, period) not in self._doubtful
        )
