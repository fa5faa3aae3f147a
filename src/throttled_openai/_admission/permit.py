"""The permit: the right to one attempt in flight, which its holder settles exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .call import Outcome

if TYPE_CHECKING:
    from throttled_openai._control.budget import Budget
    from throttled_openai._control.reservation import Reservation
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .call import Call


class Attempt:
    """One attempt as its limiter accounts for it, from its admission to its settlement."""

    __slots__ = (
        "budget",
        "call",
        "crowd",
        "limit_was_binding",
        "occupancy",
        "reservation",
        "settled",
        "streaming",
        "usage",
    )

    def __init__(  # noqa: PLR0917  # made once per attempt, by position
        self,
        call: Call,
        budget: Budget,
        reservation: Reservation,
        occupancy: float,
        crowd: int,
        limit_was_binding: bool,
    ) -> None:
        self.call = call
        self.budget = budget
        self.reservation = reservation
        self.occupancy = occupancy  # the limiter's integral of attempts in flight over time, at admission
        self.crowd = crowd  # attempts in flight at admission, including this one
        self.limit_was_binding = limit_was_binding
        self.settled = False
        self.streaming = False
        self.usage: Usage | None = None


class PermitOwner(Protocol):
    """Accounts for attempts. May be called in any thread, and from finalizers."""

    def started(self, attempt: Attempt) -> None:
        """The server has begun to answer with a stream."""

    def observe(self, attempt: Attempt, announcement: Announcement) -> None:
        """The response announced limits."""

    def settle(self, attempt: Attempt, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        """The attempt has ended. A second call changes nothing."""

    def used(self, attempt: Attempt, usage: Usage) -> None:
        """The server reported the tokens used so far."""


class Permit:
    """The right to one attempt in flight, in the hands of its sender; settled exactly once."""

    __slots__ = ("attempt", "call", "open", "owner", "refusal", "streaming")

    def __init__(self, owner: PermitOwner, attempt: Attempt) -> None:
        self.owner = owner
        self.attempt = attempt
        self.call = attempt.call
        self.open = True
        self.streaming = False
        self.refusal: Refusal | None = None  # read in the middle of its stream

    @property
    def admitted_at(self) -> float:
        """Instant of the admission, on the deciding event loop's clock."""
        return self.attempt.reservation.at

    def started(self) -> None:
        """The response began; the attempt stays in flight while its stream is open."""
        self.streaming = True
        self.owner.started(self.attempt)

    def observe(self, announcement: Announcement) -> None:
        """Learn the limits the response announced. `started` or `settle` follows, and admits waiting calls."""
        self.owner.observe(self.attempt, announcement)

    def settle(self, outcome: Outcome, refusal: Refusal | None = None, response: Any = None) -> None:
        """End the attempt; `refusal` says why the server turned it away with `response`."""
        assert self.open, "permit settled twice"
        self.owner.settle(self.attempt, outcome, refusal, response)
        self.open = False  # only now, or an exception in between would lose the permit

    def release(self, outcome: Outcome = Outcome.IGNORED, response: Any = None) -> None:
        """Settle unless already settled: for ways out that may come after another one."""
        if not self.open:
            return
        if self.refusal is not None and outcome is not Outcome.UNSENT:
            self.settle(Outcome.REFUSED, self.refusal, response)
        else:
            self.settle(outcome)

    def used(self, usage: Usage) -> None:
        """Pass on the tokens the server reports as used so far; the last report counts."""
        self.owner.used(self.attempt, usage)
