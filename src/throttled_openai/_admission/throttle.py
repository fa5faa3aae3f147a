"""The throttle, as its users see it: its options and its figures."""

from __future__ import annotations

import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._limits import Limits, LimitsBook, check_number
from throttled_openai._spelling import did_you_mean, suggesting

from .call import check_count
from .dispatcher import Dispatcher
from .file_limit import within_file_limit
from .in_flight import MAX_CONCURRENCY, MOST_IN_FLIGHT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from throttled_openai._protocol.headers import Dimension
    from throttled_openai._seeing.events import Subscriber
    from throttled_openai._seeing.explanation import Explanation
    from throttled_openai._stats import Stats

# The shortcuts for `Limits` that each model has for itself; they exclude `limits`.
_EACH_MODEL: Final = frozenset({"rpm", "tpm", "rpd", "tpd"})


class Throttle:
    """Budgets and queues, shared by every client that is given this throttle.

    `rpm`, `tpm`, `rpd`, `tpd`: limits that each model has for itself. `limits`: one `Limits` that
    all models draw on together, or a mapping from model name to `Limits`, in which a dated
    snapshot falls back to its family. With neither, limits are learnt from the server.
    `max_concurrency`: a ceiling for the calls in flight, all models together. `max_refusals`: how
    often the server may refuse one call before its last refusal is raised; 0 leaves every refusal
    to the SDK's own retries. By default a refused call is retried for ten minutes while the server
    answers other calls, and for a minute while it answers none.

    Each account (a server, and the key, organization and project there) has these limits for itself:
    usage, learnt limits and refusals of one account do not affect another. Only `max_concurrency` is
    for all accounts together.

    `enforce=False`: shadow mode. Calls are sent at once and refusals are left to the SDK, as without us; `stats()` and
    events say how long each would have waited, and which would have failed.

    It serves synchronous clients in any thread, and asynchronous ones on any number of event loops.
    It makes its decisions on the event loop of its calls, as long as there is one at a time. With the
    first synchronous call, or a second event loop at the same time, it moves to a thread that all
    throttles of the process share; `threads=True` uses that thread from the start. After `os.fork()`
    the child begins anew, with the same limits.
    """

    @suggesting
    def __init__(
        self,
        limits: Limits | Mapping[str, Limits] | None = None,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        rpd: float | None = None,
        tpd: float | None = None,
        max_concurrency: int | None = None,
        max_refusals: int | None = None,
        threads: bool = False,
        enforce: bool = True,
    ) -> None:
        options: dict[str, Any] = {"rpm": rpm, "tpm": tpm, "rpd": rpd, "tpd": tpd, "limits": limits}
        options |= {"max_concurrency": max_concurrency, "max_refusals": max_refusals, "threads": threads}
        if not enforce:
            options["enforce"] = False
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        each_model = None
        if not rpm is tpm is rpd is tpd is None:
            if limits is not None:
                raise ValueError("write either limits=Limits(rpm=..., tpm=...) or rpm=..., tpm=..., not both")
            each_model = Limits(rpm=rpm, tpm=tpm, rpd=rpd, tpd=tpd)
        book = LimitsBook(limits, each_model=each_model)
        if max_concurrency is not None:
            check_count("max_concurrency", max_concurrency, "a number of calls such as 100, or None to find it")
        if max_refusals is not None:
            check_count("max_refusals", max_refusals, "a number such as 20, or 0 to see every refusal", least=0)
        self.max_refusals = max_refusals
        self.threads = threads
        self.enforce = enforce
        ceiling = within_file_limit(MOST_IN_FLIGHT) if max_concurrency is None else max_concurrency
        self._dispatcher = Dispatcher(
            book,
            ceiling=ceiling,
            unproven_ceiling=min(MAX_CONCURRENCY if max_concurrency is None else max_concurrency, ceiling),
            file_limited=max_concurrency is None and ceiling < MOST_IN_FLIGHT,
            threads=threads,
            enforced=enforce,
        )
        everywhere.add(self)

    def changed(self, **options: Any) -> Throttle:
        """Another throttle with the same options except for `options`, and with budgets of its own."""
        return Throttle(**with_changes(self._options, options))

    @property
    def waiting(self) -> int:
        """Calls not yet admitted."""
        return self._dispatcher.waiting

    @property
    def in_flight(self) -> int:
        """Attempts admitted and not settled."""
        return len(self._dispatcher.in_flight.attempts)

    def stats(self) -> Stats:
        """Limits, waiting calls, and counts so far, of each budget."""
        return self._dispatcher.stats()

    def explain(self, task: asyncio.Task[Any] | None = None) -> Explanation:
        """Why calls wait and until when, in words: `print(client.throttle.explain())`.

        `task`: the asyncio task that awaits the call in question; without it, one line for each budget in use. The
        estimates hold while limits and sizes stay as they are.
        """
        return self._dispatcher.explain(task)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with each `Event` from now on, in order; returns a function that ends this.

        It runs where calls are decided on, in the context of the call: it must be quick, and must not wait. An
        exception in it is logged once and harms no call.
        """
        return self._dispatcher.subscribers.add(callback)

    @suggesting
    def adjust(self, budget: str | None = None, *, rpm: float | None = None, tpm: float | None = None) -> None:
        """Change limits from now on, of the budget of that name or of all that there are; see `stats()` for names.

        Calls in flight and the queue stay. The server's own limits, announced or learnt, go on holding.
        """
        given: dict[Dimension, float | None] = {}
        for name, dimension, value in (("rpm", "requests", rpm), ("tpm", "tokens", tpm)):
            if value is not None:
                check_number(name, value, "a positive number such as 500")
                given[dimension] = value  # type: ignore[index]
        self._dispatcher.configure(self._names(budget), given)

    def pause(self, budget: str | None = None, *, seconds: float | None = None) -> None:
        """Send no further call, of that budget or of any, for `seconds` or until `resume()`. Waiting calls stay.

        `max_wait` goes on counting.
        """
        if seconds is not None:
            check_number("seconds", seconds, "seconds such as 30.0, or None to pause until resume()")
        self._dispatcher.hold(self._names(budget), math.inf if seconds is None else seconds)

    def resume(self, budget: str | None = None) -> None:
        """End a `pause()`, of that budget or of all."""
        self._dispatcher.hold(self._names(budget), 0.0)

    def _names(self, budget: str | None) -> set[str] | None:
        if budget is None:
            return None
        known = [limiter.name for limiter in self._dispatcher.limiters]
        if budget not in known:
            raise ValueError(f"there is no budget {budget!r} yet{did_you_mean(budget, known)}; there are: {known}")
        return {budget}

    def __repr__(self) -> str:
        # Without waiting: a log handler formats while holding its lock, which the deciding thread may wait for.
        return f"<Throttle [{self._dispatcher.stats_now().summary()}]>"


class Everywhere:
    """All throttles of this process, and the subscribers of all, also of those that come later."""

    def __init__(self) -> None:
        self._throttles: weakref.WeakSet[Throttle] = weakref.WeakSet()
        self._callbacks: tuple[Subscriber, ...] = ()
        self._adding = threading.Lock()

    def add(self, throttle: Throttle) -> None:
        with self._adding:
            self._throttles.add(throttle)
            for callback in self._callbacks:
                throttle.subscribe(callback)

    def throttles(self) -> list[Throttle]:
        with self._adding:
            return list(self._throttles)

    def subscribe(self, callback: Subscriber) -> None:
        with self._adding:
            self._callbacks = (*self._callbacks, callback)
            for throttle in self._throttles:
                throttle.subscribe(callback)

    def unsubscribe(self, callback: Subscriber) -> None:
        with self._adding:
            self._callbacks = tuple(each for each in self._callbacks if each != callback)
            for throttle in self._throttles:
                dispatcher_of(throttle).subscribers.remove(callback)


everywhere: Final = Everywhere()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(everywhere, "_adding", threading.Lock()))


def dispatcher_of(throttle: Throttle) -> Dispatcher:
    """The dispatcher of `throttle`; not a public attribute, so that users see only what they need."""
    return throttle._dispatcher  # noqa: SLF001


def most_refusals(throttle: Throttle) -> int | None:
    """How often one call may be refused before the SDK hears of it; -1: it hears of every refusal, as without us."""
    return throttle.max_refusals if throttle.enforce else -1


def with_changes(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a throttle with `changes` made: limits of each model and of all together exclude each other."""
    kept = dict(options)
    if "limits" in changes:
        kept = {name: value for name, value in kept.items() if name not in _EACH_MODEL}
    elif not _EACH_MODEL.isdisjoint(changes):
        kept.pop("limits", None)
    return {**kept, **changes}


def check_given(throttle: object, limits: Mapping[str, Any]) -> None:
    """Raise unless a client may be given this throttle together with these options."""
    if not isinstance(throttle, Throttle):
        raise TypeError(f"throttle must be a throttled_openai.Throttle, got {type(throttle).__name__}")
    if limits:
        raise ValueError(
            f"a throttle has its own limits: give {', '.join(limits)} to Throttle(...), or leave out throttle="
        )
