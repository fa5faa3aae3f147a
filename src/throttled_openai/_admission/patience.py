"""Patience: whether a call that the server refuses is worth sending again."""

from __future__ import annotations

import math
from typing import Final

# The longest wait that a server may name and a call takes without having asked for it: the SDK's own bound,
# `MAX_RETRY_AFTER_DELAY` of its `_constants`; beyond it the SDK raises.
LONGEST_WAIT: Final = 120.0
# Seconds without any answer after which waiting is in vain, and attempts that must have been refused by then: as many
# as the SDK makes. Where a rate is known, or the server names its waits, it takes longer: the time of this many calls,
# and LONGEST_VAIN seconds at most.
VAIN: Final = 60.0
FEWEST_REFUSED: Final = 3
CALLS: Final = 5.0
LONGEST_VAIN: Final = 600.0
# Attempts that time out or cannot connect, at a server that never answered anything, before waiting is in vain.
FEWEST_FAULTS: Final = 5
# Seconds for which one call is retried while others are answered: the default timeout of the SDK for one answer.
LONGEST: Final = 600.0
# Seconds after which an attempt in flight is being served: a refusal would have come back within a round trip.
SERVED: Final = 5.0


class Patience:
    """What the server has answered, and what it has refused or failed to answer since.

    While it answers some calls, a refused one is worth retrying for `LONGEST` seconds. Where it answers none, calls
    wait for a minute at most: then the SDK's own retries decide, as they would without us.
    """

    __slots__ = ("_failed", "_faults", "_longest_wait", "answered_at", "failing_since")

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self.failing_since: float | None = None
        """When the first attempt left that failed since the last answer."""
        self._failed = 0
        self._faults = 0
        self._longest_wait = 0.0

    @property
    def failed(self) -> int:
        """Attempts since the last answer that were refused or met a fault."""
        return self._failed

    @property
    def refusing(self) -> bool:
        """Whether the server turns attempts away, rather than not answering at all."""
        return self._failed > self._faults

    def answered(self, now: float) -> None:
        self.answered_at = now
        if self._failed:
            self.failing_since, self._failed, self._faults, self._longest_wait = None, 0, 0, 0.0

    def refused(self, sent_at: float, wait: float | None) -> None:
        """The server turned an attempt away, and named `wait` seconds, or none."""
        self._fail(sent_at)
        self._longest_wait = max(self._longest_wait, wait or 0.0)

    def fault(self, sent_at: float) -> None:
        """An attempt timed out, could not connect, or met a gateway's error."""
        self._fail(sent_at)
        self._faults += 1

    def _fail(self, sent_at: float) -> None:
        self._failed += 1
        if self.failing_since is None:
            self.failing_since = sent_at

    def vain(self, now: float, rate: float | None, oldest: float) -> bool:
        """Whether waiting is in vain.

        `rate`: calls per second, if known. `oldest`: when the oldest attempt in flight left.
        """
        since = self.failing_since
        if since is None:
            return False
        if self._failed == self._faults:
            patience = VAIN if self.answered_at > -math.inf else 0.0
            return self._failed >= FEWEST_FAULTS and now - since >= patience
        if self._failed < FEWEST_REFUSED or now - oldest >= SERVED:
            return False
        return now - since >= self.lasts(rate)

    def lasts(self, rate: float | None) -> float:
        """Seconds of refusals alone after which waiting is vain."""
        slow = 0.0 if rate is None else CALLS / rate
        return min(LONGEST_VAIN, max(VAIN, (FEWEST_REFUSED - 1) * self._longest_wait, slow))

    def rebind(self) -> None:
        """Forget instants: the clock is another one."""
        self.__init__()  # type: ignore[misc]
