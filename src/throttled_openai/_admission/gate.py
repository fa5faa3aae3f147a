"""The gate of a limiter: whether it sends at all, and the errors and warnings for calls that wait in vain."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._control.bucket import ROUNDING
from throttled_openai._limits import OVERSIZE
from throttled_openai._seeing.explanation import about
from throttled_openai._stats import spell
from throttled_openai.errors import AccountBlocked, AccountPaused, RequestTooLarge, ServerPaused, refused_by

from .breaker import Breaker
from .call import GivenUp
from .notices import Notices, say, until
from .patience import FEWEST_REFUSED, LONGEST, LONGEST_WAIT, VAIN, Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from throttled_openai._protocol.refusals import Refusal

    from .breaker import Cause
    from .call import Call
    from .permit import Attempt
    from .queue import Queue, Waiter
    from .rates import Rates

# Seconds: a longer wait is worth a warning, and so are this many seconds of nothing but refusals.
WARN_AFTER: Final = 60.0
SILENT: Final = 10.0
# Seconds a call rests between two attempts while nothing is answered, doubled each time. At first the budget's own
# pauses are as long; later a resting call lets others probe the server, and is itself not sent every few seconds.
REST: Final = 0.5
LONGEST_REST: Final = 30.0
FIRST_REST: Final = 6
# Seconds over which a limiter that steps aside spreads its waiting calls, so that each one soon gets its refusal
# and the server is not flooded.
SPREAD: Final = 2.0
# Seconds between calls larger than the announced limit that are sent all the same: the server decides.
OVERSIZE_INTERVAL: Final = 10.0


class Gate:
    """Whether a limiter sends at all: not for an account that owes money, nor during an announced wait of hours.

    It also ends the waiting if the server answers no call: then the limiter steps aside (`aside`), and every
    call is sent and retried as the SDK alone would do it.
    """

    def __init__(self, name: str, queue: Queue, rates: Rates) -> None:
        self.name = name
        self.queue = queue
        self.rates = rates
        self.notices = Notices()
        self.breaker = Breaker()
        self.patience = Patience()
        self.aside = False
        self.held_until = -math.inf  # the user's pause
        self._verdict: dict[str, Any] = {}  # of the refusal that opened the breaker
        self._whole = True  # whether that refusal was a whole response, not an event in a stream
        self._largest_served = 0.0  # tokens of the largest answered call
        self._oversize_at = math.inf  # when the next call larger than the announced limit may go
        self._sent_at = -math.inf  # when the newest attempt was sent
        self._newest = 0  # its number
        self._most_waited = 0  # most calls waiting at a time, since the limiter stepped aside
        self._sent: dict[Attempt, tuple[int, float]] = {}  # unanswered attempts: number, and when it was sent
        self._answering: dict[Attempt, int] = {}  # those with open streams

    def rebind(self) -> None:
        """Forget all instants, as the clock has changed. Attempts in flight stay known."""
        self.notices, self.breaker, self.aside = Notices(), Breaker(), False
        self.patience.rebind()
        self._oversize_at, self._sent_at = math.inf, -math.inf

    # Admission

    def delay(self, now: float) -> float:
        """Seconds until a call may go; 0 if one may now."""
        delay = max(self.breaker.delay(now), self.held_until - now)
        waiting = self.queue.waiting
        if self.aside and waiting > 1 and self.patience.refusing:
            self._most_waited = max(self._most_waited, waiting)
            delay = max(delay, self._sent_at + SPREAD / self._most_waited - now)
        return delay if delay > ROUNDING else 0.0

    def check(self, call: Call, now: float) -> None:
        """Raise if `call` must not wait: `GivenUp` for a refused one, else `AccountBlocked`."""
        if call.again and call.refused_at is not None:
            call.again = False
            most = call.queue_options.max_wait
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
        """Fail a call that the server can never admit. The limit may be a mistake, so one is sent now and then."""
        if not call.provider.counts_cached and not call.refusals:
            return  # most of it may be cached, which only the server knows
        largest = self.rates.budget.largest_announced
        if call.tokens <= OVERSIZE * largest or (call.order is not None and not call.refusals):
            return
        if not call.refusals:
            if call.tokens <= OVERSIZE * self._largest_served:
                return
            if self._oversize_at <= now < math.inf:
                self._oversize_at = now + OVERSIZE_INTERVAL
                return
            self._oversize_at = min(self._oversize_at, now + OVERSIZE_INTERVAL)
        raise RequestTooLarge(tokens=round(call.tokens), limit=largest, model=self.name)

    def look(self, now: float) -> float:
        """Step aside if waiting has not helped by now; returns the instant to look again."""
        since = self.patience.failing_since
        if since is None or self.aside:
            return math.inf
        ends = since + self.patience.lasts(self.rates.configured)
        if now >= min(ends, since + SILENT):
            self._step_aside(now)
        if now < since + SILENT:
            return since + SILENT
        return ends if now < ends else math.inf

    def rest(self, call: Call, now: float, jitter: float) -> float:
        """Seconds a refused call stays out of the queue: if its refusals concern it alone, or are many."""
        longest = min(LONGEST_REST, REST * 2.0 ** min(call.refusals, 10))
        rest = longest * (1 + jitter) / 2
        if call.refusals and call.rests is not None:
            return max(call.rests, rest)
        since, first = self.patience.failing_since, call.refused_at
        if since is None or first is None or first < since or (call.refusals < FIRST_REST and not self.aside):
            return 0.0
        if self.aside:
            return rest
        rest = min(rest, max(0.0, since + self.patience.lasts(self.rates.configured) - now))
        self._step_aside(now, rest)
        return rest

    def _outlasts(self, call: Call, now: float) -> bool:
        """Whether the `max_wait` of `call` covers the wait that the server named."""
        most = call.queue_options.max_wait
        return self.breaker.cause == "wait" and most is not None and call.waited + self.breaker.ends_at - now <= most

    def _error(self, now: float) -> AccountBlocked:
        name, retry_in = self.name, self.breaker.delay(now)
        if self.breaker.cause == "billing":
            return AccountBlocked(model=name, retry_in=retry_in, **self._verdict)
        left = max(0.0, self.breaker.ends_at - now)
        wait = f"{spell(left)} ({until(left)})"
        kind = AccountPaused if self._verdict["status"] < 500 else ServerPaused
        return kind(model=name, retry_in=retry_in, ends_in=left, wait=wait, **self._verdict)

    def warn_of_wait(self, oldest: Waiter, delay: float, now: float) -> bool:
        """Say why calls wait if an exhausted daily limit, or the server's request, holds them for long.

        A short wait is logged too if several in a row hold the same call. Returns whether it is such a wait.
        """
        call, waited = oldest.call, oldest.call.waited + now - oldest.since
        budget = self.rates.budget
        window = budget.used_up(call.tokens)
        waiting = self.queue.waiting
        if window is not None:
            amount = 1.0 if window.dimension == "requests" else self.rates.tokens_per_call
            whole = delay + (waiting - 1) * amount * window.period / window.limit
            long = whole > WARN_AFTER
            if long and self.notices.due("window", now):
                say(
                    logging.WARNING,
                    "%s: %s are used up; the next call goes in %s (%s), all %d waiting in %s; "
                    "with max_wait= they fail instead",
                    *(self.name, window, spell(delay), until(delay), waiting, spell(whole)),
                )
            return long
        long = delay > WARN_AFTER or (delay > SILENT and waited + delay > WARN_AFTER)
        if long and self.notices.due("wait", now):
            asked = "the server asked for that" if budget.paused_until > now else "its limits are that low"
            say(
                logging.WARNING,
                "%s: the next call goes in %s (%s), %s; %d wait; with max_wait= they fail instead",
                *(self.name, spell(delay), until(delay), asked, waiting),
            )
        return long

    def warn_of_queue(self, rate: float | None, why: Callable[[], str], now: float) -> None:
        """Say why calls wait if the last of them has to wait for long. `rate`: calls per second that may go."""
        waiting = self.queue.waiting
        if rate and waiting > WARN_AFTER * rate and self.notices.due("queue", now):
            say(
                logging.WARNING,
                "%s: %d calls wait, the last of them for about %s: %s",
                *(self.name, waiting, about(waiting / rate), why()),
            )

    # Attempts

    def sent(self, attempt: Attempt, number: int, now: float) -> None:
        """An attempt is sent, the limiter's `number`th."""
        self._sent[attempt] = number, now
        self._sent_at, self._newest = now, number
        self.breaker.sent(number, now)

    def started(self, attempt: Attempt, now: float) -> None:
        """The server has begun to answer."""
        number, _ = self._sent.pop(attempt)
        self._answering[attempt] = number
        if self._whole:  # otherwise this server refuses in the middle of its streams
            self.breaker.answered(number)
        self._answered(now)

    def ended(self, attempt: Attempt) -> int:
        """An attempt has ended; returns its number."""
        number = self._answering.pop(attempt, None)
        return self._sent.pop(attempt)[0] if number is None else number

    def attempts(self) -> list[Attempt]:
        """Those in flight."""
        return [*self._sent, *self._answering]

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
        """Whether a refusal concerns the call, the account, or a server that answers no call; not the pace."""
        call.refused_at = now if call.refused_at is None else call.refused_at
        call.billed, call.long_wait = refusal.kind == "billing", None
        if refusal.final:
            if call.billed and response is not None:
                self._suspect("billing", number, refusal, response, now)
            return True
        wait, budget = refusal.retry_after, self.rates.budget
        if (
            wait is not None
            and wait > LONGEST_WAIT
            and response is not None
            and not budget.diagnosis.is_for_configured_limit(refusal)
        ):
            call.long_wait = wait
            if not budget.diagnosis.explains_long_wait(refusal):
                self._suspect("wait", number, refusal, response, now)
                return True
        self.patience.refused(sent_at, wait)
        self._step_aside(now)
        return self.aside

    def _suspect(self, cause: Cause, number: int, refusal: Refusal, response: Any, now: float) -> None:
        """A refusal that may meet every call: one more call probes, and if that is refused too, waiting calls fail."""
        verdict, whole = refused_by(response, refusal.code), response.status_code >= 400
        if not whole:
            verdict["status"] = 429
        breaker, wait = self.breaker, refusal.retry_after or 0.0
        before = breaker.open
        breaker.refused(cause, number, self._newest, now, wait=wait)
        self._verdict, self._whole = verdict, whole
        if breaker.open:
            failed = self.queue.fail(lambda call: not self._outlasts(call, now), lambda: self._error(now))
            then = f"{failed} waiting calls failed, none sent for {spell(breaker.every)}"
        else:
            then = f"that may concern one call only: {self.queue.waiting} wait until another has tried"
        asked = (
            "refused for billing"
            if cause == "billing"
            else f"the server asks to wait {spell(wait)} (until {until(wait)}), and with max_wait= calls do"
        )
        warn = not before and self.notices.due(f"{cause} {breaker.open}", now)
        say(logging.WARNING if warn else logging.DEBUG, f"%s: {asked}; {then}", self.name)

    def _step_aside(self, now: float, rest: float = 0.0) -> None:
        """If the server answers nothing at all, throttling helps no call: leave it to the SDK's own retries.

        `rest`: seconds until this is looked at again, to say in time why calls wait.
        """
        patience, since = self.patience, self.patience.failing_since
        assert since is not None
        _, oldest = next(iter(self._sent.values()), (0, math.inf))
        waiting = self.queue.waiting + (rest > 0)
        what = f"%s: none of {patience.failed} attempts was answered in {spell(now - since)}; {waiting}"
        if patience.vain(now, self.rates.configured, oldest):
            if not self.aside:
                self.aside, self._most_waited = True, 0
                self.rates.budget.forget()
                then = "waiting calls are now sent as the SDK alone would send them; with max_wait= they wait that long"
                say(logging.WARNING, f"{what} {then}", self.name)
        elif now + rest - since >= SILENT and patience.failed > 1 and self.notices.due("silence", now):
            end = until(max(0.0, since + patience.lasts(self.rates.configured) - now))
            then = f"wait. Unless one is answered by {end} they fail; max_refusals=0 leaves refusals to the SDK at once"
            say(logging.WARNING, f"{what} {then}", self.name)
