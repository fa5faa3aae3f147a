"""The lane: one budget and the queue before it, with one timer. It waits; `_core` decides."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from ._core.breaker import BILLING_EVERY, Breaker
from ._core.budget import Budget
from ._core.concurrency import ConcurrencyLimit
from ._core.headers import NOTHING, read_limits
from ._core.ledger import Ledger
from ._core.patience import LONGEST, LONGEST_WAIT, Patience
from ._core.stats import BudgetStats, spell
from ._exchange import OVERSIZE
from ._notices import Notices, say, until
from ._permit import Call, GivenUp, Outcome, Permit
from ._queue import Queue, Waiter
from .errors import AccountBlocked, AccountPaused, AdmissionTimeout, QueueFull, RequestTooLarge, refused_by

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ._core.breaker import Cause
    from ._core.estimate import Usage
    from ._core.headers import Announcement
    from ._core.limits import Limits
    from ._core.refusals import Refusal
    from ._throttle import Throttle

logger = logging.getLogger("throttled_openai")  # asked for its level; `_notices.say` logs

# Share of the refill that belongs to the oldest call while it is too large to go; the other share
# lets smaller ones pass.
SAVED: Final = 0.5
# Smaller ones pass only a call that still has to wait for so long (seconds).
PASSABLE: Final = 1.0
# While a rate is being learnt, how long a delay holds before it is looked at again (seconds).
LEARNING: Final = 1.0
# A wait of more than a minute is worth a warning; so are this many seconds of refusals alone.
LONG: Final = 60.0
SILENT: Final = 10.0
# Permits given in one go. A burst of hundreds would hold the event loop; and as the SDK takes a
# millisecond to send each, what was reserved first would be sent together with what is reserved later.
AT_ONCE: Final = 32
# After a refusal for billing, seconds in which no call is sent; then one tries.
BLOCKED: Final = BILLING_EVERY
# Of a lane that was answered this many seconds ago, one refusal does not prove that nobody is served.
RECENT: Final = 60.0
# While calls are larger than the announced limit, one goes every so often (seconds): the server decides.
LET_THROUGH: Final = 10.0


class Lane:
    """One budget, its concurrency limit, and the queue before them."""

    def __init__(self, throttle: Throttle, name: str, limits: Limits | None) -> None:
        self.throttle = throttle
        self._loop = throttle.loop
        self.name = name
        self.budget = Budget(limits)
        self.concurrency = ConcurrencyLimit(throttle.max_concurrency, throttle.most_in_flight)
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
        self._notices = Notices()
        self.breaker = Breaker()
        self._verdict: dict[str, Any] = {}  # what the refusal said for which the breaker is there
        self._refused_whole = True  # whether that came with its status, not in the middle of a stream
        self.patience = Patience()
        self._left: dict[Permit, tuple[float, int]] = {}  # attempts in flight: when they left, and as which
        self._largest_served = 0.0  # tokens of the largest call that was answered
        self._let_through_at = math.inf  # when the next call goes that is larger than the announced limit
        self.aside = False  # whether waiting has proved vain
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
        self._check_size(call, now)
        if order is None:
            order = call.order = (-call.manners.priority, next(self.throttle.arrivals))
        self._check_patience(call, now)
        self._check_breaker(call, now)
        if not self.queue.waiting and self._may_go(call, now):
            return self._grant(call, now)
        if new:
            self._check_queue(call, now)
        waiter = Waiter(call, order, now, loop.create_future())
        try:
            # Behind others nothing has changed: the timer is set for the oldest. Looking again would also
            # admit on what refills while a large gather starts, long before the loop sends any of it.
            if self.queue.add(waiter) or waiter.deadline < self._wakes_at:
                self.admit_waiting()
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
        wake_at = now  # should anything fail, look again
        try:
            for waiter in queue.expired(now):
                _resolve(waiter.future, self._timeout, waiter, now)
            wake_at = self._admit_waiting(now)
        finally:
            self._set_timer(min(wake_at, queue.next_deadline()))

    def _admit_waiting(self, now: float) -> float:
        """Admit those who may go; returns when to look again."""
        queue = self.queue
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
                if self.streams:
                    wake_at = now + self.throttle.stuck_for
                break
            held = self.breaker.delay(now)
            if held > 0:
                wake_at = now + held
                break
            chosen, delay = self._next(oldest, now)
            if chosen is None:
                wake_at = now + (min(delay, LEARNING) if self.budget.learning else delay)
                self._warn_of_long_wait(oldest[0].call, delay, now)
                break
            queue.take(chosen)
            _resolve(chosen.future, self._grant, chosen.call, now)
            given += 1
        return wake_at

    def _next(self, oldest: list[Waiter], now: float) -> tuple[Waiter | None, float]:
        """Who goes now; or nobody, and the seconds until somebody may."""
        if self.breaker.finding_out:  # the one that finds out: a small call is refused for nothing of its own
            oldest = [min(oldest, key=lambda waiter: waiter.size)]
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
        """A day's limit that is used up, or a server that asks for it, would hold calls without a word."""
        window = self.budget.used_up(call.tokens)
        waiting = self.queue.waiting
        if window is not None:
            amount = 1.0 if window.dimension == "requests" else self._tokens_per_call
            whole = delay + (waiting - 1) * amount * window.period / window.limit
            if whole > LONG and self._notices.due("window", now):
                say(
                    logging.WARNING,
                    "%s: %s are used up; the next call goes in %s (%s), all %d waiting in %s; "
                    "with max_wait= they fail instead",
                    *(self.name, window, spell(delay), until(delay), waiting, spell(whole)),
                )
        elif delay > LONG and self._notices.due("wait", now):
            asked = "the server asked for that" if self.budget.paused_until > now else "its limits are that low"
            say(
                logging.WARNING,
                "%s: the next call goes in %s (%s), %s; %d wait; with max_wait= they fail instead",
                *(self.name, spell(delay), until(delay), asked, waiting),
            )

    def _has_room(self) -> bool:
        limit = self.throttle.max_concurrency if self.aside else self.limit
        return self.in_flight < limit and self.throttle.has_room()

    def _may_go(self, call: Call, now: float) -> bool:
        return self._has_room() and self.breaker.delay(now) <= 0 and self.budget.delay(call.tokens, now) <= 0

    def _grant(self, call: Call, now: float) -> Permit:
        reservation = self.budget.reserve(call.tokens, now)
        busy = self._pass_time(now)
        self.in_flight += 1
        self.outstanding += call.tokens
        self.admitted += 1
        self._tokens_per_call += (call.tokens - self._tokens_per_call) * max(0.02, 1 / self.admitted)
        permit = Permit(self, call, reservation, busy, binding=self.in_flight >= math.floor(0.9 * self.limit))
        self._left[permit] = now, self.admitted
        self.breaker.sent(self.admitted, now)
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
            call.tokens = self._ledger.price(call.estimate, call.provider)

    def _check_size(self, call: Call, now: float) -> None:
        """A call that the server can never admit fails here; a limit may be a mistake, so one goes now and then."""
        largest = self.budget.largest_announced
        if call.tokens <= OVERSIZE * largest or (call.order is not None and not call.refusals):
            return
        if not call.refusals:
            if call.tokens <= OVERSIZE * self._largest_served:
                return
            if self._let_through_at <= now < math.inf:
                self._let_through_at = now + LET_THROUGH
                return
            self._let_through_at = min(self._let_through_at, now + LET_THROUGH)
        raise RequestTooLarge(tokens=round(call.tokens), limit=largest, model=self.name)

    def _check_breaker(self, call: Call, now: float) -> None:
        """While the breaker is open, a call fails at once unless it is willing to wait for its end."""
        if self.breaker.open and self.breaker.delay(now) > 0 and not self._waits_for_breaker(call, now):
            raise self._blocked(now)

    def _waits_for_breaker(self, call: Call, now: float) -> bool:
        most = call.manners.max_wait
        return self.breaker.cause == "wait" and most is not None and call.waited + self.breaker.ends_at - now <= most

    def _blocked(self, now: float) -> AccountBlocked:
        retry_in = self.breaker.delay(now)
        if self.breaker.cause == "billing":
            return AccountBlocked(model=self.name, retry_in=retry_in, **self._verdict)
        left = max(0.0, self.breaker.ends_at - now)
        return AccountPaused(
            model=self.name, retry_in=retry_in, ends_in=left, spelt=f"{spell(left)} ({until(left)})", **self._verdict
        )

    def _check_patience(self, call: Call, now: float) -> None:
        """A refused call is not sent again for ever: fail with what the server said last."""
        if not call.again or call.refused_at is None:
            return
        call.again = False
        most = call.manners.max_wait
        if call.billed:
            raise GivenUp(to_sdk=not self.breaker.open)
        if call.long_wait is not None and (most is None or call.waited + call.long_wait > most):
            raise GivenUp(to_sdk=True)
        if self.aside and most is None:
            raise GivenUp(to_sdk=True)
        if now - call.refused_at >= max(LONGEST, most or 0.0):
            raise GivenUp(to_sdk=False)

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
        try:
            self._settle(permit, outcome, refusal, response)
        finally:
            # What the server said may be too odd for what reads it: that may cost one call, not those that wait.
            self.throttle.admit_waiting(self)

    def started(self, permit: Permit) -> None:
        """The server has begun to answer."""
        self.streams += 1
        self._answered(self._left[permit][1], self.throttle.loop.time(), whole=False)
        self.admit_waiting()  # its headers may have told of higher limits

    def _answered(self, number: int, now: float, *, whole: bool) -> None:
        if whole or self._refused_whole:  # else it is in the middle of a stream that this server refuses
            self.breaker.answered(number)
        self.patience.answered(now)
        self.aside = False

    def _settle(self, permit: Permit, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        now = self.throttle.loop.time()
        reservation, budget = permit.reservation, permit.budget
        busy = self._pass_time(now)
        self.in_flight -= 1
        self.outstanding -= reservation.tokens
        self.streams -= permit.streaming
        _, number = self._left.pop(permit)
        self.throttle.moved(now)
        took = max(0.0, now - reservation.at)  # another loop's clock may be behind
        if permit.usage is not None:
            self._settle_usage(permit, permit.usage)
        if outcome is Outcome.SUCCESS:
            self.succeeded += 1
            self._largest_served = max(self._largest_served, permit.call.tokens)
            self._answered(number, now, whole=True)
            if not self.throttle.late or self.concurrency.latency is None:
                beside = (busy - permit.busy) / took if took > 0 else self.in_flight
                self.concurrency.succeeded(reservation.at, took, beside, binding=permit.binding)
            budget.succeeded(reservation, now)
        elif outcome is Outcome.UNSENT:
            budget.refund(reservation, request=True)
        elif outcome is Outcome.REFUSED:
            assert refusal is not None
            self.refused += 1
            self._refused(permit, number, refusal, response, now)
        elif outcome is Outcome.OVERLOADED:
            self.patience.fault(reservation.at)
            self._step_aside(now)
            if not self.aside:
                event = budget.congested(reservation)
                self.concurrency.congested(self.in_flight + 1, event=event, overload=True)
        if outcome is not Outcome.REFUSED:
            self.breaker.ended(number, now)
        self.limit = self._find_limit()
        if logger.isEnabledFor(logging.DEBUG):
            self._log(permit, outcome, took)

    def _step_aside(self, now: float) -> None:
        """Where the server answers nothing at all, throttling helps nobody: let the SDK's own retries decide."""
        oldest, _ = next(iter(self._left.values()), (math.inf, 0))
        rate, since = self._known_rate, self.patience.failing_since
        if since is not None and self.patience.vain(now, rate, oldest):
            if not self.aside:
                self.aside = True
                self.budget.forget_refusals()
                say(
                    logging.WARNING,
                    "%s: none of %d attempts was answered in %s; %d waiting calls are now sent as the SDK alone would "
                    "send them, and fail if they are refused; with max_wait= they are sent again for that long",
                    *(self.name, self.patience.failed, spell(now - since), self.queue.waiting),
                )
        elif since is not None and now - since >= SILENT and self.patience.failed > 1:
            lasts = self.patience.lasts(rate)
            if self._notices.due("silence", now):
                say(
                    logging.WARNING,
                    "%s: none of %d attempts was answered in %s; %d calls wait; unless one is answered until %s, they "
                    "fail as the SDK's own retries do; max_refusals=0 leaves every refusal to the SDK",
                    *(self.name, self.patience.failed, spell(now - since), self.queue.waiting),
                    until(max(0.0, since + lasts - now)),
                )

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
        call.refused_at = now if call.refused_at is None else call.refused_at
        call.long_wait, call.billed = None, False
        # What a response of status 200 announced was seen when it began.
        told = NOTHING if response is None or response.status_code < 400 else read_limits(response.headers)
        if call.estimate is not None and refusal.requested is not None and refusal.dimension == "tokens":
            self._ledger.requested(refusal.requested, call.estimate, call.provider)
        if refusal.group is not None:
            self.throttle.share(self, refusal.group)
        rates = budget.request_rate, budget.token_rate
        if self._says_nothing_of_pace(call, number, refusal, response, reservation.at, now):
            budget.observe(told, reservation, now, refused=True)
            if rates != (budget.request_rate, budget.token_rate):
                self._learned()
            budget.refund(reservation, request=False)
            return
        if refusal.retry_after is None and response is not None and response.status_code < 400:
            # In the middle of a stream, when the limits had let it pass: a lack of room, not of rate.
            event = budget.congested(reservation)
            self.concurrency.congested(self.in_flight + 1, event=event, overload=True)
            return
        event = budget.refused(refusal, told, reservation, now, jitter=self.throttle.random())
        if rates != (budget.request_rate, budget.token_rate):
            self._learned()
        overload = refusal.kind == "overload"
        restart = overload and refusal.retry_after is not None and self.rate is None
        self.concurrency.congested(self.in_flight + 1, event=event, overload=overload, restart=restart)
        if event:
            say(
                logging.INFO,
                "%s: refused (%s, retry after %s s); concurrency limit %d, paused for %.2f s",
                self.name,
                refusal.dimension or refusal.kind,
                refusal.retry_after,
                self._find_limit(),
                max(0.0, budget.paused_until - now),
            )

    def _says_nothing_of_pace(  # noqa: PLR0917
        self, call: Call, number: int, refusal: Refusal, response: Any, sent_at: float, now: float
    ) -> bool:
        """Whether a refusal is about the request, the account, or a server that answers nobody."""
        if refusal.final:
            call.billed = refusal.kind == "billing"
            if call.billed and response is not None:
                self._suspect(number, response, now)
            return True
        wait = refusal.retry_after
        if wait is not None and wait > LONGEST_WAIT and response is not None:
            budget = self.budget
            if not budget.is_configured(refusal):
                call.long_wait = wait
                if not budget.explains(refusal):
                    self._suspect(number, response, now, wait)
                    return True
        self.patience.refused(sent_at, wait)
        self._step_aside(now)
        return self.aside

    def _suspect(self, number: int, response: Any, now: float, wait: float | None = None) -> None:
        """A refusal that would stop every call: one finds out whether it does, and then those that wait fail with it.

        Of a server that has not answered lately, a refusal for billing is believed at once.
        """
        verdict, whole = refused_by(response), response.status_code >= 400
        if not whole:
            verdict["status"] = 429
        cause: Cause = "billing" if wait is None else "wait"
        before = self.breaker.open
        is_open = self.breaker.refused(
            cause,
            number,
            self.admitted,
            now,
            doubtful=wait is not None or now - self.patience.answered_at <= RECENT,
            wait=wait or 0.0,
        )
        self._verdict, self._refused_whole = verdict, whole
        failed = self._fail_blocked(now) if is_open else 0
        asked = (
            "refused for billing" if wait is None else f"the server asks to wait {spell(wait)} (until {until(wait)})"
        )
        every = self.breaker.delay(now)
        if is_open:
            message = f"%s: {asked}; {failed} waiting calls failed, none sent for {every:g} s"
        else:
            message = f"%s: {asked}, which may concern one call only; {self.queue.waiting} wait until another has tried"
        warn = not before and (is_open or self._notices.due(cause, now))
        say(logging.WARNING if warn else logging.DEBUG, message, self.name)

    def _fail_blocked(self, now: float) -> int:
        """Fail those that wait, but for those that are willing to; returns how many failed."""
        failed = 0
        left = []
        try:
            for waiter in self.queue.clear():
                if self._waits_for_breaker(waiter.call, now):
                    left.append(waiter)
                else:
                    failed += 1
                    waiter.future.set_exception(self._blocked(now))
        finally:
            for waiter in left:
                self.queue.add(waiter)
        return failed

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
            say(logging.INFO, "%s: limits are now %s", self.name, ", ".join(map(str, self.budget.stats())))

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

    @property
    def _known_rate(self) -> float | None:
        """Calls per second by the limits that were configured or announced."""
        known = self.budget.known
        rates = [] if known["requests"] is None else [known["requests"]]
        if known["tokens"] is not None and self._tokens_per_call > 0:
            rates.append(known["tokens"] / self._tokens_per_call)
        return min(rates, default=None)

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


def _resolve(future: asyncio.Future[Permit], make: Callable[..., Any], *args: Any) -> None:
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
