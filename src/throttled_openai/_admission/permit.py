"""The permit: the right to one attempt in flight, who asks for it, and how it ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from throttled_openai._limits import check_number
from throttled_openai._protocol.account import NO_ACCOUNT
from throttled_openai._protocol.providers import OPENAI

from .home import post

if TYPE_CHECKING:
    import asyncio
    import weakref

    from throttled_openai._control.reservation import Reservation
    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.estimate import Estimate
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.providers import Provider
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .home import Home
    from .limiter import Limiter


class Outcome(enum.Enum):
    """How an attempt ended, as far as admission is concerned."""

    SUCCESS = "success"
    REFUSED = "refused"
    """The server said not now (429, slow-down): its tokens were not taken."""
    OVERLOADED = "overloaded"
    """503, timeout: the server may still be working on it, so nothing is given back."""
    IGNORED = "ignored"
    """Other errors, cancellation: says nothing about limits."""
    UNSENT = "unsent"
    """Admitted but never sent: everything is given back."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How calls behave in the queue. `priority`: higher goes first. `max_wait`: seconds."""

    priority: int = 0
    max_wait: float | None = None
    max_queued: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError(f"priority must be a whole number, higher goes first; got {self.priority!r}")
        if self.max_wait is not None:
            check_number("max_wait", self.max_wait, "seconds such as 30.0, or None to wait as long as it takes")
        if self.max_queued is not None:
            check_count("max_queued", self.max_queued, "a number of calls such as 1000, or None for no bound")


def check_count(name: str, value: object, instead: str, *, least: int = 1) -> None:
    """Raise unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {instead}; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}: write {instead}; got {value!r}")


class Call:
    """One use of an SDK method: what it may cost, how it behaves, and its age, kept over its attempts.

    `tokens`: what an attempt costs, until the cost model computes it from `estimate`. `endpoint`:
    the host, where `model` has limits of its own at each. `account`: whose limits they are. `home`: the
    event loop of its task, if it has one.
    """

    __slots__ = (
        "account",
        "admission",
        "again",
        "billed",
        "endpoint",
        "estimate",
        "home",
        "long_wait",
        "manners",
        "model",
        "order",
        "provider",
        "refusals",
        "refused_at",
        "rested",
        "rests",
        "stalls",
        "tokens",
        "waited",
        "withdrawn",
    )

    def __init__(  # noqa: PLR0917  # made once per call, by position
        self,
        model: str,
        tokens: float,
        manners: Manners,
        estimate: Estimate | None = None,
        provider: Provider = OPENAI,
        endpoint: str = "",
        account: Account = NO_ACCOUNT,
    ) -> None:
        self.model = model
        self.account = account
        self.endpoint = endpoint
        self.tokens = tokens
        self.manners = manners
        self.estimate = estimate
        self.provider = provider
        self.order: tuple[int, int] | None = None  # place in line, from its first wait on
        self.waited = 0.0
        self.refusals = 0
        self.home: weakref.ref[Home] | None = None
        self.stalls = False  # an event loop stands still until it returns: a synchronous call in a coroutine
        self.admission: asyncio.Task[Any] | None = None  # on the portal's loop, for a thread that waits
        self.withdrawn = False  # its client was closed
        self.refused_at: float | None = None  # when it was refused first
        self.again = False  # whether it is asked for again without the SDK
        self.billed = False  # whether it was for billing that it was refused last
        # Seconds that its last refusal asks of it alone, as refusals tell nothing of other calls now; None: of all.
        self.rests: float | None = None
        self.rested = 0  # the refusal after which it last stayed out of the queue
        # Seconds that its last refusal asked for, if longer than calls wait unasked.
        self.long_wait: float | None = None


class GivenUp(Exception):
    """A refused call is not admitted again. `to_sdk`: the SDK's own retries may try it, else the caller is told."""

    def __init__(self, *, to_sdk: bool) -> None:
        self.to_sdk = to_sdk
        super().__init__(f"not sent again; {to_sdk=}")


