"""The limiter: one budget, its concurrency limit, and the queue before them."""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._control.budget import Budget
from throttled_openai._control.concurrency import ConcurrencyLimit
from throttled_openai._control.cost_model import CostModel
from throttled_openai._protocol.headers import NOTHING, read_limits
from throttled_openai._seeing.events import Admitted, Charged, Left, Refused, Settled, Subscribers, Waiting
from throttled_openai._seeing.explanation import explain
from throttled_openai._stats import BudgetStats, spell
from throttled_openai.errors import AdmissionTimeout, QueueFull

from .call import Call, Outcome
from .changes import Changes
from .diagnosis import suspects
from .figures import Figures, pause_of, windows_of
from .gate import Gate
from .home import post
from .notices import say
from .overtaking import Overtaking
from .permit import Attempt, Permit
from .queue import Queue, Waiter, resolve
from .rates import Rates
from .timer import Timer

if TYPE_CHECKING:
    import asyncio
    import weakref
    from collections.abc import Callable, Mapping

    from throttled_openai._limits import Limits
    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.headers import Announcement, Dimension
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .home import Home
    from .in_flight import InFlight
    from .permit import PermitOwner

logger = logging.getLogger("throttled_openai")  # asked for its level only; `notices.say` logs

# The longest delay, in seconds, before looking again while a rate is being learnt.
LEARNING: Final = 1.0
# Permits granted in one pass. A burst of hundreds would hold the event loop; and as the SDK takes a
# millisecond to send each, the first reservations would be sent together with later ones.
MAX_GRANTS_PER_PASS: Final = 32
# Turns of the event loop that process every refusal that has arrived: one reads the socket, one passes the response
# to its task, and one is spare. On a busy loop, with hundreds of answers at once, the limit would otherwise grow
# several times while refusals lie unread.
TURNS: Final = 3


