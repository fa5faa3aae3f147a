"""The lane: one budget and the queue before it, with one timer. It waits; `_core` decides."""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._control.breaker import BILLING_EVERY
from throttled_openai._control.budget import Budget
from throttled_openai._control.concurrency import ConcurrencyLimit
from throttled_openai._control.cost_model import CostModel
from throttled_openai._protocol.account import NO_ACCOUNT
from throttled_openai._protocol.headers import NOTHING, read_limits
from throttled_openai._stats import BudgetStats, spell
from throttled_openai.errors import AdmissionTimeout, QueueFull

from .gate import Gate
from .home import post
from .notices import say
from .permit import Call, Outcome, Permit
from .queue import Queue, Waiter

if TYPE_CHECKING:
    import asyncio
    import weakref
    from collections.abc import Callable

    from throttled_openai._limits import Limits
    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .home import Home
    from .throttle import Throttle

logger = logging.getLogger("throttled_openai")  # asked for its level; `_notices.say` logs

# Share of the refill that belongs to the oldest call while it is too large to go; the other share
# lets smaller ones pass.
SAVED: Final = 0.5
# Smaller ones pass only a call that still has to wait for so long (seconds).
PASSABLE: Final = 1.0
# While a rate is being learnt, how long a delay holds before it is looked at again (seconds).
LEARNING: Final = 1.0
# Permits given in one go. A burst of hundreds would hold the event loop; and as the SDK takes a
# millisecond to send each, what was reserved first would be sent together with what is reserved later.
AT_ONCE: Final = 32
# Turns of the event loop after which every refusal has been heard that had arrived when they began: one reads the
# socket, one hands the response to its task, and one is to spare. A loop that is busy, with hundreds of answers at
# once, would otherwise take several steps up while the refusals of the first lie unread.
TURNS: Final = 3
# After a refusal for billing, seconds in which no call is sent; then one tries.
BLOCKED: Final = BILLING_EVERY


