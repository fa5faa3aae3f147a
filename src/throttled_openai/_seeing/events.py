"""Events: what happens to the calls of a throttle, for its subscribers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from contextvars import Context

logger = logging.getLogger("throttled_openai")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `at`: seconds on the clock of the deciding event loop. `budget`: its name."""

    at: float
    budget: str


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """A call entered the queue. `call`: its number, the same in all its events. `waiting`: calls there, with it."""

    call: int
    tokens: float
    waiting: int


@dataclass(frozen=True, slots=True)
class Admitted(Event):
    """An attempt may be sent; `attempt`: the call's first is 1. `waited`: seconds, over all attempts of the call.

    `queued`: seconds of its last wait. With `enforce=False` both say how long it would have waited.
    """

    call: int
    attempt: int
    tokens: float
    waited: float
    queued: float


@dataclass(frozen=True, slots=True)
class Left(Event):
    """A call left the queue without being admitted. `reason`: `cancelled`, or the name of the error it got."""

    call: int
    queued: float
    reason: str


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The server refused an attempt. `dimension`, `retry_after`: as the server named them. `Settled` follows."""

    call: int
    attempt: int
    kind: Literal["rate", "overload", "too_large", "billing"]
    dimension: Literal["requests", "tokens"] | None
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Settled(Event):
    """An attempt ended after `seconds`. `outcome`: `success`, `refused`, `overloaded`, `ignored` or `unsent`."""

    call: int
    attempt: int
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Charged(Event):
    """The server reported usage: `charged` tokens count against the limit, where `estimated` were reserved."""

    call: int
    estimated: float
    charged: float


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """A limit changed: units per `period` seconds, or attempts in flight. None: not known, or no longer.

    `reason`: the limit was `configured`, `announced` or `learnt`; for `concurrency` it is always learnt.
    """

    limit: Literal["requests", "tokens", "concurrency"]
    period: float | None
    before: float | None
    after: float | None
    reason: Literal["configured", "announced", "learnt"]

    def __str__(self) -> str:
        unit = "in flight" if self.period is None else f"{self.limit}/min"
        before, after = ("no limit" if each is None else f"{each:,.0f} {unit}" for each in (self.before, self.after))
        return f"{self.budget}: limit is now {after} ({self.reason}), after {before}"


@dataclass(frozen=True, slots=True)
class Paused(Event):
    """Nothing is sent for `seconds`. `reason`: `refusals` (the server refused), or `user` (`Throttle.pause()`)."""

    seconds: float
    reason: Literal["refusals", "user"]

    def __str__(self) -> str:
        until = "until resumed" if self.seconds == float("inf") else f"for {self.seconds:.2f} s"
        return f"{self.budget}: paused {until} " + ("after refusals" if self.reason == "refusals" else "by the user")


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """Calls are stopped, or sent again. `state`: `suspected` (one call tests it), `open` or `closed`.

    `cause`: `billing` (the account has to pay), `wait` (the server asks for hours), or `silence` (the server answers
    nothing: calls are sent as the SDK alone would send them).
    """

    state: Literal["suspected", "open", "closed"]
    cause: Literal["billing", "wait", "silence"]

    def __str__(self) -> str:
        return f"{self.budget}: breaker {self.state} ({self.cause})"


Subscriber = Callable[[Event], object]


class Subscribers:
    """The subscribers of one throttle. While there are none, `callbacks` is empty, which is all that a call asks."""

    __slots__ = ("_failed", "callbacks")

    def __init__(self) -> None:
        self.callbacks: tuple[Subscriber, ...] = ()
        self._failed: set[int] = set()  # those whose failure was logged

    def add(self, callback: Subscriber) -> Callable[[], None]:
        """Returns a function that removes it."""
        if not callable(callback):
            raise TypeError(f"callback must be a function of one event, got {type(callback).__name__}")
        self.callbacks = (*self.callbacks, callback)
        return lambda: self.remove(callback)

    def remove(self, callback: Subscriber) -> None:
        """End one subscription of `callback`, if there is one."""
        found = list(self.callbacks)
        if callback in found:
            found.remove(callback)
            self.callbacks = tuple(found)
        self._failed.discard(id(callback))

    def tell(self, event: Event, context: Context | None = None) -> None:
        """Call every subscriber, in the `context` of the call. An exception costs that subscriber this event only."""
        for callback in self.callbacks:
            try:
                if context is None:
                    callback(event)
                else:
                    context.copy().run(callback, event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  # no exception of a subscriber is a call's
                self._log(callback, error)

    def _log(self, callback: Subscriber, error: BaseException) -> None:
        if id(callback) not in self._failed:
            self._failed.add(id(callback))
            name = getattr(callback, "__qualname__", type(callback).__name__)
            with contextlib.suppress(Exception):  # a handler that raises
                logger.error("subscriber %s failed: %s; it is called further", name, type(error).__name__)