class Limiter:
    """One budget, its concurrency limit, and the queue before them.

    It has no clock and no timer of its own: each method is given the instant `now`, and says, where that
    matters, when it is to be called again.
    """

    def __init__(  # noqa: PLR0917  # made once, by position
        self,
        name: str,
        limits: Limits | None,
        account: Account,
        in_flight: InFlight,
        owner: PermitOwner,
        subscribers: Subscribers | None = None,
        *,
        enforced: bool = True,
    ) -> None:
        """`in_flight`: of all models together. `owner`: of the permits; it receives what happens to them.

        `enforced`: False if calls are only observed.
        """
        self.account = account
        self.name = name
        self.budget = Budget(limits)
        self.concurrency = ConcurrencyLimit(in_flight.unproven_ceiling, in_flight.ceiling)
        self.limit = self.concurrency.value()
        self.in_flight = 0
        self.used_at = -math.inf
        self.admitted = self.succeeded = self.refused = self.tokens_used = 0
        self.queue = Queue()
        self.timer = Timer()
        self.rates = Rates(self.budget)
        self.gate = Gate(name, self.queue, self.rates)
        self.enforced = enforced
        self.figures = Figures()
        self.subscribers = subscribers or Subscribers()
        self.outstanding = 0.0  # tokens reserved for attempts in flight
        self.turns = 0  # of the event loop, until the limit may grow again; counted down by `turn`
        self.lacks_room = False  # whether the last pass ended for lack of places in flight
        self._owner = owner
        self._all_in_flight = in_flight
        self._costs = CostModel()
        self._overtaking = Overtaking()
        self._occupancy = 0.0  # integral of attempts in flight over time
        self._occupancy_at = -math.inf
        self._learned()
        self._changes = Changes(self.subscribers, self.budget, self.limit)

    # Admission

    def enter(
        self,
        call: Call,
        arrival: Callable[[], int],
        jitter: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        now: float,
    ) -> Permit | Waiter | float:
        """A permit if `call` may go now; else a waiter, not yet queued; else seconds to stay out of the queue.

        `arrival` numbers the calls of all limiters.
        """
        self.used_at = now
        if not self.enforced:
            return self._observe_only(call, arrival, now)
        order = call.order
        new = order is None
        self._price(call)
        if call.provider.hosted:
            self.concurrency.ignore_latency()
        self.gate.check_size(call, now)
        if order is None:
            # A call that stalls an event loop goes first: calls of that loop may hold the places it waits for.
            priority = sys.maxsize if call.stalls else call.queue_options.priority
            order = call.order = (-priority, arrival())
        self.gate.check(call, now)
        rest = self._rest(call, now, jitter)
        if rest > 0:
            return rest
        if not self.queue.waiting and self._may_go(call, now):
            return self._grant(call, now)
        if new:
            self._check_queue(call, now)
        return Waiter(call, order, now, loop.create_future())

    def _observe_only(self, call: Call, arrival: Callable[[], int], now: float) -> Permit:
        """Grant at once; count how long the call would have waited, or that it would have failed."""
        self._price(call)
        call.order = call.order or (0, arrival())
        queued, most = 0.0, call.queue_options.max_wait
        try:
            self.gate.check_size(call, now)
            self.gate.check(call, now)
            busy = self.in_flight + 1 - self.limit
            by_room = busy * (self.concurrency.latency or 0.0) / self.limit
            queued = max(by_room, self.gate.delay(now), self.budget.delay(call.tokens, now))
            self.figures.turned_away += most is not None and queued > most
        except Exception:  # noqa: BLE001  # the errors of calls that must not wait
            self.figures.turned_away += 1
        if self.concurrency.value() < self.in_flight:
            self.concurrency.look(now)  # grows as if calls waited for it
        call.queued = queued
        return self._grant(call, now)

    def _rest(self, call: Call, now: float, jitter: Callable[[], float]) -> float:
        """Seconds a refused call stays out of the queue before it enters again; asked once for each refusal."""
        seconds = 0.0 if call.rested == call.refusals else self.gate.rest(call, now, jitter())
        if seconds <= 0:
            return 0.0
        call.rested = call.refusals
        most = call.queue_options.max_wait
        if most is not None and call.waited + seconds >= most:
            why = f"{self.name} answers no call" if call.rests is None else f"{self.name} refuses some calls"
            raise AdmissionTimeout(max_wait=most, waited=call.waited, ahead=0, reason=why)
        return seconds

    def abandon(self, waiter: Waiter) -> Permit | None:
        """The task of `waiter` is cancelled. Returns the permit that it was granted in the same tick."""
        future = waiter.future
        if future.cancel() or future.cancelled():
            if waiter.queue is self.queue:
                self.queue.left(waiter.tokens)
            self._tell_left(waiter, "cancelled")
        elif (error := future.exception()) is None:
            permit: Permit | None = future.result()
            return permit
        else:
            self.figures.turned_away += 1
            self._tell_left(waiter, type(error).__name__)
        return None

    def _tell_left(self, waiter: Waiter, reason: str) -> None:
        if self.subscribers.callbacks:
            call, now = waiter.call, waiter.future.get_loop().time()
            event = Left(now, self.name, waiter.order[1], now - waiter.since, reason)
            self.subscribers.tell(event, call.context)

    def entered(self, waiter: Waiter) -> None:
        """`waiter` has been added to the queue."""
        if self.subscribers.callbacks:
            event = Waiting(waiter.since, self.name, waiter.order[1], waiter.tokens, self.queue.waiting)
            self.subscribers.tell(event, waiter.call.context)

    def admit_waiting(self, now: float) -> float:
        """Admit the oldest calls that may go; returns the instant to look again, deadlines aside."""
        queue = self.queue
        for waiter in queue.expired(now):
            resolve(waiter.future, self._timeout, waiter, now)
        queue.clear_away()
        self.lacks_room = False
        look_at = self.gate.look(now) if queue.waiting else math.inf
        granted = 0
        while queue.waiting:
            if granted == MAX_GRANTS_PER_PASS:
                return now
            oldest = queue.oldest()
            if not oldest:
                return now  # too many are cancelled to clear away in one go
            again = self._look_for_room(now)
            if again is not None:
                oldest = [waiter for waiter in oldest if waiter.call.stalls]
            if not oldest:
                self._lacks_room(now)
                return again or math.inf
            held = self.gate.delay(now)
            if held > 0:
                return now + held
            try:
                chosen, delay = self._next(oldest, now)
            except Exception as error:  # noqa: BLE001  # a bug of ours; the others must not wait for it
                queue.take(oldest[0])
                oldest[0].future.set_exception(error)
                continue
            if chosen is None:
                wake_at = now + (min(delay, LEARNING) if self.budget.learning else delay)
                self._warn_of_wait(oldest[0], delay, now)
                return max(now, min(wake_at, look_at))
            queue.take(chosen)
            chosen.call.queued = now - chosen.since
            resolve(chosen.future, self._grant, chosen.call, now)
            granted += 1
        return math.inf

    def _next(self, oldest: list[Waiter], now: float) -> tuple[Waiter | None, float]:
        """The call that goes now; or None, and the seconds until one may."""
        if self.gate.breaker.finding_out:  # a small call probes: it is less likely to be refused for its own size
            oldest = [min(oldest, key=lambda waiter: waiter.size)]
        self._price(oldest[0].call)  # the price of tokens may have changed since it came
        return self._overtaking.next(oldest, self.budget, now)

    def has_room(self) -> bool:
        """Whether one more attempt may be in flight."""
        limit = self._all_in_flight.unproven_ceiling if self.gate.aside else self.limit
        return self.in_flight < limit and self._all_in_flight.has_room()

    def _look_for_room(self, now: float) -> float | None:
        """None if there is room for one more attempt; else the instant at which to look again.

        The concurrency limit may grow because calls wait for it.
        """
        if self.has_room():
            return None
        if self.in_flight < self.limit:
            return math.inf  # the ceiling of all models together
        if self.turns:
            return math.inf
        again = self.concurrency.look(now)
        limit = self.concurrency.value()
        if limit != self.limit:
            self.turns = TURNS if limit > self.limit else self.turns
            self.limit = limit
            self._note_changes(now)
        if self.has_room():
            return None
        return math.inf if again is None else now + again

    def turn(self, now: float) -> bool:
        """A turn of the event loop has passed. Returns whether it was the last one that had to."""
        self.turns = max(0, self.turns - 1)
        if self.turns:
            return False
        self.concurrency.grow(now)
        limit = self.concurrency.value()
        if limit != self.limit:
            self.limit = limit
            self._note_changes(now)
        return True

    def _may_go(self, call: Call, now: float) -> bool:
        return self.has_room() and self.gate.delay(now) <= 0 and self.budget.delay(call.tokens, now) <= 0

    def _grant(self, call: Call, now: float) -> Permit:
        reservation = self.budget.reserve(call.tokens, now)
        occupancy = self._pass_time(now)
        self.in_flight += 1
        self.outstanding += call.tokens
        self.admitted += 1
        rates = self.rates
        rates.tokens_per_call += (call.tokens - rates.tokens_per_call) * max(0.02, 1 / self.admitted)
        limit_was_binding = self.in_flight >= math.floor(0.9 * self.limit)
        attempt = Attempt(call, self.budget, reservation, occupancy, self.in_flight, limit_was_binding)
        self.gate.sent(attempt, self.admitted, now)
        self._all_in_flight.attempts.add(attempt)
        call.attempts += 1
        queued, call.queued = call.queued, 0.0
        self.figures.latest.append(queued)
        if self.subscribers.callbacks:
            assert call.order is not None
            waited = call.waited + queued
            event = Admitted(now, self.name, call.order[1], call.attempts, call.tokens, waited, queued)
            self.subscribers.tell(event, call.context)
        return Permit(self._owner, attempt)

    def _pass_time(self, now: float) -> float:
        """The integral of attempts in flight over time, which gives the mean in flight during an attempt."""
        if self._occupancy_at > -math.inf:
            self._occupancy += self.in_flight * (now - self._occupancy_at)
        self._occupancy_at = now
        return self._occupancy

    def _price(self, call: Call) -> None:
        """Set what an attempt of `call` costs, by the latest knowledge."""
        if call.estimate is not None:
            call.tokens = self._costs.cost(call.estimate, call.provider)

    def _check_queue(self, call: Call, now: float) -> None:
        # Only a new call is turned away: a refused one has waited its turn before.
        most = call.queue_options.max_queued
        waiting = self.queue.waiting
        if most is not None and waiting >= most:
            delay = self.budget.delay(call.tokens, now)
            rate = self.rates.known
            if rate is not None:
                delay += (waiting - 1) / rate
            raise QueueFull(max_queued=most, waiting=waiting, retry_after=delay or self.concurrency.latency or 1.0)

    # Time

    def _timeout(self, waiter: Waiter, now: float) -> AdmissionTimeout:
        return AdmissionTimeout(
            max_wait=waiter.call.queue_options.max_wait or 0.0,
            waited=waiter.call.waited + now - waiter.since,
            ahead=self.queue.ahead_of(waiter),
            reason=self._reason_to_wait(waiter.call, now),
        )

    def _note_changes(self, now: float) -> None:
        """Say what has changed, if anyone listens."""
        if self.subscribers.callbacks or logger.isEnabledFor(logging.INFO):
            self._changes.look(self.gate, self.limit, now)

    def _lacks_room(self, now: float) -> None:
        self.lacks_room = True
        latency = self.concurrency.latency
        self.gate.warn_of_queue(latency and self.limit / latency, lambda: self._why(now), now)

    def _warn_of_wait(self, oldest: Waiter, delay: float, now: float) -> None:
        if not self.gate.warn_of_wait(oldest, delay, now):
            self.gate.warn_of_queue(self.rates.known, lambda: self._why(now), now)

    def _why(self, now: float) -> str:
        """What holds the queue back."""
        return explain(self.stats(now), self.queue.next_tokens()).why

    def _reason_to_wait(self, call: Call, now: float) -> str:
        if self.gate.held_until > now:
            return f"{self.name} is {pause_of(self.gate, now)}"
        delay = self.budget.delay(call.tokens, now)
        if delay > 0:
            window = self.budget.used_up(call.tokens)
            why = "" if window is None else f": {window} are used up"
            return f"{self.name} has budget for this one alone in {spell(delay)}{why}"
        held = self.gate.delay(now)
        if held > 0:
            return f"{self.name} sends nothing for {spell(held)} because of earlier refusals"
        every = self._all_in_flight
        if not every.has_room():
            return (
                f"all models together have {len(every.attempts)} calls in flight "
                f"of {every.ceiling}; max_concurrency= changes that"
            )
        return f"{self.name} has {self.in_flight} calls in flight of {self.limit}"

    # Settlement

    def settle(  # noqa: PLR0917
        self,
        attempt: Attempt,
        outcome: Outcome,
        refusal: Refusal | None,
        response: Any,
        now: float,
        jitter: Callable[[], float],
        *,
        late: bool,
    ) -> None:
        """End an attempt. `response`: the one that refused it. `late`: latencies mean nothing, as the loop lags."""
        reservation, budget = attempt.reservation, attempt.budget
        occupancy = self._pass_time(now)
        self.in_flight -= 1
        self.figures.settled += 1
        self.outstanding -= reservation.tokens
        number = self.gate.ended(attempt)
        elapsed = max(0.0, now - reservation.at)  # another loop's clock may be behind
        if attempt.usage is not None:
            self._settle_usage(attempt, attempt.usage)
        if outcome is Outcome.SUCCESS:
            self._succeeded(attempt, number, occupancy, elapsed, now, late=late)
        elif outcome is Outcome.UNSENT:
            budget.refund(reservation, request=True)
        elif outcome is Outcome.REFUSED:
            assert refusal is not None
            self.refused += 1
            self.figures.refused_by[refusal.kind] += 1
            self._refused(attempt, number, refusal, response, now, jitter)
        elif outcome is Outcome.OVERLOADED:
            self.gate.timed_out(reservation.at, now)
            if not self.gate.aside:
                self.concurrency.failed(reservation.number, budget.newest, now, elapsed)
        if outcome is not Outcome.REFUSED:
            self.gate.failed(number, now)
        self.limit = self.concurrency.value()
        if logger.isEnabledFor(logging.DEBUG):
            self._log(attempt, outcome, elapsed)
        if self.subscribers.callbacks:
            self._tell_end(attempt, outcome, refusal, elapsed, now)
        self._note_changes(now)

    def _tell_end(
        self, attempt: Attempt, outcome: Outcome, refusal: Refusal | None, elapsed: float, now: float
    ) -> None:
        call = attempt.call
        assert call.order is not None
        number = call.order[1]
        if refusal is not None:
            asked = refusal.dimension, refusal.retry_after
            self.subscribers.tell(Refused(now, self.name, number, call.attempts, refusal.kind, *asked), call.context)
        self.subscribers.tell(Settled(now, self.name, number, call.attempts, outcome.value, elapsed), call.context)

    def _succeeded(
        self, attempt: Attempt, number: int, occupancy: float, elapsed: float, now: float, *, late: bool
    ) -> None:
        self.succeeded += 1
        self.gate.succeeded(number, attempt.call, now)
        if not late or self.concurrency.latency is None:
            mean = (occupancy - attempt.occupancy) / elapsed if elapsed > 0 else self.in_flight
            binding = attempt.limit_was_binding
            self.concurrency.succeeded(
                attempt.reservation.number, attempt.reservation.at, elapsed, mean, crowd=attempt.crowd, binding=binding
            )
            if self.concurrency.may_grow and not self.turns:
                self.turns = TURNS
        attempt.budget.succeeded(attempt.reservation, now)

    def _log(self, attempt: Attempt, outcome: Outcome, elapsed: float) -> None:
        say(
            logging.DEBUG,
            "%s: attempt %s after %.3f s, %d tokens estimated; %d in flight of %d, %d waiting",
            *(self.name, outcome.value, elapsed, attempt.call.tokens),
            *(self.in_flight, self.limit, self.queue.waiting),
        )

    def _refused(  # noqa: PLR0917
        self,
        attempt: Attempt,
        number: int,
        refusal: Refusal,
        response: Any,
        now: float,
        jitter: Callable[[], float],
    ) -> None:
        call, reservation, budget = attempt.call, attempt.reservation, attempt.budget
        # The limits announced by a response of status 200 were read when it began.
        announced = NOTHING if response is None or response.status_code < 400 else read_limits(response.headers)
        if call.estimate is not None and refusal.requested is not None and refusal.dimension == "tokens":
            self._costs.learn_requested(refusal.requested, call.estimate, call.provider)
        rates = budget.request_rate, budget.token_rate
        if self.gate.judges(call, number, refusal, response, reservation.at, now):
            if not self.gate.aside:
                budget.observe(announced, reservation, now, refused=True)
            budget.refund(reservation, request=False)
        else:
            self._slow_down(attempt, refusal, response, announced, now, jitter())
        if rates != (budget.request_rate, budget.token_rate):
            self._learned()

    def _slow_down(  # noqa: PLR0917
        self,
        attempt: Attempt,
        refusal: Refusal,
        response: Any,
        announced: Announcement,
        now: float,
        jitter: float,
    ) -> None:
        """Apply a refusal to its likely cause: too many attempts in flight, or a rate."""
        reservation, budget = attempt.reservation, attempt.budget
        room, rate = suspects(attempt, refusal, response, self.concurrency, self.limit)
        event, believed = False, False
        if room:
            elapsed = now - reservation.at
            event = self.concurrency.refused(reservation.number, budget.newest, self.in_flight, now, elapsed)
            believed = self.concurrency.believes
        if rate:
            event = budget.refused(refusal, announced, reservation, now, jitter=jitter, sure=not room)
            believed = True
        else:  # for lack of room; or for neither, as fewer in flight has not helped
            budget.lacked_room(refusal, announced, reservation, now, idle=not self.in_flight, jitter=jitter)
            if event and refusal.kind == "rate":
                budget.tighten(now)
        attempt.call.rests = None if believed else refusal.retry_after or 0.0

    def observe(self, announcement: Announcement, attempt: Attempt | None, now: float) -> None:
        """Learn the limits a response announced; without an attempt, one that needed no permit."""
        if not (announcement.requests or announcement.tokens or (attempt is not None and self.budget.doubts)):
            return
        rates = self.budget.request_rate, self.budget.token_rate
        if attempt is None:
            self.budget.observe(announcement, None, now)
        else:
            call, reservation = attempt.call, attempt.reservation
            # A provider that charges by usage has not yet subtracted the attempts in flight from the remainder.
            later = self.outstanding - reservation.tokens if call.provider.charges == "usage" else None
            self.budget.observe(announcement, reservation, now, deferred_charge=later)
            if call.estimate is not None:
                self._costs.learn_level(announcement, reservation.number, reservation.at, call.estimate, call.provider)
        if rates != (self.budget.request_rate, self.budget.token_rate):
            self._learned()
            self._note_changes(now)

    def count_usage(self, attempt: Attempt, usage: Usage) -> bool:
        """Take what the server reports as used, during a stream or after its end.

        Returns whether it came after settlement, so that waiting calls may go now.
        """
        before = attempt.usage
        attempt.usage = usage
        self.tokens_used += usage.input + usage.output - (0 if before is None else before.input + before.output)
        if attempt.settled and before is None:
            self._settle_usage(attempt, usage)
            return True
        return False

    def _settle_usage(self, attempt: Attempt, usage: Usage) -> None:
        """Replace the estimate by the usage, if the provider does."""
        call = attempt.call
        if call.estimate is not None:
            final = self._costs.settled_cost(call.estimate, call.provider, usage)
            if final is not None:
                estimated = attempt.reservation.tokens
                attempt.budget.settle(attempt.reservation, final)
                self.figures.charged(estimated, final)
                if self.subscribers.callbacks and call.order is not None:
                    event = Charged(self._occupancy_at, self.name, call.order[1], estimated, final)
                    self.subscribers.tell(event, call.context)

    def _learned(self) -> None:
        self.concurrency.expect(self.rates.known)
        self.limit = self.concurrency.value()

    # Changes of its surroundings

    def draw_on(self, budget: Budget) -> None:
        """Share the budget of another limiter from now on."""
        self.budget = self.rates.budget = budget

    def move(self, old: asyncio.AbstractEventLoop, *, same_clock: bool) -> None:
        """Continue on another loop: calls that wait on `old` enter again there, those in flight stay counted."""
        self.timer.cancel_on(old)
        self.turns = 0
        self._overtaking.reset()
        self.budget.rebind(same_clock=same_clock)
        self.gate.rebind()
        if not same_clock:
            self._costs.rebind()
            self._occupancy_at = self.used_at = -math.inf
        for waiter in self._replace_queue().clear():
            post(old, _enter_again, waiter.future)

    def _replace_queue(self) -> Queue:
        left = self.queue
        self.queue = self.gate.queue = Queue()
        return left

    def forget(self, homes: set[weakref.ref[Home]], now: float) -> list[Attempt]:
        """Forget the attempts of `homes`, which have ended: they will never be settled. Returns them."""
        gone = [attempt for attempt in self.gate.attempts() if attempt.call.home in homes]
        for attempt in gone:
            self._pass_time(now)
            self.in_flight -= 1
            self.outstanding -= attempt.reservation.tokens
            self.gate.failed(self.gate.ended(attempt), now)
        return gone

    def forget_waiting(self, homes: set[weakref.ref[Home]], *, closed: bool) -> None:
        """Drop the calls that wait for `homes`, which have ended. `closed`: so has the deciding loop."""
        if closed:
            self._replace_queue()
        self.queue.cancel_from(homes)

    @property
    def is_idle(self) -> bool:
        return not (self.in_flight or self.queue.waiting or self.timer.handle)

    def stats(self, now: float) -> BudgetStats:
        """The state; reads only, as the caller may be another thread."""
        figures = self.figures
        return BudgetStats(
            name=self.name,
            waiting=self.queue.waiting,
            in_flight=self.in_flight,
            concurrency_limit=self.limit,
            admitted=self.admitted,
            succeeded=self.succeeded,
            refused=self.refused,
            tokens_used=self.tokens_used,
            windows=windows_of(self.budget, now),
            tokens_per_call=self.rates.tokens_per_call,
            settled=figures.settled,
            refused_by=dict(figures.refused_by),
            turned_away=figures.turned_away,
            waiting_tokens=self.queue.tokens,
            pause=pause_of(self.gate, now),
            latency=self.concurrency.latency,
            estimate_error=figures.estimate_error,
            waits=figures.waits(),
            enforced=self.enforced,
            concurrency_found=self.concurrency.found,
        )

    # The user's changes

    def configure(self, now: float, rates: Mapping[Dimension, float | None]) -> None:
        """The user allows other rates per minute from now on."""
        for dimension, per_minute in rates.items():
            self.budget.configure(dimension, per_minute)
        self._learned()
        self._note_changes(now)

    def hold(self, seconds: float, now: float) -> None:
        """Send nothing for `seconds`; 0: go on."""
        self.gate.held_until = now + seconds if seconds else -math.inf
        if seconds:
            self._changes.paused(self.gate, now, seconds)


def _enter_again(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
