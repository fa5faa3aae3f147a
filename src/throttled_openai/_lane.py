"""The lane: one budget and the queue before it, with one timer. It waits; `_core` decides."""

from __future__ import annotations

import heapq
import logging
import math
import sys
from typing import TYPE_CHECKING, Final

from ._core.budget import Budget
from ._core.concurrency import ConcurrencyLimit
from ._core.stats import BudgetStats
from ._permit import Call, Outcome, Permit
from .errors import AdmissionTimeout, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    import asyncio

    from ._core.budget import Reservation
    from ._core.headers import Announcement
    from ._core.limits import Limits
    from ._core.refusals import Refusal
    from ._throttle import Throttle

logger = logging.getLogger("throttled_openai")

# An attempt this many times larger than the announced limit is refused here: estimates are within 30 %.
OVERSIZE: Final = 1.5
# Waiters that have given up and are cleared away in one go; 100,000 at once hold the loop for 0.3 s.
GIVEN_UP_AT_ONCE: Final = 2_000


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


class Lane:
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
        return Permit(self, call, reservation, self.admitted, binding=self.in_flight >= math.floor(0.9 * self.limit))

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
                delay += (self.waiting - 1) / self.rate
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
        """At most so many go before it. Not counted one by one: ten thousand may give up in a second."""
        head, place = self.head(), waiter.call.order
        if place is None or head[0] != place[0]:
            return self.waiting
        return max(0, min(self.waiting, place[1] - head[1]))

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
            if permit.number > self.concurrency.shrunk_after:
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
            permit.number, self.admitted, self.in_flight + 1, overload=overload, restart=pausing and not paced
        )
        if refusal is not None:
            self.budget.refused(refusal, permit.reservation, now, event=event, jitter=self.throttle.random())
            if event:
                logger.info(
                    "%s: refused (%s, retry after %s s); concurrency limit %d, paused for %.2f s",
                    self.name,
                    refusal.dimension or refusal.kind,
                    refusal.retry_after,
                    self._find_limit(),
                    max(0.0, self.budget.paused_until - now),
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

    def moved(self, *, same_clock: bool) -> Lane:
        """The same budget on another event loop; who waits or is in flight on this one is left behind."""
        lane = Lane(self.throttle, self.name, self.budget.limits)
        lane.budget, lane.concurrency = self.budget, self.concurrency
        lane.budget.rebind(same_clock=same_clock)
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