class Permit:
    """The right to one attempt in flight; settled exactly once.

    What is done to it is done where its throttle decides, or posted there.
    """

    __slots__ = (
        "binding",
        "budget",
        "busy",
        "call",
        "counted",
        "crowd",
        "lane",
        "open",
        "refusal",
        "reservation",
        "settled",
        "streaming",
        "usage",
    )

    def __init__(
        self, lane: Limiter, call: Call, reservation: Reservation, busy: float, crowd: int, *, binding: bool
    ) -> None:
        self.lane = lane
        self.budget = lane.budget
        self.call = call
        self.reservation = reservation
        self.busy = busy  # the lane's integral of attempts in flight, when this one was admitted
        self.crowd = crowd  # attempts in flight then, this one included
        self.binding = binding
        self.open = True  # for its holder; where it is decided, `settled` and `counted` as a stream follow
        self.settled = self.counted = False
        self.streaming = False
        self.usage: Usage | None = None
        self.refusal: Refusal | None = None  # what came in the middle of its stream

    @property
    def admitted_at(self) -> float:
        """Instant of the admission, on the event loop's clock."""
        return self.reservation.at

    def started(self) -> None:
        """The response began; the attempt stays in flight while its stream is open."""
        self.streaming = True
        self.lane.throttle.decide(self.lane.started, self)

    def observe(self, announcement: Announcement) -> None:
        """Learn the limits the response announced; `started` or `settle` follows and admits who may go."""
        self.lane.throttle.decide(self.lane.observe, announcement, self)

    def settle(self, outcome: Outcome, refusal: Refusal | None = None, response: Any = None) -> None:
        """End the attempt; `refusal` says why the server turned it away, with `response`."""
        assert self.open, "permit settled twice"
        self.lane.throttle.decide(self.lane.throttle.settle, self.lane, self, outcome, refusal, response)
        self.open = False  # after it, or an exception in between would lose the permit

    def release(self, outcome: Outcome = Outcome.IGNORED, response: Any = None) -> None:
        """Settle, unless that has been done: for the ways out that may come after another one."""
        if not self.open:
            return
        if self.refusal is not None and outcome is not Outcome.UNSENT:
            self.settle(Outcome.REFUSED, self.refusal, response)
        else:
            self.settle(outcome)

    def used(self, usage: Usage) -> None:
        """What the server reports to have used so far; the last report counts."""
        self.lane.throttle.decide(self.lane.count_usage, self, usage)


class PostedPermit(Permit):
    """A permit in the hands of another thread than the one that decides, where `loop` runs.

    One that is dropped is settled too: an exception such as KeyboardInterrupt may come between any
    two instructions.
    """

    __slots__ = ("_permit", "loop")

    def __init__(self, permit: Permit, loop: asyncio.AbstractEventLoop) -> None:
        self._permit = permit
        self.loop = loop
        self.call = permit.call
        self.reservation = permit.reservation
        self.open = True
        self.streaming = False
        self.refusal = None

    def started(self) -> None:
        self.streaming = True
        post(self.loop, self._permit.started)

    def observe(self, announcement: Announcement) -> None:
        post(self.loop, self._permit.observe, announcement)

    def settle(self, outcome: Outcome, refusal: Refusal | None = None, response: Any = None) -> None:
        assert self.open, "permit settled twice"
        post(self.loop, _settle, self._permit, outcome, refusal, response)
        self.open = False  # after it, or an exception in between would lose the permit

    def used(self, usage: Usage) -> None:
        post(self.loop, self._permit.used, usage)

    def __del__(self) -> None:
        if self.open and not self.streaming:  # otherwise its stream sees to it
            self.release()


def _settle(permit: Permit, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
    if permit.open:  # two threads may have found it so
        permit.settle(outcome, refusal, response)
