"""One call: what it may cost, its options in the queue, and what has happened to it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from throttled_openai._limits import check_number
from throttled_openai._protocol.account import NO_ACCOUNT
from throttled_openai._protocol.providers import OPENAI

if TYPE_CHECKING:
    import asyncio
    import weakref
    from contextvars import Context

    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.estimate import Estimate
    from throttled_openai._protocol.providers import Provider

    from .home import Home


class Outcome(enum.Enum):
    """How an attempt ended, as far as admission is concerned."""

    SUCCESS = "success"
    REFUSED = "refused"
    """The server said not now (429, slow-down): it did not charge the tokens."""
    OVERLOADED = "overloaded"
    """503 or timeout: the server may still be working on it, so nothing is refunded."""
    IGNORED = "ignored"
    """Other errors and cancellation: they say nothing about limits."""
    UNSENT = "unsent"
    """Admitted but never sent: everything is refunded."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How a call behaves in the queue. `priority`: higher goes first. `max_wait`: seconds."""

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
    """One use of an SDK method: its cost, its options and its age, kept over all its attempts.

    `tokens`: what an attempt costs; the limiter computes it from `estimate`. `endpoint`: the host,
    if `model` has limits of its own at each host. `account`: the account whose limits apply. `home`:
    the event loop of the call's task, if it has one.
    """

    __slots__ = (
        "account",
        "admission",
        "again",
        "attempts",
        "billed",
        "context",
        "endpoint",
        "estimate",
        "home",
        "long_wait",
        "model",
        "order",
        "provider",
        "queue_options",
        "queued",
        "refusals",
        "refused_at",
        "rested",
        "rests",
        "stalls",
        "task",
        "tokens",
        "waited",
        "withdrawn",
    )

    def __init__(  # noqa: PLR0917  # made once per call, by position
        self,
        model: str,
        tokens: float,
        queue_options: QueueOptions,
        estimate: Estimate | None = None,
        provider: Provider = OPENAI,
        endpoint: str = "",
        account: Account = NO_ACCOUNT,
    ) -> None:
        self.model = model
        self.account = account
        self.endpoint = endpoint
        self.tokens = tokens
        self.queue_options = queue_options
        self.estimate = estimate
        self.provider = provider
        self.order: tuple[int, int] | None = None  # place in the queue, from its first wait on
        self.waited = 0.0
        self.queued = 0.0  # of that, in the wait that has just ended
        self.attempts = 0  # admitted so far
        self.task: asyncio.Task[Any] | None = None  # that waits for its admission
        self.context: Context | None = None  # of the caller, while the throttle has subscribers
        self.refusals = 0
        self.home: weakref.ref[Home] | None = None
        self.stalls = False  # a blocking call inside a coroutine: its event loop stands still until it returns
        self.admission: asyncio.Task[Any] | None = None  # on the portal's loop, for a waiting thread
        self.withdrawn = False  # its client was closed
        self.refused_at: float | None = None  # instant of its first refusal
        self.again = False  # whether this attempt is our own retry, not the SDK's
        self.billed = False  # whether its last refusal was for billing
        # Seconds its last refusal asks of this call alone, because refusals no longer predict other calls; else None.
        self.rests: float | None = None
        self.rested = 0  # number of the refusal after which it last stayed out of the queue
        # Seconds its last refusal asked for, if longer than calls wait without max_wait.
        self.long_wait: float | None = None


class GivenUp(Exception):
    """A refused call is not admitted again. `to_sdk`: the SDK may retry it; otherwise the caller gets the refusal."""

    def __init__(self, *, to_sdk: bool) -> None:
        self.to_sdk = to_sdk
        super().__init__(f"not sent again; {to_sdk=}")
