"""The gate of a lane: refusals that are about more than the pace, and what the calls that wait are told of them."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._control.breaker import Breaker
from throttled_openai._control.bucket import ROUNDING
from throttled_openai._control.patience import FEWEST_REFUSED, LONGEST, LONGEST_WAIT, VAIN, Patience
from throttled_openai._limits import OVERSIZE
from throttled_openai._stats import spell
from throttled_openai.errors import AccountBlocked, AccountPaused, RequestTooLarge, ServerPaused, refused_by

from .notices import Notices, say, until
from .permit import GivenUp

if TYPE_CHECKING:
    from throttled_openai._control.breaker import Cause
    from throttled_openai._protocol.refusals import Refusal

    from .limiter import Limiter
    from .permit import Call, Permit
    from .queue import Waiter

# A wait of more than a minute is worth a warning; so are this many seconds of refusals alone.
LONG: Final = 60.0
SILENT: Final = 10.0
# Seconds that a call rests between two attempts while nothing is answered, doubled each time: at first the lane's own
# pauses are as long, later other calls find out in its place, or a single one is not sent every few seconds.
REST: Final = 0.5
LONGEST_REST: Final = 30.0
FIRST_REST: Final = 6
# Seconds over which a lane that steps aside spreads the calls that wait: each hears soon that it is refused, and the
# server is not run over.
SPREAD: Final = 2.0
# While calls are larger than the announced limit, one goes every so often (seconds): the server decides.
LET_THROUGH: Final = 10.0


class Gate:
    """Whether a lane sends at all: not for an account that has to pay, nor against a wait of hours.

    It also ends the waiting where the server answers nobody: then the lane steps aside (`aside`), and every
    call is sent and tried again as the SDK alone would do it.
    """

    def __init__(self, lane: Limiter) -> None:
        self._lane = lane
        self.notices = Notices()
        self.breaker = Breaker()
        self.patience = Patience()
        self.aside = False
        self._verdict: dict[str, Any] = {}  # what the refusal said that the breaker is about
        self._whole = True  # whether it came as a response, not in the middle of a stream
        self._largest_served = 0.0  # tokens of the largest call that was answered
        self._let_through_at = math.inf  # when the next call goes that is larger than the announced limit
        self._left_at = -math.inf  # when the newest attempt left
        self._most_waited = 0  # calls at a time, since the lane stepped aside
        self._sent: dict[Permit, tuple[int, float]] = {}  # attempts that are not answered: numbers, and when they left
        self._answering: dict[Permit, int] = {}  # those whose streams are open

    def rebind(self) -> None:
        """Forget instants: the clock is another one. Attempts in flight stay known."""
        self.notices, self.breaker, self.aside = Notices(), Breaker(), False
        self.patience.rebind()
        self._let_through_at, self._left_at = math.inf, -math.inf

    # Admission

    def delay(self, now: float) -> float:
        """Seconds until a call may go; 0 if one may now."""
        delay = self.breaker.delay(now)
        waiting = self._lane.queue.waiting
        if self.aside and waiting > 1 and self.patience.refusing:
            self._most_waited = max(self._most_waited, waiting)
            delay = max(delay, self._left_at + SPREAD / self._most_waited - now)
        return delay if delay > ROUNDING else 0.0

    def check(self, call: Call, now: float) -> None:
        """Raise if `call` is not to wait: `GivenUp` for one that was refused, else `AccountBlocked`."""
        if call.again and call.refused_at is not None:
            call.again = False
            most = call.manners.max_wait
            self.look(now)
            if call.billed:
                raise GivenUp(to_sdk=not self.breaker.open)
            if call.long_wait is not None and (most is None or call.waited + call.long_wait > most):
                raise GivenUp(to_sdk=True)
            if self.aside and most is None:
                raise GivenUp(to_sdk=call.refusals < FEWEST_REFUSED and call.waited < VAIN)
            if now - call.refused_at >= max(LONGEST, most or 0.0):
                raise GivenUp(to_sdk=False)
        if self.breaker.open and self.breaker.delay(now) > 0 and not self._outlasts(call, now):
            raise self._error(now)

    def check_size(self, call: Call, now: float) -> None:
        """A call that the server can never admit fails here; a limit may be a mistake, so one goes now and then."""
        if not call.provider.counts_cached and not call.refusals:
            return  # most of it may be cached, and only the server knows
        largest = self._lane.budget.largest_announced
        if call.tokens <= OVERSIZE * largest or (call.order is not None and not call.refusals):
            return
        if not call.refusals:
            if call.tokens <= OVERSIZE * self._largest_served:
                return
            if self._let_through_at <= now < math.inf:
                self._let_through_at = now + LET_THROUGH
                return
            self._let_through_at = min(self._let_through_at, now + LET_THROUGH)
        raise RequestTooLarge(tokens=round(call.tokens), limit=largest, model=self._lane.name)

    def look(self, now: float) -> float:
        """Whether waiting has proved vain by now; returns the instant to look again."""
        since = self.patience.failing_since
        if since is None or self.aside:
            return math.inf
        ends = since + self.patience.lasts(self._lane.configured_rate)
        if now >= min(ends, since + SILENT):
            self._step_aside(now)
        if now < since + SILENT:
            return since + SILENT
        return ends if now < ends else math.inf

    def rest(self, call: Call, now: float) -> float:
        """Seconds that a refused call stays out of the queue: its refusals are its own, or it has had many."""
        longest = min(LONGEST_REST, REST * 2.0 ** min(call.refusals, 10))
        rest = longest * (1 + self._lane.throttle.random()) / 2
        if call.refusals and call.rests is not None:
            return max(call.rests, rest)
        since, first = self.patience.failing_since, call.refused_at
        if since is None or first is None or first < since or (call.refusals < FIRST_REST and not self.aside):
            return 0.0
        if self.aside:
            return rest
        rest = min(rest, max(0.0, since + self.patience.lasts(self._lane.configured_rate) - now))
        self._step_aside(now, rest)
        return rest

    def _outlasts(self, call: Call, now: float) -> bool:
        """Whether `call` asked to wait for longer than the wait that the server named."""
        most = call.manners.max_wait
        return self.breaker.cause == "wait" and most is not None and call.waited + self.breaker.ends_at - now <= most

    def _error(self, now: float) -> AccountBlocked:
        name, retry_in = self._lane.name, self.breaker.delay(now)
        if self.breaker.cause == "billing":
            return AccountBlocked(model=name, retry_in=retry_in, **self._verdict)
        left = max(0.0, self.breaker.ends_at - now)
        wait = f"{spell(left)} ({until(left)})"
        kind = AccountPaused if self._verdict["status"] < 500 else ServerPaused
        return kind(model=name, retry_in=retry_in, ends_in=left, wait=wait, **self._verdict)

    def warn_of_wait(self, oldest: Waiter, delay: float, now: float) -> None:
        """A day's limit that is used up, or a server that asks for it, would hold calls without a word.

        A short wait is worth a word too where one after another holds the same call.
        """
        call, waited = oldest.call, oldest.call.waited + now - oldest.since
        lane, budget = self._lane, self._lane.budget
        window = budget.used_up(call.tokens)
        waiting = lane.queue.waiting
        if window is not None:
            amount = 1.0 if window.dimension == "requests" else lane.tokens_per_call
            whole = delay + (waiting - 1) * amount * window.period / window.limit
            if whole > LONG and self.notices.due("window", now):
                say(
                    logging.WARNING,
                    "%s: %s are used up; the next call goes in %s (%s), all %d waiting in %s; "
                    "with max_wait= they fail instead",
                    *(lane.name, window, spell(delay), until(delay), waiting, spell(whole)),
                )
        elif (delay > LONG or (delay > SILENT and waited + delay > LONG)) and self.notices.due("wait", now):
            asked = "the server asked for that" if budget.paused_until > now else "its limits are that low"
            say(
                logging.WARNING,
                "%s: the next call goes in %s (%s), %s; %d wait; with max_wait= they fail instead",
                *(lane.name, spell(delay), until(delay), asked, waiting),
            )

    # Attempts

    def sent(self, permit: Permit, number: int, now: float) -> None:
        """An attempt leaves, the lane's `number`th."""
        self._sent[permit] = number, now
        self._left_at = now
        self.breaker.sent(number, now)

    def started(self, permit: Permit, now: float) -> None:
        """The server has begun to answer."""
        number, _ = self._sent.pop(permit)
        self._answering[permit] = number
        if self._whole:  # else it is in the middle of its streams that this server refuses
            self.breaker.answered(number)
        self._answered(now)

    def ended(self, permit: Permit) -> int:
        """An attempt has ended; returns its number."""
        number = self._answering.pop(permit, None)
        return self._sent.pop(permit)[0] if number is None else number

    def succeeded(self, number: int, call: Call, now: float) -> None:
        self._largest_served = max(self._largest_served, call.tokens)
        self.breaker.answered(number)
        self._answered(now)

    def _answered(self, now: float) -> None:
        self.patience.answered(now)
        self.aside = False

    def failed(self, number: int, now: float) -> None:
        """An attempt ended with neither an answer nor a refusal."""
        self.breaker.ended(number, now)

    def timed_out(self, sent_at: float, now: float) -> None:
        """An attempt timed out, did not connect, or met a gateway's error."""
        self.patience.fault(sent_at)
        self._step_aside(now)

    # Refusals

    def judges(self, call: Call, number: int, refusal: Refusal, response: Any, sent_at: float, now: float) -> bool:  # noqa: PLR0917
        """Whether a refusal is about the call, the account, or a server that answers nobody: not about the pace."""
        call.refused_at = now if call.refused_at is None else call.refused_at
        call.billed, call.long_wait = refusal.kind == "billing", None
        if refusal.final:
            if call.billed and response is not None:
                self._suspect("billing", number, refusal, response, now)
            return True
        wait, diagnosis = refusal.retry_after, self._lane.budget.diagnosis
        named = wait is not None and wait > LONGEST_WAIT
        if named and response is not None and not diagnosis.is_for_configured_limit(refusal):
            call.long_wait = wait
            if not diagnosis.explains_long_wait(refusal):
                self._suspect("wait", number, refusal, response, now)
                return True
        self.patience.refused(sent_at, wait)
        self._step_aside(now)
        return self.aside

    def _suspect(self, cause: Cause, number: int, refusal: Refusal, response: Any, now: float) -> None:
        """A refusal that none could escape: one call finds out, and if that is so, those that wait fail."""
        verdict, whole = refused_by(response, refusal.code), response.status_code >= 400
        if not whole:
            verdict["status"] = 429
        lane, breaker, wait = self._lane, self.breaker, refusal.retry_after or 0.0
        before = breaker.open
        breaker.refused(cause, number, lane.admitted, now, wait=wait)
        self._verdict, self._whole = verdict, whole
        if breaker.open:
            failed = lane.fail_waiting(lambda call: not self._outlasts(call, now), lambda: self._error(now))
            then = f"{failed} waiting calls failed, none sent for {breaker.every:g} s"
        else:
            then = f"that may concern one call only: {lane.queue.waiting} wait until another has tried"
        asked = (
            "refused for billing"
            if cause == "billing"
            else f"the server asks to wait {spell(wait)} (until {until(wait)}), and with max_wait= calls do"
        )
        warn = not before and self.notices.due(f"{cause} {breaker.open}", now)
        say(logging.WARNING if warn else logging.DEBUG, f"%s: {asked}; {then}", lane.name)

    def _step_aside(self, now: float, rest: float = 0.0) -> None:
        """Where the server answers nothing at all, throttling helps nobody: let the SDK's own retries decide.

        `rest`: seconds until the next look, to say in time why calls wait.
        """
        lane, patience, since = self._lane, self.patience, self.patience.failing_since
        assert since is not None
        _, oldest = next(iter(self._sent.values()), (0, math.inf))
        waiting = lane.queue.waiting + (rest > 0)
        what = f"%s: none of {patience.failed} attempts was answered in {spell(now - since)}; {waiting}"
        if patience.vain(now, lane.configured_rate, oldest):
            if not self.aside:
                self.aside, self._most_waited = True, 0
                lane.budget.forget()
                then = "waiting calls are now sent as the SDK alone would send them; with max_wait= they wait that long"
                say(logging.WARNING, f"{what} {then}", lane.name)
        elif now + rest - since >= SILENT and patience.failed > 1 and self.notices.due("silence", now):
            end = until(max(0.0, since + patience.lasts(lane.configured_rate) - now))
            then = f"wait. Unless one is answered by {end} they fail; max_refusals=0 leaves refusals to the SDK at once"
            say(logging.WARNING, f"{what} {then}", lane.name)
