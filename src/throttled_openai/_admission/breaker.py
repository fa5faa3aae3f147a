"""The breaker: stops all calls after a refusal that applies to every call, once another call has confirmed it."""

from __future__ import annotations

import math
from typing import Final, Literal

Cause = Literal["billing", "wait"]

# Seconds between two tries while the breaker is open. An account may be paid at any moment. A server that named a wait
# of hours may have meant milliseconds, or one call only.
BILLING_EVERY: Final = 10.0
WAIT_EVERY: Final = 60.0
# Seconds after which a try is being served: a refusal would have come back within a round trip.
SERVED: Final = 1.0
# Further calls in a row that must be refused to open the breaker: one, plus one for each false alarm up to this number.
MOST_DOUBT: Final = 4


class Breaker:
    """Stops all calls after a refusal that applies to all of them: an unpaid account, or a wait of hours.

    Such a refusal may apply to a single call, or be a gateway's mistake. So it is only a suspicion at first: one call
    tests it, and the others wait for its result. If that call is refused too, the breaker opens; then one call tries
    every `BILLING_EVERY` or `WAIT_EVERY` seconds. An answer closes the breaker. After a false alarm, a suspicion holds
    no calls back any more: several refusals in a row must confirm it.
    """

    __slots__ = ("_alarms", "_newest", "_refused", "_row", "_trying", "_until", "cause", "ends_at", "open")

    def __init__(self) -> None:
        self._alarms = 0  # false ones
        self._clear()

    def _clear(self) -> None:
        self.cause: Cause | None = None
        """The reason of the refusal; None: nothing is suspected."""
        self.open = False
        """Whether other calls have confirmed it."""
        self.ends_at = -math.inf
        """When the wait that the server named ends."""
        self._until = -math.inf  # when the next call may go
        self._refused = 0  # number of the attempt that was refused first
        self._newest = 0  # number of the newest attempt then: up to it, all refusals are one
        self._row = 0  # further attempts refused since
        self._trying: int | None = None  # number of the attempt that tests the suspicion

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
        """An attempt leaves. If only one may go, it tests the suspicion."""
        if not self.finding_out:
            return
        if self.open:
            self._until = now + self.every
        elif self._trying is not None:
            self._false_alarm()  # the last one was not refused in `SERVED` seconds
        else:
            self._trying, self._until = number, now + SERVED

    def answered(self, number: int) -> None:
        """The server answered an attempt, so the reason for refusing older ones does not apply to newer ones."""
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
        """An attempt ended in another way: another one may test the suspicion."""
        if number == self._trying:
            self._trying, self._until = None, now
