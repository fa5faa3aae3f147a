"""The lane: one budget and the queue before it, with one timer. It waits; `_core` decides."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from ._core.budget import Budget
from ._core.concurrency import ConcurrencyLimit
from ._core.headers import NOTHING, read_limits
from ._core.ledger import Ledger
from ._core.stats import BudgetStats, spell
from ._permit import Call, Outcome, Permit
from ._queue import Queue, Waiter
from .errors import AccountBlocked, AdmissionTimeout, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    import asyncio

    from ._core.estimate import Usage
    from ._core.headers import Announcement
    from ._core.limits import Limits
    from ._core.refusals import Refusal
    from ._throttle import Throttle

logger = logging.getLogger("throttled_openai")

# An attempt this many times larger than the announced limit is refused here: estimates are within 30 %.
OVERSIZE: Final = 1.5
# Share of the refill that belongs to the oldest call while it is too large to go; the other share
# lets smaller ones pass.
SAVED: Final = 0.5
# Smaller ones pass only a call that still has to wait for so long (seconds).
PASSABLE: Final = 1.0
# While a rate is being learnt, how long a delay holds before it is looked at again (seconds).
LEARNING: Final = 1.0
# A wait for a limit of more than a minute that is worth a warning, and how often it is repeated (seconds).
LONG: Final = 60.0
WARN_EVERY: Final = 600.0
# Permits given in one go. A burst of hundreds would hold the event loop; and as the SDK takes a
# millisecond to send each, what was reserved first would be sent together with what is reserved later.
AT_ONCE: Final = 32
# After a refusal for billing, seconds in which no call is sent; then one tries.
BLOCKED: Final = 10.0


class Lane:
    """One budget, its concurrency limit, and the queue before them."""

    def __init__(self, throttle: Throttle, name: str, limits: Limits | None) -> None:
        self.throttle = throttle
        self._loop = throttle.loop
        self.name = name
        self.budget = Budget(limits)
        self.concurrency = ConcurrencyLimit(throttle.max_concurrency, throttle.most_in_flight)
        self.limit = self.concurrency.value()
        self.in_flight = 0
        self.streams = 0
        self.admitted = self.succeeded = self.refused = self.tokens_used = 0
        self.queue = Queue()
        self._ledger = Ledger()
        self.outstanding = 0.0  # tokens reserved for attempts in flight
        self._tokens_per_call = 0.0  # smoothed, to tell what request rate a token limit comes to
        self._saving: tuple[Waiter, float, float] | None = None  # who is too large, since when, tokens it began with
        self._busy = 0.0  # integral of attempts in flight over time
        self._busy_at = -math.inf
        self._warn_again_at = -math.inf
        self._blocked_until = -math.inf
        self._blocked_after = 0  # number of the newest attempt then
        self._billing: Any = None  # the response that said so
        self._timer: asyncio.Handle | None = None
        self._wakes_at = math.inf
        self._learned()

    # Admission

    async def admit(self, call: Call) -> Permit:
        loop = self.throttle.loop
        now = loop.time()
        order = call.order
        new = order is None
        self._price(call)
        if call.provider.hosted:
            self.concurrency.ignore_latency()
        if order is None:
            self._check_size(call)
            order = call.order = (-call.manners.priority, next(self.throttle.arrivals))
        self._check_account(now)
        if not self.queue.waiting and self._may_go(call, now):
            return self._grant(call, now)
        if new:
            self._check_queue(call, now)
        waiter = Waiter(call, order, now, loop.create_future())
        # Behind others nothing has changed: the timer is set for the oldest. Looking again would also
        # admit on what refills while a large gather starts, long before the loop sends any of it.
        if self.queue.add(waiter) or waiter.deadline < self._wakes_at:
            self.admit_waiting()
        try:
            return await waiter.future
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            call.waited += loop.time() - waiter.since

    def _abandon(self, waiter: Waiter) -> None:
        future = waiter.future
        if future.cancel() or future.cancelled():
            self.queue.left()
            self.admit_waiting()
        elif future.exception() is None:
            # Cancelled in the very tick it was admitted: nobody else will use this permit.
            future.result().settle(Outcome.UNSENT)

    def admit_waiting(self) -> None:
        """Admit the oldest while it may go; smaller ones may pass one that is too large for now.

        Called whenever something may have changed: a new waiter, a settled permit, a passed
        instant, a corrected budget.
        """
        queue = self.queue
        if not queue.waiting and self._timer is None:
            return
        now = self.throttle.loop.time()
        for waiter in queue.expired(now):
            waiter.future.set_exception(self._timeout(waiter, now))
        wake_at = math.inf
        given = 0
        while queue.waiting:
            if given == AT_ONCE:
                wake_at = now
                break
            oldest = queue.oldest()
            if not oldest:
                wake_at = now  # too many have given up to clear away in one go
                break
            if not self._has_room():
                again = self._look_for_room(now)
                if self._has_room():
                    continue
                wake_at = now + min(again, self.throttle.stuck_for if self.streams else math.inf)
                break
            chosen, delay = self._next(oldest, now)
            if chosen is None:
                wake_at = now + (min(delay, LEARNING) if self.budget.learning else delay)
                self._warn_of_long_wait(oldest[0].call, delay, now)
                break
            queue.take(chosen)
            chosen.future.set_result(self._grant(chosen.call, now))
            given += 1
        self._set_timer(min(wake_at, queue.next_deadline()))

    def _next(self, oldest: list[Waiter], now: float) -> tuple[Waiter | None, float]:
        """Who goes now; or nobody, and the seconds until somebody may."""
        head = oldest[0]
        self._price(head.call)  # the tariff may have changed since it came
        delay = self.budget.delay(head.call.tokens, now)
        if delay <= 0:
            return head, 0.0
        if delay < PASSABLE or len(oldest) == 1:
            return None, delay
        nobody = self.budget.delay(0, now)
        if nobody > 0:  # a pause, or a request that is missing for all
            return None, min(delay, nobody)
        saved = self._saved_for(head, now)
        # What is saved grows while others wait for the rest.
        slower = 1.0 if saved >= head.call.tokens else 1 / (1 - SAVED)
        for waiter in oldest[1:]:
            if waiter.call.tokens < head.call.tokens:
                wait = self.budget.delay(waiter.call.tokens, now, saved) * slower
                if wait <= 0:
                    return waiter, 0.0
                delay = min(delay, wait)
        return None, delay

    def _saved_for(self, head: Waiter, now: float) -> float:
        """Tokens that belong to the oldest call: half of what there was when its turn came, and of each refill."""
        if self._saving is None or self._saving[0] is not head:
            self._saving = head, now, SAVED * max(0.0, self.budget.token_level())
        _, since, first = self._saving
        return min(head.call.tokens, first + SAVED * self.budget.token_refill * (now - since))

    def _warn_of_long_wait(self, call: Call, delay: float, now: float) -> None:
        """A day's limit that is used up would hold calls for hours without a word."""
        if now < self._warn_again_at:
            return
        window = self.budget.used_up(call.tokens)
        if window is None:
            return
        amount = 1.0 if window.dimension == "requests" else self._tokens_per_call
        whole = delay + (self.queue.waiting - 1) * amount * window.period / window.limit
        if whole > LONG:
            self._warn_again_at = now + WARN_EVERY
            logger.warning(
                "%s: %s are used up; the next call goes in %s, all %d waiting in %s; with max_wait= they fail instead",
                self.name,
                window,
                spell(delay),
                self.queue.waiting,
                spell(whole),
            )

    def _has_room(self) -> bool:
        return self.in_flight < self.limit and self.throttle.has_room()

    def _look_for_room(self, now: float) -> float:
        """Let the limit grow if it is what holds calls; seconds until that may be looked at again."""
        if self.in_flight < self.limit:
            return math.inf  # the ceiling of all models together
        again = self.concurrency.look(now)
        self.limit = self.concurrency.value()
        return math.inf if again is None else again

    def _may_go(self, call: Call, now: float) -> bool:
        return self._has_room() and self.budget.delay(call.tokens, now) <= 0

    def _grant(self, call: Call, now: float) -> Permit:
        reservation = self.budget.reserve(call.tokens, now)
        busy = self._pass_time(now)
        self.in_flight += 1
        self.outstanding += call.tokens
        self.admitted += 1
        self._tokens_per_call += (call.tokens - self._tokens_per_call) * max(0.02, 1 / self.admitted)
        return Permit(
            self, call, reservation, busy, self.in_flight, binding=self.in_flight >= math.floor(0.9 * self.limit)
        )

    def _pass_time(self, now: float) -> float:
        """The integral of attempts in flight over time, to tell how many an attempt had beside it."""
        if self._busy_at > -math.inf:
            self._busy += self.in_flight * (now - self._busy_at)
        self._busy_at = now
        return self._busy

    def _check_account(self, now: float) -> None:
        if now < self._blocked_until:
            raise AccountBlocked(self._billing, model=self.name, retry_in=self._blocked_until - now)
        if self._billing is not None:
            self._blocked_until = now + BLOCKED  # this one tries; the others wait for what it meets

    def _price(self, call: Call) -> None:
        """What an attempt of `call` costs, by what is known now."""
        if call.estimate is not None:
            call.tokens = self._ledger.price(call.estimate, call.provider)

    def _check_size(self, call: Call) -> None:
        if not call.provider.counts_cached and not call.refusals:
            return  # most of it may be cached, and only the server knows
        largest = self.budget.largest_announced
        if call.tokens > OVERSIZE * largest:
            raise RequestTooLarge(tokens=round(call.tokens), limit=largest, model=self.name)

    def _check_queue(self, call: Call, now: float) -> None:
        # Only a new call is turned away: one that was refused has waited its turn before.
        most = call.manners.max_queued
        waiting = self.queue.waiting
        if most is not None and waiting >= most:
            delay = self.budget.delay(call.tokens, now)
            if self.rate is not None:
                delay += (waiting - 1) / self.rate
            raise QueueFull(max_queued=most, waiting=waiting, retry_after=delay or self.concurrency.latency or 1.0)

    # Time

    def _timeout(self, waiter: Waiter, now: float) -> AdmissionTimeout:
        return AdmissionTimeout(
            max_wait=waiter.call.manners.max_wait or 0.0,
            waited=waiter.call.waited + now - waiter.since,
            ahead=self._ahead_of(waiter),
            reason=self._holds_back(waiter.call, now),
        )

    def _ahead_of(self, waiter: Waiter) -> int:
        """At most so many calls go before it. Not counted one by one: ten thousand may give up in a second."""
        head, place = self.queue.head(), waiter.order
        if head[0] != place[0]:
            return self.queue.waiting
        return max(0, min(self.queue.waiting, place[1] - head[1]))

    def _holds_back(self, call: Call, now: float) -> str:
        delay = self.budget.delay(call.tokens, now)
        if delay > 0:
            window = self.budget.used_up(call.tokens)
            why = "" if window is None else f": {window} are used up"
            return f"{self.name} has budget for this one alone in {spell(delay)}{why}"
        if not self.throttle.has_room():
            return (
                f"all models together have {self.throttle.in_flight} calls in flight "
                f"of {self.throttle.most_in_flight}; max_concurrency= changes that"
            )
        return f"{self.name} has {self.in_flight} calls in flight of {self.limit}"

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            # One that fires too early only looks again: cheaper than cancelling it each time.
            if self._wakes_at <= at < math.inf:
                return
            self._timer.cancel()
            self._timer, self._wakes_at = None, math.inf
        if at < math.inf and not self.throttle.loop.is_closed():
            self._timer, self._wakes_at = self.throttle.loop.call_at(at, self._wake), at

    def _wake(self) -> None:
        self._timer, self._wakes_at = None, math.inf
        if self.streams and not self._has_room():
            self.throttle.collect_dropped_streams()
        self.admit_waiting()

    # Settlement

    def settle(self, permit: Permit, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        """End an attempt. `response`: what the server refused it with."""
        now = self.throttle.loop.time()
        reservation, budget = permit.reservation, permit.budget
        busy = self._pass_time(now)
        self.in_flight -= 1
        self.outstanding -= reservation.tokens
        self.throttle.moved(now)
        self.streams -= permit.streaming
        took = max(0.0, now - reservation.at)  # another loop's clock may be behind
        if permit.usage is not None:
            self._settle_usage(permit, permit.usage)
        if outcome is Outcome.SUCCESS:
            self.succeeded += 1
            if not self.throttle.late or self.concurrency.latency is None:
                beside = (busy - permit.busy) / took if took > 0 else self.in_flight
                self.concurrency.succeeded(
                    reservation.number, reservation.at, took, beside, crowd=permit.crowd, binding=permit.binding
                )
            budget.succeeded(reservation, now)
            if self._billing is not None and reservation.number > self._blocked_after:
                self._billing, self._blocked_until = None, -math.inf
        elif outcome is Outcome.UNSENT:
            budget.refund(reservation, request=True)
        elif outcome is Outcome.REFUSED:
            assert refusal is not None
            self.refused += 1
            self._refused(permit, refusal, response, now)
        elif outcome is Outcome.OVERLOADED:
            self.concurrency.failed(reservation.number, budget.newest, now, took)
        self.limit = self.concurrency.value()
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
            self.queue.waiting,
        )

    def _refused(self, permit: Permit, refusal: Refusal, response: Any, now: float) -> None:
        call, reservation, budget = permit.call, permit.reservation, permit.budget
        # What a response of status 200 announced was seen when it began.
        told = NOTHING if response is None or response.status_code < 400 else read_limits(response.headers)
        if call.estimate is not None and refusal.requested is not None and refusal.dimension == "tokens":
            self._ledger.requested(refusal.requested, call.estimate, call.provider)
        if refusal.group is not None:
            self.throttle.share(self, refusal.group)
        rates = budget.request_rate, budget.token_rate
        if refusal.final:
            # Says something about the request or the account, nothing about the pace.
            budget.observe(told, reservation, now, refused=True)
            budget.refund(reservation, request=False)
        else:
            self._slow_down(permit, refusal, response, told, now)
        if rates != (budget.request_rate, budget.token_rate):
            self._learned()
        if refusal.kind == "billing" and response is not None:
            self._block(response, now)

    def _slow_down(self, permit: Permit, refusal: Refusal, response: Any, told: Announcement, now: float) -> None:
        """Tell a refusal to what may have caused it: too many attempts in flight, or a rate."""
        reservation, budget = permit.reservation, permit.budget
        room, rate = self._suspects(permit, refusal, response)
        jitter, event = self.throttle.random(), False
        if room:
            took = now - reservation.at
            event = self.concurrency.refused(reservation.number, budget.newest, self.in_flight, now, took)
        if rate:
            event = budget.refused(refusal, told, reservation, now, jitter=jitter, sure=not room)
        else:  # for lack of room; or, as less in flight has not helped, for neither
            budget.lacked_room(refusal, told, reservation, now, idle=not self.in_flight, jitter=jitter)
            if event and refusal.kind == "rate":
                budget.tighten(now)
        if event:
            logger.info(
                "%s: refused (%s, retry after %s s); concurrency limit %d, paused for %.2f s",
                self.name,
                refusal.dimension or refusal.kind,
                refusal.retry_after,
                self.concurrency.value(),
                max(0.0, budget.paused_until - now),
            )

    def _suspects(self, permit: Permit, refusal: Refusal, response: Any) -> tuple[bool, bool]:
        """Whether it is for lack of room, and for a rate, that the server refused, as far as can be told."""
        concurrency, number = self.concurrency, permit.reservation.number
        if refusal.retry_after is None and response is not None and response.status_code < 400:
            # In the middle of a stream, when the limits had let it pass.
            room, rate = True, False
        else:
            binding = permit.crowd >= self.limit or concurrency.never_served(permit.crowd)
            room, rate = permit.budget.suspects(refusal, binding=binding, calm=concurrency.is_calm)
        if room and refusal.kind == "rate" and concurrency.has_served_more(permit.crowd):
            concurrency.take_back()
            return False, True
        if room and concurrency.in_vain(number, permit.budget.newest):
            return False, rate or refusal.kind == "rate" or refusal.slow_down
        return room, rate

    def _block(self, response: Any, now: float) -> None:
        """Nobody is served until somebody pays: fail what waits, rather than let each meet the same refusal."""
        first = self._billing is None
        self._billing = response
        self._blocked_until, self._blocked_after = now + BLOCKED, self.budget.newest
        waiters = self.queue.clear()
        logger.log(
            logging.WARNING if first else logging.DEBUG,
            "%s: refused for billing; %d waiting calls failed, none sent for %g s",
            self.name,
            len(waiters),
            BLOCKED,
        )
        for waiter in waiters:
            waiter.future.set_exception(AccountBlocked(response, model=self.name, retry_in=BLOCKED))

    def observe(self, announcement: Announcement, permit: Permit | None = None) -> None:
        """Learn the limits a response announced; without a permit, one that needed none."""
        if announcement.requests or announcement.tokens:
            self._observe(announcement, permit, self.throttle.loop.time())

    def _observe(self, announcement: Announcement, permit: Permit | None, now: float) -> None:
        rates = self.budget.request_rate, self.budget.token_rate
        if permit is None:
            self.budget.observe(announcement, None, now)
        else:
            call, reservation = permit.call, permit.reservation
            # Where usage is charged, what is in flight has yet to be taken from what is left.
            later = self.outstanding - reservation.tokens if call.provider.charges == "usage" else None
            self.budget.observe(announcement, reservation, now, later=later)
            if call.estimate is not None:
                self._ledger.announced(announcement, reservation.number, reservation.at, call.estimate, call.provider)
        if rates != (self.budget.request_rate, self.budget.token_rate):
            self._learned()
            logger.info("%s: limits are now %s", self.name, ", ".join(map(str, self.budget.stats())))

    def count_usage(self, permit: Permit, usage: Usage) -> None:
        """The server reported what an attempt used, in the middle of its stream or after its end."""
        before = permit.usage
        permit.usage = usage
        self.tokens_used += usage.input + usage.output - (0 if before is None else before.input + before.output)
        if not permit.open and before is None:
            self._settle_usage(permit, usage)
            self.throttle.admit_waiting(self)

    def _settle_usage(self, permit: Permit, usage: Usage) -> None:
        """Replace the estimate by the use, where the provider does."""
        call = permit.call
        if call.estimate is not None:
            final = self._ledger.used(call.estimate, call.provider, usage)
            if final is not None:
                permit.budget.settle(permit.reservation, final)

    def _learned(self) -> None:
        self.concurrency.expect(self.rate)
        self.limit = self.concurrency.value()

    @property
    def rate(self) -> float | None:
        """Requests per second the budget comes to, by whichever dimension binds; None: not known."""
        rate = self.budget.request_rate
        tokens = self.budget.token_rate
        if tokens is not None and self._tokens_per_call > 0:
            by_tokens = tokens / self._tokens_per_call
            rate = by_tokens if rate is None else min(rate, by_tokens)
        return rate

    def moved(self, *, same_clock: bool) -> Lane:
        """The same budget on another event loop; who waits or is in flight on this one is left behind."""
        lane = Lane(self.throttle, self.name, self.budget.limits)
        lane.budget, lane.concurrency = self.budget, self.concurrency
        lane.budget.rebind(same_clock=same_clock)
        lane.limit = self.limit
        lane.admitted, lane.succeeded, lane.refused = self.admitted, self.succeeded, self.refused
        lane.tokens_used, lane._tokens_per_call = self.tokens_used, self._tokens_per_call
        lane._ledger = self._ledger
        lane._ledger.rebind()
        for waiter in self.queue.clear():
            if not self._loop.is_closed():
                waiter.future.cancel()  # should that loop ever run again
        return lane

    def stats(self) -> BudgetStats:
        return BudgetStats(
            name=self.name,
            waiting=self.queue.waiting,
            in_flight=self.in_flight,
            concurrency_limit=self.limit,
            admitted=self.admitted,
            succeeded=self.succeeded,
            refused=self.refused,
            tokens_used=self.tokens_used,
            windows=self.budget.stats(),
        )
