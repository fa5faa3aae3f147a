"""The dispatcher: admits and settles the calls of one throttle, from all threads and event loops."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import math
import os
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from throttled_openai._seeing.events import Subscribers
from throttled_openai._seeing.explanation import Explanation, explain
from throttled_openai._stats import Stats
from throttled_openai.errors import ClientClosed

from .call import GivenUp, Outcome
from .file_limit import warn_of_file_limit, within_file_limit
from .home import TrioHome, home, post
from .homes import Homes
from .in_flight import MOST_IN_FLIGHT, InFlight
from .limiter import Limiter
from .limiters import Limiters
from .loop_lag import LATE, LoopLag
from .permit import Permit
from .portal import portal
from .posted_permit import PostedPermit
from .queue import FAIRNESS_INTERVAL, Waiter
from .stall import Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from throttled_openai._limits import Limits, LimitsBook
    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.headers import Announcement, Dimension
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .call import Call
    from .home import Home
    from .permit import Attempt
    from .portal import Portal

T = TypeVar("T")

# Seconds that `stats()` waits for the deciding thread before it reads the figures as they are.
PATIENCE: Final = 0.2


class Dispatcher:
    """Admits calls and settles attempts, one after the other, on one event loop at a time.

    That is the event loop of the calls, until the first blocking call, or until a second event loop calls
    at the same time. From then on it is the portal's. A forked child starts with empty queues.

    `ceiling`: the most attempts in flight. `file_limited`: whether open files set it, not the user.
    """

    def __init__(
        self,
        book: LimitsBook,
        *,
        ceiling: int,
        unproven_ceiling: int,
        file_limited: bool,
        threads: bool,
        enforced: bool = True,
    ) -> None:
        self.ceiling = ceiling
        self.random = random.random  # jitter
        self.lag = LoopLag()
        self.stall = Stall()
        self.subscribers = Subscribers()
        self.enforced = enforced
        self._held_until = -math.inf  # by the user: also for budgets that come later
        self._book = book
        self._unproven_ceiling = unproven_ceiling
        self._file_limited = file_limited
        self._arrivals = itertools.count()
        self._portal = portal if threads else None
        self._loop: asyncio.AbstractEventLoop | None = None  # where decisions are made
        self._overtaken = 0  # calls that went before the longest waiting one, at the common ceiling
        self._reset()

    def _reset(self) -> None:
        """Start empty; also in a forked child, as all calls are the parent's and its state may be half written."""
        self._process = os.getpid()
        # Held for each decision, and while deciding moves to another loop; nothing waits while holding it.
        self._lock = threading.RLock()
        self._deciding = False
        self._loop, self._on_portal = None, False
        self.in_flight = InFlight(self.ceiling, self._unproven_ceiling)
        self.limiters = Limiters(self._book, self._make_limiter)
        self._in_line: set[Limiter] = set()  # limiters where calls may wait
        self._turning: set[Limiter] = set()  # limiters that wait for turns of the event loop
        self._homes = Homes()
        self.stall.streams = 0

    def _make_limiter(self, name: str, limits: Limits | None, account: Account) -> Limiter:
        owner = _Owner(self)
        owner.limiter = Limiter(name, limits, account, self.in_flight, owner, self.subscribers, enforced=self.enforced)
        owner.limiter.gate.held_until = self._held_until
        self.in_flight.divided = len(self.limiters) > 0
        return owner.limiter

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The deciding event loop."""
        assert self._loop is not None, "no call was ever admitted"
        return self._loop

    @property
    def waiting(self) -> int:
        """Calls not admitted."""
        return sum(limiter.queue.waiting for limiter in tuple(self._in_line))

    @property
    def outlived(self) -> bool:
        """Whether the event loop it served is closed."""
        return self._loop is not None and self._loop.is_closed()

    @property
    def most_connections(self) -> int:
        """The most connections that its calls may need, and those of copies, which keep the connections."""
        return max(self.ceiling, within_file_limit(MOST_IN_FLIGHT))

    # Admission

    async def admit(self, call: Call) -> Permit:
        """Wait until `call` may go.

        Raises `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`.
        """
        loop = home()
        if call.home is None:
            call.home = weakref.ref(loop)
        if self.subscribers.callbacks and call.context is None:
            call.context = contextvars.copy_context()
        while True:
            entry = self._enter(call, loop)
            if entry is None:
                assert self._portal is not None
                hash(call.home)  # computed now and kept, as the loop may be gone when it is needed
                call.task = _running_task()
                permit = await self._portal.run_async(functools.partial(self.admit_on_portal, call), _give_back)
                return self._received(permit)
            entered, limiter = entry
            if isinstance(entered, Permit):
                return entered
            if not isinstance(entered, Waiter):
                await asyncio.sleep(entered)
                call.waited += entered
                continue
            if call.admission is None:
                call.task = _running_task()
            try:
                admitted: Permit | None = await entered.future
            except BaseException:
                self.decide(self._abandon, limiter, entered)
                raise
            finally:
                call.task = None
                call.waited += loop.time() - entered.since
            if admitted is not None:  # otherwise another loop decides now
                return admitted

    def admit_blocking(self, call: Call) -> PostedPermit:
        """As `admit`, for a blocking call."""
        decides = self._go_over()
        if self.subscribers.callbacks and call.context is None:
            call.context = contextvars.copy_context()
        # Calls in flight may belong to this thread's own event loop, which stands still until this call returns.
        call.stalls = asyncio._get_running_loop() is not None  # noqa: SLF001  # of the module's public list
        return self._received(decides.run(functools.partial(self.admit_on_portal, call), _give_back))

    async def admit_on_portal(self, call: Call) -> PostedPermit:
        """Admit `call` for another thread; runs on the portal's loop."""
        call.admission = asyncio.current_task()
        if call.withdrawn:
            raise ClientClosed
        permit = await self.admit(call)
        return PostedPermit(permit, self.loop)

    def _received(self, permit: PostedPermit) -> PostedPermit:
        """Called when the permit reaches the waiting task or thread. A long delay means that it is overloaded."""
        if permit.loop.time() - permit.admitted_at > LATE:
            post(permit.loop, self.lag.late_elsewhere)
        return permit

    def _enter(self, call: Call, loop: Home) -> tuple[Permit | Waiter | float, Limiter] | None:
        """A permit, a place in the queue, or seconds to stay out of it; None if `loop` is not the deciding one."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if loop is not self._loop and not self._moves_to(loop):
                return None
            self._deciding = True
            try:
                if call.home is not None and call.home not in self._homes.known:
                    # A new event loop may have replaced one that ended with calls in flight.
                    self._look_for_closed()
                    self._homes.known.add(call.home)
                limiter = self.limiters.find(call.model, call.endpoint, call.account)
                now = loop.time()
                self.lag.measure(self.loop, now)
                try:
                    entered = limiter.enter(call, self._arrivals.__next__, self.random, self.loop, now)
                except Exception as error:
                    limiter.figures.turned_away += not isinstance(error, GivenUp)
                    raise
                if isinstance(entered, Waiter):
                    self._in_line.add(limiter)
                    # A call behind others changes nothing, as the timer is set for the oldest. Looking again would
                    # also admit calls while a large gather still starts, long before the loop sends any of them.
                    may_be_next = limiter.queue.add(entered)
                    limiter.entered(entered)
                    if may_be_next or entered.deadline < limiter.timer.at:
                        self.admit_waiting(limiter)
                return entered, limiter
            finally:
                self._deciding = False

    def _abandon(self, limiter: Limiter, waiter: Waiter) -> None:
        """The waiting task is cancelled."""
        permit = limiter.abandon(waiter)
        if permit is None:
            self.admit_waiting(limiter)
        else:  # granted in the same tick: no other task will use it
            self.settle(limiter, permit.attempt, Outcome.UNSENT)

    def admit_waiting(self, limiter: Limiter) -> None:
        """Admit what may go, and set the timer for when to look again.

        Called whenever something may have changed: a new waiter, a settled attempt, a passed instant,
        a corrected budget.
        """
        queue, timer = limiter.queue, limiter.timer
        if not queue.waiting and timer.handle is None:
            return
        now = self.loop.time()
        wake_at = now  # if anything fails, look again
        try:
            wake_at = limiter.admit_waiting(now)
            if limiter.lacks_room:
                wake_at = min(wake_at, self._stalls_at(now))
                if self._file_limited and limiter.in_flight >= self.ceiling - 1:
                    warn_of_file_limit(self.ceiling)
        finally:
            if not queue.waiting:
                self._in_line.discard(limiter)
            timer.set(min(wake_at, queue.next_deadline()), self.loop, self._on_timer, self.loop, limiter)
            self._count_turns(limiter)

    def _count_turns(self, limiter: Limiter) -> None:
        if limiter.turns and limiter not in self._turning:
            self._turning.add(limiter)
            self.loop.call_soon(self._on_turn, self.loop, limiter)

    def _on_turn(self, loop: asyncio.AbstractEventLoop, limiter: Limiter) -> None:
        if loop is self._loop:  # otherwise another one decides now
            self.decide(self._turn, limiter)

    def _turn(self, limiter: Limiter) -> None:
        self._turning.discard(limiter)
        if limiter.turn(self.loop.time()):
            self.admit_waiting(limiter)
        else:
            self._count_turns(limiter)

    def _on_timer(self, loop: asyncio.AbstractEventLoop, limiter: Limiter) -> None:
        if loop is self._loop:  # otherwise another one decides now
            self.decide(self._wake, limiter)

    def _wake(self, limiter: Limiter) -> None:
        limiter.timer.fired()
        if self._may_stall and not limiter.has_room():
            self._free_abandoned()
        self.admit_waiting(limiter)

    def _admit_waiting_after(self, limiter: Limiter) -> None:
        """Something changed in `limiter`; if the common ceiling held others back, it changed for them too."""
        in_flight = self.in_flight
        if not in_flight.divided or len(in_flight.attempts) < in_flight.ceiling - 1 or self._in_line <= {limiter}:
            self.admit_waiting(limiter)
            return
        # The oldest call goes first, or one busy model would take all places under the ceiling. Now and
        # then the longest waiting call goes first, or a model with urgent calls would take them all.
        waiting = [each for each in self._in_line if each.queue.waiting and each is not limiter]
        line = sorted([limiter, *waiting], key=lambda each: each.queue.head())
        longest = min(line, key=lambda each: each.queue.longest())
        if self._overtaken >= FAIRNESS_INTERVAL - 1:
            longest.queue.favour_longest()
            line.insert(0, longest)
        for each in line:
            before = each.admitted
            self.admit_waiting(each)
            if each.admitted > before:
                self._overtaken = 0 if each is longest else self._overtaken + each.admitted - before

    # Where decisions are made

    def decide(self, function: Callable[..., object], *args: object) -> None:
        """Call `function` now if this is the deciding event loop; otherwise there, in the order of posting.

        It is also posted if a decision is under way: finalizers run between any two instructions.
        """
        loop = self._loop
        if loop is None:
            return
        if asyncio._get_running_loop() is loop and not self._deciding:  # noqa: SLF001  # of the module's public list
            with self._lock:
                if self._loop is loop:
                    self._deciding = True
                    try:
                        function(*args)
                    finally:
                        self._deciding = False
                    return
        post(loop, self.decide, function, *args)

    def _moves_to(self, loop: Home) -> bool:
        """Whether the running `loop` decides from now on; called holding the lock."""
        old = self._loop
        if self._portal is None and (isinstance(loop, TrioHome) or not self._is_left(old)):
            assert portal.loop is not None  # starts it, or raises
            self._portal = portal
        if isinstance(loop, TrioHome) or (self._portal is not None and not self._portal.runs(loop)):
            return False
        if self._on_portal:  # which has stopped, at the interpreter's exit
            self._reset()
            old = None
        if old is not None:
            self._forget_calls_of(self._homes.closed())
        self._loop, self._on_portal = loop, self._portal is not None
        self._homes.reset_clock()
        self.lag.reset()
        if old is not None:
            # Real loops read one monotonic clock, so refills go on in between; virtual clocks do not.
            same_clock = abs(old.time() - loop.time()) < 1.0
            for limiter in self.limiters:
                limiter.move(old, same_clock=same_clock)
            self._in_line.clear()
            self._turning.clear()
        return True

    def _is_left(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Whether nothing happens on `loop` any more, so that another may decide in its place."""
        if loop is None or loop.is_closed():
            return True
        return not (loop.is_running() or self.waiting or self.in_flight.attempts)

    def _go_over(self) -> Portal:
        """Decide on the portal's thread, from the next call on."""
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            self._portal = self._portal or portal
            return self._portal

    # Attempts

    def observe(self, announcement: Announcement, account: Account | None = None) -> None:
        """Learn limits from a response that needed no permit, if there is no doubt which limiter they are for."""
        if announcement.requests or announcement.tokens:
            self.decide(self._observe, announcement, account)

    def _observe(self, announcement: Announcement, account: Account | None) -> None:
        if len(self.limiters) == 1:
            for limiter in self.limiters:
                if account is None or self.limiters.known_as(account) == limiter.account:
                    self.observe_attempt(limiter, None, announcement)
                    self.admit_waiting(limiter)

    def observe_attempt(self, limiter: Limiter, attempt: Attempt | None, announcement: Announcement) -> None:
        limiter.observe(announcement, attempt, self.loop.time())

    def started(self, limiter: Limiter, attempt: Attempt) -> None:
        if not attempt.settled:
            attempt.streaming = True
            self.stall.streams += 1
            limiter.gate.started(attempt, self.loop.time())
            self.admit_waiting(limiter)  # its headers may have announced higher limits

    def settle(
        self,
        limiter: Limiter,
        attempt: Attempt,
        outcome: Outcome,
        refusal: Refusal | None = None,
        response: Any = None,
    ) -> None:
        """End an attempt, once; two threads may settle it."""
        if attempt.settled:
            return
        attempt.settled = True
        self.in_flight.attempts.discard(attempt)
        self.stall.streams -= attempt.streaming
        now = self.loop.time()
        try:
            self.stall.note_progress(now)
            self.lag.measure(self.loop, now)
            if refusal is not None and refusal.group is not None:
                self.limiters.share(limiter, refusal.group)
            limiter.settle(attempt, outcome, refusal, response, now, self.random, late=self.lag.late)
        finally:
            # An odd server response that breaks its reader may cost one call, but not the waiting ones.
            self._admit_waiting_after(limiter)
            self._count_turns(limiter)

    def used(self, limiter: Limiter, attempt: Attempt, usage: Usage) -> None:
        if limiter.count_usage(attempt, usage):
            self._admit_waiting_after(limiter)

    # What is abandoned

    @property
    def _may_stall(self) -> bool:
        """Whether dropped streams, or calls of ended event loops, may hold places."""
        return self.stall.streams > 0 or (self._portal is not None and bool(self._homes.known))

    def _stalls_at(self, now: float) -> float:
        """When to search for them, if nothing ends until then."""
        return now + self.stall.stall_timeout if self._may_stall else math.inf

    def _free_abandoned(self) -> None:
        """Free the permits of dropped streams, and of event loops that have ended or stand still."""
        now = self.loop.time()
        if self.stall.is_due(now):
            gone = self._homes.unanswered(now)
            if gone is not None:
                self._clear_away(gone)
                self._homes.call()
            self.stall.collect_streams()

    def _look_for_closed(self) -> None:
        """Forget the calls of closed event loops, after everything that was posted from there before."""
        gone = self._homes.closed()
        if gone:
            post(self.loop, self.decide, self._clear_away, gone)

    def _clear_away(self, gone: set[weakref.ref[Home]]) -> None:
        self._forget_calls_of(gone)
        for limiter in tuple(self._in_line):
            self.admit_waiting(limiter)

    def _forget_calls_of(self, gone: set[weakref.ref[Home]]) -> None:
        """Forget the calls in flight or waiting on ended event loops: they will never be settled."""
        if gone:
            self._homes.known -= gone
            now = self.loop.time()
            for limiter in self.limiters:
                for attempt in limiter.forget(gone, now):
                    attempt.settled = True
                    self.in_flight.attempts.discard(attempt)
                    self.stall.streams -= attempt.streaming
            for limiter in tuple(self._in_line):
                limiter.forget_waiting(gone, closed=self.loop.is_closed())

    # Figures

    def stats(self) -> Stats:
        """Figures, with a short wait for the deciding thread if that is another one."""
        return self._read(self.stats_now)

    def explain(self, task: asyncio.Task[Any] | None) -> Explanation:
        """Why calls wait: all, or that of `task`."""
        return self._read(functools.partial(self._explain_now, task))

    def _read(self, read: Callable[[], T]) -> T:
        """The result of `read`, on the deciding thread if that answers soon.

        The caller may hold a lock that the deciding thread waits for, such as a log handler's; so after
        that wait the figures are read as they are.
        """
        if self._process != os.getpid():
            self._reset()
        if self._portal is not None and self._loop is not None and not self._portal.here:
            try:
                return self._portal.run(functools.partial(self._read_here, read), patience=PATIENCE)
            except (TimeoutError, RuntimeError):
                return read()
        if self._loop is not None and self._loop.is_closed():
            with self._lock:
                if self._loop.is_closed():
                    self._forget_calls_of(self._homes.closed())
        return read()

    async def _read_here(self, read: Callable[[], T]) -> T:
        """On the portal's loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop is self._loop or self._moves_to(loop):
                self._look_for_closed()
        await asyncio.sleep(0)  # until that is done
        with self._lock:
            return read()

    def stats_now(self) -> Stats:
        """Figures as they are, without waiting."""
        budgets = tuple(self.limiters.stats(self._time()))
        return Stats(waiting=self.waiting, in_flight=len(self.in_flight.attempts), budgets=budgets)

    def _time(self) -> float:
        return math.inf if self._loop is None else self._loop.time()

    def _explain_now(self, task: asyncio.Task[Any] | None) -> Explanation:
        now = self._time()
        if self._loop is not None and asyncio._get_running_loop() is self._loop:  # noqa: SLF001  # of the public list
            for limiter in self.limiters:
                limiter.budget.delay(0.0, now)  # brings the levels up to date
        if task is None:
            used = [limiter for limiter in self.limiters if limiter.queue.waiting or limiter.in_flight]
            return Explanation(tuple(explain(each.stats(now), each.queue.next_tokens()) for each in used))
        for limiter in self.limiters:
            found = limiter.queue.place_of(task)
            if found is not None:
                return Explanation((explain(limiter.stats(now), limiter.queue.next_tokens(), *found),))
        return Explanation(())

    # The user's changes

    def configure(self, names: Container[str] | None, rates: Mapping[Dimension, float | None]) -> None:
        """Other limits per minute for the budgets with these names; None: for all."""
        self._change(names, lambda limiter, now: limiter.configure(now, rates))

    def hold(self, names: Container[str] | None, seconds: float) -> None:
        """Send nothing for `seconds`; 0: go on."""
        if names is None:
            self._held_until = (0.0 if self._loop is None else self._loop.time()) + seconds if seconds else -math.inf
        self._change(names, lambda limiter, now: limiter.hold(seconds, now))

    def _change(self, names: Container[str] | None, change: Callable[[Limiter, float], None]) -> None:
        def apply() -> None:
            for limiter in self.limiters:
                if names is None or limiter.name in names:
                    change(limiter, self._time())
                    self.admit_waiting(limiter)

        self.decide(apply)


class _Owner:
    """The owner of one limiter's permits: passes everything on to the deciding event loop."""

    __slots__ = ("_dispatcher", "limiter")

    limiter: Limiter

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def started(self, attempt: Attempt) -> None:
        self._dispatcher.decide(self._dispatcher.started, self.limiter, attempt)

    def observe(self, attempt: Attempt, announcement: Announcement) -> None:
        self._dispatcher.decide(self._dispatcher.observe_attempt, self.limiter, attempt, announcement)

    def settle(self, attempt: Attempt, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        self._dispatcher.decide(self._dispatcher.settle, self.limiter, attempt, outcome, refusal, response)

    def used(self, attempt: Attempt, usage: Usage) -> None:
        self._dispatcher.decide(self._dispatcher.used, self.limiter, attempt, usage)


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # not an asyncio event loop
        return None


def _give_back(permit: Permit) -> None:
    permit.release(Outcome.UNSENT)