class Limiter:
    """One budget, its concurrency limit, and the queue before them."""

    def __init__(self, throttle: Throttle, name: str, limits: Limits | None, account: Account = NO_ACCOUNT) -> None:
        self.throttle = throttle
        self.account = account
        self.name = name
        self.budget = Budget(limits)
        self.concurrency = ConcurrencyLimit(throttle.max_concurrency, throttle.most_in_flight)
        self.limit = self.concurrency.value()
        self.in_flight = 0
        self.used_at = -math.inf
        self.admitted = self.succeeded = self.refused = self.tokens_used = 0
        self.queue = Queue()
        self._costs = CostModel()
        self.outstanding = 0.0  # tokens reserved for attempts in flight
        self.tokens_per_call = 0.0  # smoothed, to tell what request rate a token limit comes to
        self._saving: tuple[Waiter, float, float] | None = None  # who is too large, since when, tokens it began with
        self._busy = 0.0  # integral of attempts in flight over time
        self._busy_at = -math.inf
        self.gate = Gate(self)
        self._timer: asyncio.Handle | None = None
        self._wakes_at = math.inf
        self._turns = 0  # of the event loop, until all that had arrived is heard
        self._learned()

    # Admission

    def enter(self, call: Call) -> Permit | Waiter | float:
        """A permit, if `call` may go now, or else its place in line, or seconds in which it is to stay out of it."""
        loop = self.throttle.loop
        self.used_at = now = loop.time()
        order = call.order
        new = order is None
        self._price(call)
        if call.provider.hosted:
            self.concurrency.ignore_latency()
        self.gate.check_size(call, now)
        if order is None:
            # What stalls an event loop goes first: the places it waits for may be held by calls of that loop.
            priority = sys.maxsize if call.stalls else call.manners.priority
            order = call.order = (-priority, next(self.throttle.arrivals))
        self.gate.check(call, now)
        rest = self._rest(call, now)
        if rest > 0:
            return rest
        if not self.queue.waiting and self._may_go(call, now):
            return self._grant(call, now)
        if new:
            self._check_queue(call, now)
        waiter = Waiter(call, order, now, loop.create_future())
        waiter.lane = self
        self.throttle.in_line.add(self)
        # Behind others nothing has changed: the timer is set for the oldest. Looking again would also
        # admit on what refills while a large gather starts, long before the loop sends any of it.
        if self.queue.add(waiter) or waiter.deadline < self._wakes_at:
            self.admit_waiting()
        return waiter

    def _rest(self, call: Call, now: float) -> float:
        """Seconds that a refused call stays out of the queue before it enters again; once for each refusal."""
        seconds = 0.0 if call.rested == call.refusals else self.gate.rest(call, now)
        if seconds <= 0:
            return 0.0
        call.rested = call.refusals
        most = call.manners.max_wait
        if most is not None and call.waited + seconds >= most:
            why = f"{self.name} answers nobody" if call.rests is None else f"{self.name} refuses some calls"
            raise AdmissionTimeout(max_wait=most, waited=call.waited, ahead=0, reason=why)
        return seconds

    def abandon(self, waiter: Waiter) -> None:
        """Nobody waits for the permit any more."""
        future = waiter.future
        if future.cancel() or future.cancelled():
            if waiter.queue is self.queue:
                self.queue.left()
                self.admit_waiting()
        elif future.exception() is None:
            permit = future.result()
            if permit is not None:
                # Cancelled in the very tick it was admitted: nobody else will use this permit.
                self.throttle.settle(self, permit, Outcome.UNSENT)

    def admit_waiting(self) -> None:
        """Admit the oldest while it may go; smaller ones may pass one that is too large for now.

        Called whenever something may have changed: a new waiter, a settled permit, a passed
        instant, a corrected budget.
        """
        queue = self.queue
        if not queue.waiting and self._timer is None:
            return
        now = self.throttle.loop.time()
        wake_at = now  # should anything fail, look again
        try:
            for waiter in queue.expired(now):
                _resolve(waiter.future, self._timeout, waiter, now)
            queue.clear_away()
            wake_at = self._admit_waiting(now)
        finally:
            if not queue.waiting:
                self.throttle.in_line.discard(self)
            self._set_timer(min(wake_at, queue.next_deadline()))

    def _admit_waiting(self, now: float) -> float:
        """Admit those who may go; returns when to look again."""
        queue = self.queue
        look_at = self.gate.look(now) if queue.waiting else math.inf
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
            again = self._look_for_room(now)
            if again is not None:
                oldest = [waiter for waiter in oldest if waiter.call.stalls]
            if not oldest:
                wake_at = min(again or math.inf, self.throttle.stuck_at(now))
                break
            held = self.gate.delay(now)
            if held > 0:
                wake_at = now + held
                break
            try:
                chosen, delay = self._next(oldest, now)
            except Exception as error:  # noqa: BLE001  # ours; the others are not to wait for it
                queue.take(oldest[0])
                oldest[0].future.set_exception(error)
                continue
            if chosen is None:
                wake_at = now + (min(delay, LEARNING) if self.budget.learning else delay)
                wake_at = max(now, min(wake_at, look_at))
                self.gate.warn_of_wait(oldest[0], delay, now)
                break
            queue.take(chosen)
            _resolve(chosen.future, self._grant, chosen.call, now)
            given += 1
        return wake_at

    def _next(self, oldest: list[Waiter], now: float) -> tuple[Waiter | None, float]:
        """Who goes now; or nobody, and the seconds until somebody may."""
        if self.gate.breaker.finding_out:  # the one that finds out: a small call is refused for nothing of its own
            oldest = [min(oldest, key=lambda waiter: waiter.size)]
        head = oldest[0]
        self._price(head.call)  # what it costs may have been learnt since it came
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

    def _has_room(self) -> bool:
        limit = self.throttle.max_concurrency if self.gate.aside else self.limit
        return self.in_flight < limit and self.throttle.has_room()

    def _look_for_room(self, now: float) -> float | None:
        """None where there is room for one more; else the instant at which to look again.

        Where the concurrency limit is what holds calls back, it may grow by their waiting.
        """
        if self._has_room():
            return None
        if self.in_flight >= self.throttle.most_in_flight - 1:
            self.throttle.held_by_its_ceiling()
        if self.in_flight < self.limit:
            return math.inf  # the ceiling of all models together
        if self._turns:
            return math.inf
        again = self.concurrency.look(now)
        if self.concurrency.value() > self.limit:
            self._listen()
        self.limit = self.concurrency.value()
        if self._has_room():
            return None
        return math.inf if again is None else now + again

    def _listen(self) -> None:
        """Let the event loop read what has arrived, before the limit grows again."""
        self._turns = TURNS
        self.throttle.loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._turns > 1:
            self._turns -= 1
            self.throttle.loop.call_soon(self._turn)
            return
        self._turns = 0
        self.concurrency.grow(self.throttle.loop.time())
        self.limit = self.concurrency.value()
        self.admit_waiting()

    def _may_go(self, call: Call, now: float) -> bool:
        return self._has_room() and self.gate.delay(now) <= 0 and self.budget.delay(call.tokens, now) <= 0

    def _grant(self, call: Call, now: float) -> Permit:
        reservation = self.budget.reserve(call.tokens, now)
        busy = self._pass_time(now)
        self.in_flight += 1
        self.outstanding += call.tokens
        self.admitted += 1
        self.tokens_per_call += (call.tokens - self.tokens_per_call) * max(0.02, 1 / self.admitted)
        permit = Permit(
            self, call, reservation, busy, self.in_flight, binding=self.in_flight >= math.floor(0.9 * self.limit)
        )
        self.gate.sent(permit, self.admitted, now)
        self.throttle.admitted(permit)
        return permit

    def _pass_time(self, now: float) -> float:
        """The integral of attempts in flight over time, to tell how many an attempt had beside it."""
        if self._busy_at > -math.inf:
            self._busy += self.in_flight * (now - self._busy_at)
        self._busy_at = now
        return self._busy

    def _price(self, call: Call) -> None:
        """What an attempt of `call` costs, by what is known now."""
        if call.estimate is not None:
            call.tokens = self._costs.cost(call.estimate, call.provider)

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
            ahead=self.queue.ahead_of(waiter),
            reason=self._holds_back(waiter.call, now),
        )

    def _holds_back(self, call: Call, now: float) -> str:
        delay = self.budget.delay(call.tokens, now)
        if delay > 0:
            window = self.budget.used_up(call.tokens)
            why = "" if window is None else f": {window} are used up"
            return f"{self.name} has budget for this one alone in {spell(delay)}{why}"
        held = self.gate.delay(now)
        if held > 0:
            return f"{self.name} sends nothing for {spell(held)} after what the server refused"
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
            self._timer, self._wakes_at = self.throttle.call_at(at, self._wake), at

    def _wake(self) -> None:
        self._timer, self._wakes_at = None, math.inf
        if self.throttle.may_be_stuck and not self._has_room():
            self.throttle.collect_dropped_streams()
        self.admit_waiting()

    # Settlement

    def settle(self, permit: Permit, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        """End an attempt. `response`: what the server refused it with."""
        try:
            self._settle(permit, outcome, refusal, response)
        finally:
            # What the server said may be too odd for what reads it: that may cost one call, not those that wait.
            self.throttle.admit_waiting(self)

    def started(self, permit: Permit) -> None:
        """The server has begun to answer, with a stream."""
        if not permit.settled:
            permit.counted = True
            self.throttle.streams += 1
            self.gate.started(permit, self.throttle.loop.time())
            self.admit_waiting()  # its headers may have told of higher limits

    def _settle(self, permit: Permit, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        now = self.throttle.loop.time()
        reservation, budget = permit.reservation, permit.budget
        busy = self._pass_time(now)
        self.in_flight -= 1
        self.outstanding -= reservation.tokens
        number = self.gate.ended(permit)
        self.throttle.moved(now)
        took = max(0.0, now - reservation.at)  # another loop's clock may be behind
        if permit.usage is not None:
            self._settle_usage(permit, permit.usage)
        if outcome is Outcome.SUCCESS:
            self._succeeded(permit, number, busy, took, now)
        elif outcome is Outcome.UNSENT:
            budget.refund(reservation, request=True)
        elif outcome is Outcome.REFUSED:
            assert refusal is not None
            self.refused += 1
            self._refused(permit, number, refusal, response, now)
        elif outcome is Outcome.OVERLOADED:
            self.gate.timed_out(reservation.at, now)
            if not self.gate.aside:
                self.concurrency.failed(reservation.number, budget.newest, now, took)
        if outcome is not Outcome.REFUSED:
            self.gate.failed(number, now)
        self.limit = self.concurrency.value()
        if logger.isEnabledFor(logging.DEBUG):
            self._log(permit, outcome, took)

    def _succeeded(self, permit: Permit, number: int, busy: float, took: float, now: float) -> None:
        self.succeeded += 1
        self.gate.succeeded(number, permit.call, now)
        if not self.throttle.late or self.concurrency.latency is None:
            beside = (busy - permit.busy) / took if took > 0 else self.in_flight
            self.concurrency.succeeded(
                permit.reservation.number,
                permit.reservation.at,
                took,
                beside,
                crowd=permit.crowd,
                binding=permit.binding,
            )
            if self.concurrency.may_grow and not self._turns:
                self._listen()
        permit.budget.succeeded(permit.reservation, now)

    def _log(self, permit: Permit, outcome: Outcome, took: float) -> None:
        say(
            logging.DEBUG,
            "%s: attempt %s after %.3f s, %d tokens estimated; %d in flight of %d, %d waiting",
            self.name,
            outcome.value,
            took,
            permit.call.tokens,
            self.in_flight,
            self.limit,
            self.queue.waiting,
        )

    def _refused(self, permit: Permit, number: int, refusal: Refusal, response: Any, now: float) -> None:
        call, reservation, budget = permit.call, permit.reservation, permit.budget
        # What a response of status 200 announced was seen when it began.
        told = NOTHING if response is None or response.status_code < 400 else read_limits(response.headers)
        if call.estimate is not None and refusal.requested is not None and refusal.dimension == "tokens":
            self._costs.learn_requested(refusal.requested, call.estimate, call.provider)
        if refusal.group is not None:
            self.throttle.share(self, refusal.group)
        rates = budget.request_rate, budget.token_rate
        if self.gate.judges(call, number, refusal, response, reservation.at, now):
            if not self.gate.aside:
                budget.observe(told, reservation, now, refused=True)
            budget.refund(reservation, request=False)
        else:
            self._slow_down(permit, refusal, response, told, now)
        if rates != (budget.request_rate, budget.token_rate):
            self._learned()

    def _slow_down(self, permit: Permit, refusal: Refusal, response: Any, told: Announcement, now: float) -> None:
        """Tell a refusal to what may have caused it: too many attempts in flight, or a rate."""
        reservation, budget = permit.reservation, permit.budget
        room, rate = self._suspects(permit, refusal, response)
        jitter, event, believed = self.throttle.random(), False, False
        if room:
            took = now - reservation.at
            event = self.concurrency.refused(reservation.number, budget.newest, self.in_flight, now, took)
            believed = self.concurrency.believes
        if rate:
            event = budget.refused(refusal, told, reservation, now, jitter=jitter, sure=not room)
            believed = True
        else:  # for lack of room; or, as less in flight has not helped, for neither
            budget.lacked_room(refusal, told, reservation, now, idle=not self.in_flight, jitter=jitter)
            if event and refusal.kind == "rate":
                budget.tighten(now)
        permit.call.rests = None if believed else refusal.retry_after or 0.0
        if event:
            say(
                logging.INFO,
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
            room, rate = permit.budget.diagnosis.suspects(refusal, limit_was_binding=binding, calm=concurrency.is_calm)
        if room and refusal.kind == "rate":
            if permit.crowd == 1:  # there is no server without room for one
                return False, True
            # At a rate that is known it is rather the room that has changed.
            if concurrency.has_served_more(permit.crowd, lately=permit.budget.knows_a_rate):
                concurrency.take_back()
                return False, True
        if room and concurrency.in_vain(number, permit.budget.newest):
            return False, rate or refusal.kind == "rate" or refusal.slow_down
        return room, rate

    def fail_waiting(self, which: Callable[[Call], bool], make: Callable[[], Exception]) -> int:
        """Fail those that wait, if they are among `which`, each with an error of its own; returns how many."""
        make()  # should that fail, they are still in the queue
        staying = []
        waiters = self.queue.clear()
        for waiter in waiters:
            if which(waiter.call):
                _resolve(waiter.future, make)
            else:
                staying.append(waiter)
        for waiter in staying:
            self.queue.add(waiter)
        return len(waiters) - len(staying)

    def observe(self, announcement: Announcement, permit: Permit | None = None) -> None:
        """Learn the limits a response announced; without a permit, one that needed none."""
        if announcement.requests or announcement.tokens or (permit is not None and self.budget.doubts):
            self._observe(announcement, permit, self.throttle.loop.time())

    def _observe(self, announcement: Announcement, permit: Permit | None, now: float) -> None:
        rates = self.budget.request_rate, self.budget.token_rate
        if permit is None:
            self.budget.observe(announcement, None, now)
        else:
            call, reservation = permit.call, permit.reservation
            # Where usage is charged, what is in flight has yet to be taken from what is left.
            deferred = self.outstanding - reservation.tokens if call.provider.charges == "usage" else None
            self.budget.observe(announcement, reservation, now, deferred_charge=deferred)
            if call.estimate is not None:
                self._costs.learn_level(announcement, reservation.number, reservation.at, call.estimate, call.provider)
        if rates != (self.budget.request_rate, self.budget.token_rate):
            self._learned()
            say(logging.INFO, "%s: limits are now %s", self.name, ", ".join(map(str, self.budget.stats())))

    def count_usage(self, permit: Permit, usage: Usage) -> None:
        """The server reported what an attempt used, in the middle of its stream or after its end."""
        before = permit.usage
        permit.usage = usage
        self.tokens_used += usage.input + usage.output - (0 if before is None else before.input + before.output)
        if permit.settled and before is None:
            self._settle_usage(permit, usage)
            self.throttle.admit_waiting(self)

    def _settle_usage(self, permit: Permit, usage: Usage) -> None:
        """Replace the estimate by the use, where the provider does."""
        call = permit.call
        if call.estimate is not None:
            final = self._costs.settled_cost(call.estimate, call.provider, usage)
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
        if tokens is not None and self.tokens_per_call > 0:
            by_tokens = tokens / self.tokens_per_call
            rate = by_tokens if rate is None else min(rate, by_tokens)
        return rate

    def move(self, old: asyncio.AbstractEventLoop, *, same_clock: bool) -> None:
        """Go on on the running loop: calls that wait on `old` ask again there, those in flight stay counted."""
        if self._timer is not None:
            post(old, self._timer.cancel)
        self._timer, self._wakes_at, self._saving, self._turns = None, math.inf, None, 0
        self.budget.rebind(same_clock=same_clock)
        self.gate.rebind()
        if not same_clock:
            self._costs.rebind()
            self._busy_at = self.used_at = -math.inf
        left, self.queue = self.queue, Queue()
        for waiter in left.clear():
            post(old, _ask_again, waiter.future)

    def forget(self, permit: Permit) -> None:
        """An attempt whose event loop has ended will never be settled."""
        self._pass_time(self.throttle.loop.time())
        self.in_flight -= 1
        self.outstanding -= permit.reservation.tokens
        self.gate.failed(self.gate.ended(permit), self.throttle.loop.time())

    def forget_waiting(self, homes: set[weakref.ref[Home]]) -> None:
        """Calls that wait for event loops that have ended."""
        if self.throttle.loop.is_closed():
            self.queue = Queue()
        for waiter in self.queue.all():
            if waiter.call.home in homes:
                waiter.future.cancel()

    @property
    def is_idle(self) -> bool:
        return not (self.in_flight or self.queue.waiting or self._timer)

    @property
    def configured_rate(self) -> float | None:
        """Calls per second by the limits that the user configured."""
        configured = self.budget.configured
        rates = [] if configured["requests"] is None else [configured["requests"]]
        if configured["tokens"] is not None and self.tokens_per_call > 0:
            rates.append(configured["tokens"] / self.tokens_per_call)
        return min(rates, default=None)

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
            tokens_per_call=self.tokens_per_call,
        )


def _ask_again(future: asyncio.Future[Permit | None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve(future: asyncio.Future[Permit | None], make: Callable[..., Any], *args: Any) -> None:
    """End a wait with what `make` makes, a permit or an error; if that fails, with its failure.

    Its waiter has left the queue: nobody else would ever end it.
    """
    try:
        made = make(*args)
    except BaseException as error:  # noqa: BLE001
        made = error
    if isinstance(made, BaseException):
        future.set_exception(made)
    else:
        future.set_result(made)
