"""The throttle: one queue per budget, one timer, permits. It waits; `_core` decides."""

from __future__ import annotations

import asyncio
import enum
import gc
import heapq
import itertools
import logging
import math
import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._core.budget import Budget
from ._core.concurrency import ConcurrencyLimit
from ._core.limits import Limits, LimitsBook, check_number
from ._core.stats import BudgetStats, Stats
from .errors import AdmissionTimeout, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._core.budget import Reservation
    from ._core.headers import Announcement, Refusal

logger = logging.getLogger("throttled_openai")

# As many connections as the SDK's own pool opens.
MAX_CONCURRENCY: Final = 1000
# Refusals of one call before its last one is handed to the caller.
MAX_REFUSALS: Final = 20
# An attempt this many times larger than the announced limit is refused here: estimates are within 30 %.
OVERSIZE: Final = 1.5
# Seconds without any movement after which streams that nobody holds any more are looked for.
STUCK: Final = 5.0
# Waiters that have given up and are cleared away in one go; 100,000 at once hold the loop for 0.3 s.
GIVEN_UP_AT_ONCE: Final = 2_000


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
    """One use of an SDK method: what it costs, how it behaves, and its age, kept over its attempts."""

    __slots__ = ("manners", "model", "order", "refusals", "tokens", "waited")

    def __init__(self, model: str, tokens: int, manners: Manners) -> None:
        self.model = model
        self.tokens = tokens
        self.manners = manners
        self.order: tuple[int, int] | None = None  # place in line, from its first wait on
        self.waited = 0.0
        self.refusals = 0


class Permit:
    """The right to one attempt in flight; settled exactly once."""

    __slots__ = ("_lane", "_used", "admitted_at", "binding", "call", "open", "reservation", "streaming")

    def __init__(self, lane: _Lane, call: Call, reservation: Reservation, *, binding: bool) -> None:
        self._lane = lane
        self.call = call
        self.reservation = reservation
        self.admitted_at = reservation.at
        self.binding = binding
        self.open = True
        self.streaming = False
        self._used = 0

    def started(self) -> None:
        """The response began; the attempt stays in flight while its stream is open."""
        self.streaming = True
        self._lane.streams += 1
        self._lane.admit_waiting()  # its headers may have told of higher limits

    def observe(self, announcement: Announcement) -> None:
        """Learn the limits the response announced; `started` or `settle` follows and admits who may go."""
        self._lane.observe(announcement, self.reservation)

    def settle(self, outcome: Outcome, refusal: Refusal | None = None) -> None:
        """End the attempt; `refusal` says why the server turned it away."""
        assert self.open, "permit settled twice"
        self.open = False
        self._lane.settle(self, outcome, refusal)

    def release(self, outcome: Outcome = Outcome.IGNORED) -> None:
        """Settle, unless that has been done: for the ways out that may come after another one."""
        if self.open:
            self.settle(outcome)

    def used(self, tokens: int) -> None:
        """What the server reports to have used so far, input and output together."""
        self._lane.tokens_used += tokens - self._used
        self._used = tokens


class _Waiter:
    __slots__ = ("call", "deadline", "future", "since")

    def __init__(self, call: Call, since: float, future: asyncio.Future[Permit]) -> None:
        self.call = call
        self.since = since
        self.future = future
        max_wait = call.manners.max_wait
        self.deadline = math.inf if max_wait is None else since + max_wait - call.waited

    def __lt__(self, other: _Waiter) -> bool:
        return False  # neither goes first where place and deadline are equal; heaps must be able to ask


