"""Why a server probably refused an attempt: for lack of room, or for a rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throttled_openai._control.concurrency import ConcurrencyLimit
    from throttled_openai._protocol.refusals import Refusal

    from .permit import Attempt


def suspects(
    attempt: Attempt, refusal: Refusal, response: Any, concurrency: ConcurrencyLimit, limit: int
) -> tuple[bool, bool]:
    """Whether the server probably refused for lack of room, and whether for a rate.

    `limit`: attempts in flight that the limiter allowed.
    """
    if refusal.retry_after is None and response is not None and response.status_code < 400:
        # In the middle of a stream, after the limits had let it pass.
        room, rate = True, False
    else:
        binding = attempt.crowd >= limit or concurrency.never_served(attempt.crowd)
        room, rate = attempt.budget.diagnosis.suspects(refusal, limit_was_binding=binding, calm=concurrency.is_calm)
    if room and refusal.kind == "rate":
        if attempt.crowd == 1:  # every server has room for one
            return False, True
        # At a rate that is known it is rather the room that has changed.
        if concurrency.has_served_more(attempt.crowd, lately=attempt.budget.knows_a_rate):
            concurrency.take_back()
            return False, True
    if room and concurrency.in_vain(attempt.reservation.number, attempt.budget.newest):
        return False, rate or refusal.kind == "rate" or refusal.slow_down
    return room, rate
