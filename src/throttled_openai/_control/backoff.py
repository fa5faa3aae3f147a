"""Backoff: pauses in which nothing is sent, after refusals."""

from __future__ import annotations

import math
from typing import Final

# A pause that the server asks for is stretched by up to this share, so that clients refused at the same instant do not
# all return at the same instant. Doubled with each further refusal in a row.
PAUSE_JITTER: Final = 0.1
# Seconds of the first pause where the server names none. Each further one in a row is twice as long, up to the longest.
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
# The longest after refusals for lack of capacity, which may return any moment.
LONGEST_OVERLOAD_PAUSE: Final = 8.0
# The longest where the server accepted another attempt within the last LATELY seconds: it has not stopped serving.
LONGEST_AMID_ANSWERS: Final = 1.0
LATELY: Final = 5.0


class Backoff:
    """Until when nothing is sent, and how many refusals in a row have led to that."""

    __slots__ = ("_answered_at", "_for_room", "_streak", "until")

    def __init__(self) -> None:
        self.until = -math.inf
        self._streak = 0  # congestion events in a row
        self._answered_at = -math.inf  # when the server last accepted an attempt
        self._for_room = False  # whether the last refusal was for lack of capacity

    def refused(self, *, for_room: bool, event: bool) -> None:
        """The server refused an attempt; `event`: not an echo of an earlier refusal. Called before a pause is set."""
        self._for_room = for_room
        self._streak += event

    def pause_for(self, wait: float, now: float, jitter: float) -> None:
        """Pause for the seconds that the server named. `jitter`: uniform in [0, 1)."""
        doubled = 0 if self._for_room else min(max(0, self._streak - 1), 5)
        self._pause(now + wait * (1 + PAUSE_JITTER * 2.0**doubled * jitter))

    def answered_lately(self, now: float) -> bool:
        """Whether the server accepted an attempt a moment ago."""
        return now - self._answered_at < LATELY

    def pause_again(self, now: float, jitter: float, *, longest: float) -> None:
        """Pause where the server named no wait: not after the first refusal in a row, then ever longer."""
        if self._streak > 1:
            pause = min(longest, FIRST_PAUSE * 2.0 ** min(self._streak - 2, 10))
            self._pause(now + pause * (1 + jitter) / 2)

    def _pause(self, until: float) -> None:
        self.until = max(self.until, until)

    def succeeded(self, now: float, *, newer: bool) -> None:
        """The server accepted an attempt; `newer`: one that left after the last refusal.

        Refusals come back sooner than answers. So where the server lacked capacity, the answer of an older attempt
        shows that there is some again; about a rate it shows nothing.
        """
        self._answered_at = now
        if newer or self._for_room:
            self._streak = 0

    def reset(self) -> None:
        """No pause, and no refusal counts."""
        self.until, self._streak = -math.inf, 0

    def forget_instants(self) -> None:
        """The clock has changed."""
        self.until = self._answered_at = -math.inf