class _Lane:
    """One budget, its concurrency limit, and the queue before them."""

    def __init__(self, throttle: Throttle, name: str, limits: Limits | None) -> None:
        self.throttle = throttle
        self._loop = throttle.loop
        self.name = name
        self.budget = Budget(limits)
        self.concurrency = ConcurrencyLimit(throttle.max_concurrency)
        self.in_flight = 0
        self.streams = 0
        self.admitted = self.succeeded = self.refused = self.tokens_used = 0
        self.waiting = 0  # waiters in the queue that have not given up
        self._tokens_per_call = 0.0  # smoothed, to tell what request rate a token limit comes to
        self._queue: list[tuple[tuple[int, int], _Waiter]] = []
        self._deadlines: list[tuple[float, _Waiter]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._learned()

    # Admission

    async def admit(self, call: Call) -> Permit:
        loop = self.throttle.loop
        now = loop.time()
        order = call.order
        new = order is None
        if order is None:
            self._check_size(call)
            order = call.order = (-call.manners.priority, next(self.throttle.arrivals))
        if not self.waiting and self._may_go(call, now):
            return self._grant(call, now)
        if new:
            self._check_queue(call, now)
        waiter = _Waiter(call, now, loop.create_future())
        heapq.heappush(self._queue, (order, waiter))
        if waiter.deadline < math.inf:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter))
        self.waiting += 1
        # Behind others nothing has changed: the timer is set for the head. Looking again would also
        # admit on what refills while a large gather starts, long before the loop sends any of it.
        if self._queue[0][1] is waiter or waiter.deadline < self._wakes_at:
            self.admit_waiting()
        try:
            return await waiter.future
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            call.waited += loop.time() - waiter.since

    def _abandon(self, waiter: _Waiter) -> None:
        future = waiter.future
        if future.cancel() or future.cancelled():
            self.waiting -= 1
            self.admit_waiting()
        elif future.exception() is None:
            # Cancelled in the very tick it was admitted: nobody else will use this permit.
            future.result().settle(Outcome.UNSENT)

    def admit_waiting(self) -> None:
        """Admit from the head of the queue while the head may go.

        Called whenever something may have changed: a new waiter, a settled permit, a passed
        instant, a corrected budget. The head is never overtaken, so a large call cannot starve.
        """
        if not self.waiting:
            self._queue.clear()
            self._deadlines.clear()
            self._set_timer(math.inf)
            return
        now = self.throttle.loop.time()
        self._expire(now)
        wake_at = math.inf
        given_up = 0
        while self._queue:
            waiter = self._queue[0][1]
            if waiter.future.done():
                heapq.heappop(self._queue)
                given_up += 1
                if given_up == GIVEN_UP_AT_ONCE:
                    wake_at = now
                    break
                continue
            if not self._has_room():
                if self.streams:
                    wake_at = now + self.throttle.stuck_for
                break
            delay = self.budget.delay(waiter.call.tokens, now)
            if delay > 0:
                wake_at = now + delay
                break
            heapq.heappop(self._queue)
            self.waiting -= 1
            waiter.future.set_result(self._grant(waiter.call, now))
        self._set_timer(min(wake_at, self._next_deadline()))

    def _has_room(self) -> bool:
        return self.in_flight < self.limit and self.throttle.has_room()

    def _may_go(self, call: Call, now: float) -> bool:
        return self._has_room() and self.budget.delay(call.tokens, now) <= 0

    def _grant(self, call: Call, now: float) -> Permit:
        reservation = self.budget.reserve(call.tokens, now)
        self.in_flight += 1
        self.admitted += 1
        self._tokens_per_call += (call.tokens - self._tokens_per_call) * max(0.02, 1 / self.admitted)
        return Permit(self, call, reservation, binding=self.in_flight >= math.floor(0.9 * self.limit))

    def _check_size(self, call: Call) -> None:
        largest = self.budget.largest_announced
        if call.tokens > OVERSIZE * largest:
            raise RequestTooLarge(tokens=call.tokens, limit=largest, model=self.name)

    def _check_queue(self, call: Call, now: float) -> None:
        # Only a new call is turned away: one that was refused has waited its turn before.
        most = call.manners.max_queued
        if most is not None and self.waiting >= most:
            delay = self.budget.delay(call.tokens, now)
            if self.rate is not None:
                delay += self.waiting / self.rate
            raise QueueFull(max_queued=most, waiting=self.waiting, retry_after=delay or self.concurrency.latency or 1.0)

    # Time

    def _expire(self, now: float) -> None:
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1].future.done()):
            waiter = heapq.heappop(self._deadlines)[1]
            if waiter.future.done():
                continue
            self.waiting -= 1
            waiter.future.set_exception(
                AdmissionTimeout(
                    max_wait=waiter.call.manners.max_wait or 0.0,
                    waited=waiter.call.waited + now - waiter.since,
                    ahead=self._ahead_of(waiter),
                    reason=self._holds_back(waiter.call, now),
                )
            )

    def _ahead_of(self, waiter: _Waiter) -> int:
        # Linear, but only for a call that fails; far below a millisecond at 10,000 waiting.
        order = waiter.call.order
        assert order is not None
        return sum(place < order and not other.future.done() for place, other in self._queue)

    def _holds_back(self, call: Call, now: float) -> str:
        delay = self.budget.delay(call.tokens, now)
        if delay > 0:
            return f"{self.name} has budget for this one alone in {delay:.1f} s"
        if not self.throttle.has_room():
            return (
                f"all models together have {self.throttle.in_flight} calls in flight "
                f"of max_concurrency={self.throttle.max_concurrency}"
            )
        return f"{self.name} has {self.in_flight} calls in flight of {self.limit}"

    def _next_deadline(self) -> float:
        while self._deadlines and self._deadlines[0][1].future.done():
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    @property
    def _wakes_at(self) -> float:
        return math.inf if self._timer is None else self._timer.when()

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            # One that fires too early only looks again: cheaper than cancelling it each time.
            if self._timer.when() <= at < math.inf:
                return
            self._timer.cancel()
            self._timer = None
        if at < math.inf and not self.throttle.loop.is_closed():
            self._timer = self.throttle.loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if self.streams and not self._has_room():
            self.throttle.collect_dropped_streams()
        self.admit_waiting()

    # Settlement

    def settle(self, permit: Permit, outcome: Outcome, refusal: Refusal | None) -> None:
        now = self.throttle.loop.time()
        self.in_flight -= 1
        self.throttle.moved(now)
        self.streams -= permit.streaming
        self.budget.close(permit.reservation)
        took = max(0.0, now - permit.admitted_at)  # another loop's clock may be behind
        if outcome is Outcome.SUCCESS:
            self.succeeded += 1
            self.concurrency.succeeded(took, binding=permit.binding)
            if permit.admitted_at > self.concurrency.shrunk_at:
                self.budget.succeeded()
        elif outcome is Outcome.UNSENT:
            self.budget.refund(permit.reservation, request=True)
        elif outcome is Outcome.REFUSED:
            assert refusal is not None
            self.refused += 1
            self.observe(refusal.announcement, permit.reservation)
            self.budget.refund(permit.reservation, request=False)
            self._congested(permit, refusal, now)
        elif outcome is Outcome.OVERLOADED:
            self._congested(permit, None, now)
        self.limit = self._find_limit()
        if logger.isEnabledFor(logging.DEBUG):
            self._log(permit, outcome, took)
        self.throttle.admit_waiting(self)

    def _log(self, permit: Permit, outcome: Outcome, took: float) -> None:
        logger.debug(
            "%s: attempt %s after %.3f s, %d tokens estimated; %d in flight of %d, %d waiting",
            self.name,
            outcome.value,
            took,
            permit.call.tokens,
            self.in_flight,
            self.limit,
            self.waiting,
        )

    def _congested(self, permit: Permit, refusal: Refusal | None, now: float) -> None:
        if refusal is not None and refusal.final:
            return  # says something about the request or the account, nothing about the pace
        overload = refusal is None or refusal.kind == "overload"
        paced = self.rate is not None
        pausing = refusal is not None and (refusal.retry_after is not None or refusal.dimension is not None)
        event = self.concurrency.congested(
            permit.admitted_at, now, self.in_flight + 1, overload=overload, restart=pausing and not paced
        )
        if refusal is not None:
            paused_until = self.budget.paused_until
            self.budget.refused(refusal, permit.reservation, now, event=event, jitter=self.throttle.random())
            if event:
                logger.info(
                    "%s: refused (%s, retry after %s s); concurrency limit %d, paused for %.2f s",
                    self.name,
                    refusal.dimension or refusal.kind,
                    refusal.retry_after,
                    self.limit,
                    max(0.0, max(paused_until, self.budget.paused_until) - now),
                )

    def observe(self, announcement: Announcement, reservation: Reservation | None) -> None:
        if not announcement.requests and not announcement.tokens:
            return
        rates = self.budget.request_rate, self.budget.token_rate
        self.budget.observe(announcement, reservation, self.throttle.loop.time())
        if rates != (self.budget.request_rate, self.budget.token_rate):
            self._learned()
            logger.info("%s: limits are now %s", self.name, ", ".join(map(str, self.budget.stats())))

    def _learned(self) -> None:
        rate = self.rate
        if rate is not None:
            self.concurrency.expect(rate)
        self.limit = self._find_limit()

    @property
    def rate(self) -> float | None:
        """Requests per second the budget comes to, by whichever dimension binds; None: not known."""
        rate = self.budget.request_rate
        tokens = self.budget.token_rate
        if tokens is not None and self._tokens_per_call > 0:
            by_tokens = tokens / self._tokens_per_call
            rate = by_tokens if rate is None else min(rate, by_tokens)
        return rate

    def _find_limit(self) -> int:
        """The concurrency limit; it changes only with what an attempt's end or its headers tell."""
        return self.concurrency.value(self.rate)

    def moved(self, *, same_clock: bool) -> _Lane:
        """The same budget on another event loop; who waits or is in flight on this one is left behind."""
        lane = _Lane(self.throttle, self.name, self.budget.limits)
        lane.budget, lane.concurrency = self.budget, self.concurrency
        lane.budget.rebind(same_clock=same_clock)
        lane.concurrency.rebind(same_clock=same_clock)
        lane.limit = self.limit
        lane.admitted, lane.succeeded, lane.refused = self.admitted, self.succeeded, self.refused
        lane.tokens_used, lane._tokens_per_call = self.tokens_used, self._tokens_per_call
        if not self._loop.is_closed():
            for _, waiter in self._queue:
                waiter.future.cancel()  # should that loop ever run again
        self._queue.clear()
        self._deadlines.clear()
        self.waiting = 0
        return lane

    def head(self) -> tuple[int, int]:
        """The place in line of whom would go next; after all others where nobody waits."""
        while self._queue and self._queue[0][1].future.done():
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else (sys.maxsize, 0)

    def stats(self) -> BudgetStats:
        return BudgetStats(
            name=self.name,
            waiting=self.waiting,
            in_flight=self.in_flight,
            concurrency_limit=self.limit,
            admitted=self.admitted,
            succeeded=self.succeeded,
            refused=self.refused,
            tokens_used=self.tokens_used,
            windows=self.budget.stats(),
        )


