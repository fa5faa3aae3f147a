"""The periods of announced limits, where single responses betray them differently."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Window

# Limits of one dimension that are remembered; a provider announces two or three.
_KEPT: Final = 8


class Periods:
    """Decides by majority what the period of each announced limit is.

    A period that no header names is inferred from how long the bucket takes to fill. Of a bucket
    that refills that is exact, whenever it is told. Of a limit counted in fixed windows the time to
    its end now and then looks like the refill of an hour or a day.
    """

    def __init__(self) -> None:
        self._votes: dict[float, Counter[float]] = {}

    def settle(self, windows: tuple[Window, ...]) -> tuple[tuple[Window, ...], list[float]]:
        """The windows of one response with their periods; and periods that these limits turned out not to have."""
        limits = Counter(window.limit for window in windows)
        settled, wrong = [], []
        for window in windows:
            if limits[window.limit] > 1:  # two periods at a time are named, not inferred
                settled.append(window)
                continue
            if len(self._votes) > _KEPT:
                self._votes.clear()
            votes = self._votes.setdefault(window.limit, Counter())
            votes[window.period] += 1
            # Of two as likely, the longer: too slow is put right, too fast is refused.
            period = max(votes, key=lambda period: (votes[period], period))
            wrong += [other for other in votes if other != period]
            settled.append(window._replace(period=period))
        return tuple(settled), wrong
