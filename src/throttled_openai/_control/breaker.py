"""The breaker: one refusal that would stop every call, and the one call that finds out whether it does."""

from __future__ import annotations

import math
from typing import Final, Literal

Cause = Literal["billing", "wait"]

# Seconds between two tries while the breaker is open. An account may be paid any moment; a server that named a
# wait of hours may have meant milliseconds, or one call.
BILLING_EVERY: Final = 10.0
WAIT_EVERY: Final = 60.0
# A refusal comes back within a round trip: a try that has met none after this many seconds is being served.
SERVED: Final = 1.0
# Further calls in a row that have to be refused: one, and one more for each false alarm up to this number.
MOST_DOUBT: Final = 4


class Breaker:
    """Stops all calls of a lane after a refusal that none of them could escape: an unpaid account, or a wait of hours.

    Such a refusal may concern a single call, or be a mistake of a gateway. So it is only a suspicion at first: one call
    finds out, the rest wait for what it meets. Refused as well, it opens the breaker; then one call tries every
    `BILLING_EVERY` or `WAIT_EVERY` seconds. Answered, it closes it. After a false alarm nobody is held for a suspicion
    again: only several refusals in a row are believed.
    """

    __slots__ = ("_alarms", "_newest", "_refused", "_row", "_trying", "_until", "cause", "ends_at", "open")

    def __init__(self) -> None:
        self._alarms = 0  # false ones
        self._clear()

    def _clear(self) -> None:
        self.cause: Cause | None = None
        """What was refused for; None: nothing is suspected."""
        self.open = False
        """Whether other calls have confirmed it."""
        self.ends_at = -math.inf
        """When the wait ends that the server named."""
        self._until = -math.inf  # when the next call may go
        self._refused = 0  # number of the attempt that was refused first
        self._newest = 0  # number of the newest attempt then: up to it, all refusals are one
        self._row = 0  # attempts refused since
        self._trying: int | None = None  # number of the attempt that finds out

    @property
    def every(self) -> float:
        """Seconds between two tries."""
        return BILLING_EVERY if self.cause == "billing" else WAIT_EVERY

    @property
    def finding_out(self) -> bool:
        """Whether only one call may go."""
        return self.cause is not None and (self.open or not self._alarms)

    def refused(self, cause: Cause, number: int, newest: int, now: float, *, wait: float = 0.0) -> bool:
        """An attempt was refused; returns whether the breaker is open."""
        if self.cause is None:
            self._refused, self._newest, self._until = number, newest, now
        elif number > self._newest and not self.open:
            self._row += 1
            self.open = self._row > self._alarms
            self._trying, self._until = None, now
        self.cause = cause
        self.ends_at = max(self.ends_at, now + wait)
        if self.open:
            self._newest, self._until = newest, now + self.every
        return self.open

    def delay(self, now: float) -> float:
        """Seconds until a call may go; 0 if one may now."""
        return max(0.0, self._until - now) if self.finding_out else 0.0

    def sent(self, number: int, now: float) -> None:
        """An attempt leaves. If only one may go, it is the one that finds out."""
        if not self.finding_out:
            return
        if self.open:
            self._until = now + self.every
        elif self._trying is not None:
            self._false_alarm()  # the last one was not refused in `SERVED` seconds
        else:
            self._trying, self._until = number, now + SERVED

    def answered(self, number: int) -> None:
        """The server answered an attempt: what it refused older ones for does not stop younger ones."""
        if self.cause is None:
            return
        if self.open and number > self._newest:
            self._clear()
        elif not self.open and number > self._refused:
            self._false_alarm()

    def _false_alarm(self) -> None:
        self._alarms = min(MOST_DOUBT, self._alarms + 1)
        self._clear()

    def ended(self, number: int, now: float) -> None:
        """An attempt ended without a word about that: another may find out."""
        if number == self._trying:
            self._trying, self._until = None, now