class Throttle:
    """Budgets and queues, shared by every client that is given this throttle.

    `rpm`, `tpm`, `rpd`, `tpd`: limits that each model has for itself. `limits`: one `Limits` that
    all models draw on together, or a mapping from model name to `Limits`, in which a dated
    snapshot falls back to its family. With neither, limits are learnt from the server.
    `max_concurrency`: a ceiling for the calls in flight, all models together. `max_refusals`: how
    often one call may be refused by the server before its last refusal is raised; 0 hands every
    refusal to the SDK's own retries.

    One event loop at a time; several in turn are fine.
    """

    def __init__(
        self,
        limits: Limits | Mapping[str, Limits] | None = None,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        rpd: float | None = None,
        tpd: float | None = None,
        max_concurrency: int | None = None,
        max_refusals: int = MAX_REFUSALS,
    ) -> None:
        each_model = None
        if not rpm is tpm is rpd is tpd is None:
            if limits is not None:
                raise ValueError("write either limits=Limits(rpm=..., tpm=...) or rpm=..., tpm=..., not both")
            each_model = Limits(rpm=rpm, tpm=tpm, rpd=rpd, tpd=tpd)
        self._book = LimitsBook(limits, each_model=each_model)
        if max_concurrency is not None:
            check_count("max_concurrency", max_concurrency, "a number of calls such as 100, or None to find it")
        check_count("max_refusals", max_refusals, "a number such as 20, or 0 to see every refusal", least=0)
        self.max_concurrency = MAX_CONCURRENCY if max_concurrency is None else max_concurrency
        self.max_refusals = max_refusals
        self.random = random.random  # jitter
        self.arrivals = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: dict[object, _Lane] = {}
        self._moved_at = -math.inf
        self.stuck_for = STUCK

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "no call was ever admitted"
        return self._loop

    @property
    def waiting(self) -> int:
        """Calls asked for and not admitted."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def in_flight(self) -> int:
        """Attempts admitted and not settled."""
        return sum(lane.in_flight for lane in self._lanes.values())

    async def admit(self, call: Call) -> Permit:
        """Wait until `call` may go.

        Raises `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`.
        """
        return await self._lane(call.model).admit(call)

    def observe(self, announcement: Announcement) -> None:
        """Limits announced on a response that needed no permit: they are told where there is no doubt for whom."""
        if len(self._lanes) == 1 and self._loop is asyncio.get_running_loop():
            for lane in self._lanes.values():
                lane.observe(announcement, None)
                lane.admit_waiting()

    def _lane(self, model: str) -> _Lane:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        key, name, limits = self._book.find(model)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self, name, limits)
        return lane

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        old, self._loop = self._loop, loop
        if old is None:
            return
        if old.is_running() and (self.waiting or self.in_flight):
            self._loop = old
            raise RuntimeError(
                "this Throttle is in use on another event loop that is still running; "
                "give each running loop a client of its own"
            )
        # Real loops read one monotonic clock, so what refilled in between counts; virtual ones do not.
        same_clock = abs(old.time() - loop.time()) < 1.0
        self._lanes = {key: lane.moved(same_clock=same_clock) for key, lane in self._lanes.items()}

    def has_room(self) -> bool:
        """Whether the ceiling of all lanes together leaves room for one more; each lane keeps to it by itself."""
        return len(self._lanes) == 1 or self.in_flight < self.max_concurrency

    def admit_waiting(self, lane: _Lane) -> None:
        """Something changed in `lane`, and if the ceiling was what held others back, for them too."""
        if len(self._lanes) == 1:
            lane.admit_waiting()
            return
        others = [other for other in self._lanes.values() if other.waiting and other is not lane]
        if others and self.in_flight >= self.max_concurrency - 1:
            # The oldest first, or a busy model would keep the ceiling to itself.
            for other in sorted([lane, *others], key=_Lane.head):
                other.admit_waiting()
        else:
            lane.admit_waiting()

    def moved(self, now: float) -> None:
        """An attempt ended."""
        self._moved_at = now
        self.stuck_for = STUCK

    def collect_dropped_streams(self) -> None:
        """Free the permits of streams that nobody holds any more.

        The SDK's stream and its generator refer to each other, so one that was left by `break` is
        only freed by the cyclic garbage collector, which does not run while nothing happens.
        """
        if self.loop.time() - self._moved_at >= self.stuck_for:
            self.stuck_for *= 2
            gc.collect()

    def stats(self) -> Stats:
        """What the throttle knows, what waits, and what it did."""
        return Stats(
            waiting=self.waiting,
            in_flight=self.in_flight,
            budgets=tuple(lane.stats() for lane in self._lanes.values()),
        )

    def __repr__(self) -> str:
        return f"<Throttle [{self.stats().summary()}]>"
