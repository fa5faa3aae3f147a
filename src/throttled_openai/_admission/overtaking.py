"""Which waiting call goes next: small calls may overtake one that is too large for now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from throttled_openai._control.budget import Budget

    from .queue import Waiter

# Share of the token refill that is saved for the oldest call while it is too large to go; smaller calls may
# use the rest.
SAVED_SHARE: Final = 0.5
# Smaller calls overtake only a call that still has to wait at least this many seconds.
OVERTAKE_AFTER: Final = 1.0


class Overtaking:
    """Chooses the next call, and saves tokens for the oldest one while smaller calls overtake it."""

    __slots__ = ("_saving",)

    def __init__(self) -> None:
        # The oldest call, while it is too large; when its turn came; the tokens it began with.
        self._saving: tuple[Waiter, float, float] | None = None

    def reset(self) -> None:
        self._saving = None

    def next(self, oldest: list[Waiter], budget: Budget, now: float) -> tuple[Waiter | None, float]:
        """The call that goes now; or None, and the seconds until one may."""
        head = oldest[0]
        delay = budget.delay(head.call.tokens, now)
        if delay <= 0:
            return head, 0.0
        if delay < OVERTAKE_AFTER or len(oldest) == 1:
            return None, delay
        smallest = budget.delay(0, now)
        if smallest > 0:  # a pause, or the request limit, which holds calls of every size
            return None, min(delay, smallest)
        saved = self._saved_for(head, budget, now)
        # What is saved grows while others wait for the rest.
        slower = 1.0 if saved >= head.call.tokens else 1 / (1 - SAVED_SHARE)
        for waiter in oldest[1:]:
            if waiter.call.tokens < head.call.tokens:
                wait = budget.delay(waiter.call.tokens, now, saved) * slower
                if wait <= 0:
                    return waiter, 0.0
                delay = min(delay, wait)
        return None, delay

    def _saved_for(self, head: Waiter, budget: Budget, now: float) -> float:
        """Tokens saved for the oldest call: half of the level when its turn came, and of each refill since."""
        if self._saving is None or self._saving[0] is not head:
            self._saving = head, now, SAVED_SHARE * max(0.0, budget.token_level())
        _, since, first = self._saving
        return min(head.call.tokens, first + SAVED_SHARE * budget.token_refill * (now - since))
