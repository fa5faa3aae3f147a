"""The throttle: the budgets that clients share, each with its lane, and where they are decided on."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import math
import operator
import os
import random
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._limits import Limits, LimitsBook
from throttled_openai._protocol.account import NOBODY
from throttled_openai._spelling import suggesting
from throttled_openai._stats import Stats, sum_of
from throttled_openai.errors import ClientClosed

from .home import TrioHome, home, post
from .limiter import Limiter
from .permit import Outcome, Permit, PostedPermit, check_count
from .portal import portal
from .queue import FAIR, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from throttled_openai._protocol.account import Account
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._stats import BudgetStats

    from .home import Home
    from .permit import Call
    from .portal import Portal

logger = logging.getLogger("throttled_openai")

# Calls in flight that are reached by feeling the way: as many connections as the SDK's own pool opens.
MAX_CONCURRENCY: Final = 1000
# Where the rate is known, and so what it needs. One process cannot serve more, whatever the latency.
MOST_IN_FLIGHT: Final = 10_000
# Files that are left to the rest of the process, and to connections the throttle does not count.
SPARE_FILES: Final = 200
# Seconds between two looks at how late the event loop is, and how late is too late to learn from.
BEAT: Final = 0.25
LATE: Final = 0.1
# Seconds without any movement after which streams that nobody holds any more are looked for.
STUCK: Final = 5.0
# Lanes that are kept: model names may come from the users of a service. Beyond it idle ones go, longest unused first.
MOST_LANES: Final = 2000
# Seconds that `stats()` waits for the thread that decides before it reads what is there.
PATIENCE: Final = 0.2

# The shortcuts for `Limits` that each model has for itself; they exclude `limits`.
_EACH_MODEL: Final = frozenset({"rpm", "tpm", "rpd", "tpd"})


class Throttle:
    """Budgets and queues, shared by every client that is given this throttle.

    `rpm`, `tpm`, `rpd`, `tpd`: limits that each model has for itself. `limits`: one `Limits` that
    all models draw on together, or a mapping from model name to `Limits`, in which a dated
    snapshot falls back to its family. With neither, limits are learnt from the server.
    `max_concurrency`: a ceiling for the calls in flight, all models together. `max_refusals`: how
    often one call may be refused by the server before its last refusal is raised; 0 hands every
    refusal to the SDK's own retries. By default it is sent again for ten minutes while the server
    answers others, and for a minute while it answers none.

    Each account (a server, and key, organization and project there) has these limits for itself:
    what one has used up, learnt or been refused says nothing of another. Only `max_concurrency` is
    for all of them together.

    It serves synchronous clients in any thread, and asynchronous ones on any number of event loops.
    It decides on the event loop of its calls, as long as there is one at a time. With the first
    synchronous call, or a second event loop at the same time, it goes over to a thread that all
    throttles of the process share; with `threads=True` it is there from the start. After `os.fork()`
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
    ) -> None:
        options: dict[str, Any] = {"rpm": rpm, "tpm": tpm, "rpd": rpd, "tpd": tpd, "limits": limits}
        options |= {"max_concurrency": max_concurrency, "max_refusals": max_refusals, "threads": threads}
        self._options: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        each_model = None
        if not rpm is tpm is rpd is tpd is None:
            if limits is not None:
                raise ValueError("write either limits=Limits(rpm=..., tpm=...) or rpm=..., tpm=..., not both")
            each_model = Limits(rpm=rpm, tpm=tpm, rpd=rpd, tpd=tpd)
        self._book = LimitsBook(limits, each_model=each_model)
        if max_concurrency is not None:
            check_count("max_concurrency", max_concurrency, "a number of calls such as 100, or None to find it")
        if max_refusals is not None:
            check_count("max_refusals", max_refusals, "a number such as 20, or 0 to see every refusal", least=0)
        self.max_concurrency = MAX_CONCURRENCY if max_concurrency is None else max_concurrency
        self.most_in_flight = affordable(MOST_IN_FLIGHT) if max_concurrency is None else max_concurrency
        self.max_concurrency = min(self.max_concurrency, self.most_in_flight)
        self.max_refusals = max_refusals
        self.random = random.random  # jitter
        self.arrivals = itertools.count()
        self.threads = threads
        self._portal = portal if threads else None
        self._loop: asyncio.AbstractEventLoop | None = None  # where decisions are made
        self._on_portal = False
        self._process = os.getpid()
        # Held while something is decided, and while that moves to another loop; nobody waits inside it.
        self._lock = threading.RLock()
        self._deciding = False
        self._flying: set[Permit] = set()
        self._homes: set[weakref.ref[Home]] = set()  # of calls since the throttle last looked for closed ones
        self._silent: set[weakref.ref[Home]] = set()  # those that have not answered since they were called
        self._called_at = -math.inf
        self._lanes: dict[object, Limiter] = {}  # replaced, never changed: other threads may be reading it
        self._lane_of: dict[object, Limiter] = {}  # by account, endpoint and model
        self._first_account: Account | None = None  # of the first call
        # By server: the first account there, and the first one that said who it was.
        self._firsts: dict[object, tuple[Account, tuple[object, ...]]] = {}
        self._departed: BudgetStats | None = None  # what lanes that have left have done
        self.in_line: set[Limiter] = set()  # lanes where calls may wait
        self._overtaken = 0  # calls that went before the one that has waited longest, at the common ceiling
        self.streams = 0
        self._moved_at = -math.inf
        self._listened_at = -math.inf
        self.late = False
        self._late_elsewhere = False
        self.stuck_for = STUCK

    def changed(self, **options: Any) -> Throttle:
        """Another throttle, made as this one but for `options`, with budgets of its own."""
        return Throttle(**with_changes(self._options, options))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it decides."""
        assert self._loop is not None, "no call was ever admitted"
        return self._loop

    @property
    def waiting(self) -> int:
        """Calls asked for and not admitted."""
        return sum(lane.queue.waiting for lane in tuple(self.in_line))

    @property
    def in_flight(self) -> int:
        """Attempts admitted and not settled."""
        return len(self._flying)

    @property
    def outlived(self) -> bool:
        """Whether the event loop it served is closed."""
        return self._loop is not None and self._loop.is_closed()

    # Where things are decided

    async def admit(self, call: Call) -> Permit:
        """Wait until `call` may go.

        Raises `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`.
        """
        loop = home()
        if call.home is None:
            call.home = weakref.ref(loop)
        while True:
            entered = self._enter(call, loop)
            if entered is None:
                assert self._portal is not None
                hash(call.home)  # kept from now on, though the loop may be gone when it is asked for
                permit = await self._portal.ask_async(functools.partial(self._admit_here, call), _give_back)
                return self._received(permit)
            if isinstance(entered, Permit):
                return entered
            if not isinstance(entered, Waiter):
                await asyncio.sleep(entered)
                call.waited += entered
                continue
            try:
                admitted = await entered.future
            except BaseException:
                self.decide(entered.lane.abandon, entered)
                raise
            finally:
                call.waited += loop.time() - entered.since
            if admitted is not None:  # otherwise another loop decides now
                return admitted

    def admit_blocking(self, call: Call) -> PostedPermit:
        """As `admit`, for a thread that waits."""
        decides = self._go_over()
        # The calls in flight may be this thread's own event loop's, which goes on when this one returns.
        call.stalls = asyncio._get_running_loop() is not None  # noqa: SLF001  # of the module's public list
        return self._received(decides.ask(functools.partial(self._admit_here, call), _give_back))

    async def _admit_here(self, call: Call) -> PostedPermit:
        """On the portal's loop."""
        call.admission = asyncio.current_task()
        if call.withdrawn:
            raise ClientClosed
        permit = await self.admit(call)
        return PostedPermit(permit, self.loop)

    def _received(self, permit: PostedPermit) -> PostedPermit:
        """Called when the permit reaches the task or thread that waits. A long delay means that it is overloaded."""
        if permit.loop.time() - permit.admitted_at > LATE:
            post(permit.loop, self._hear_of_late)
        return permit

    def _enter(self, call: Call, loop: Home) -> Permit | Waiter | float | None:
        """A permit, a place in line, or seconds to stay out of it; None where `loop` is not the one that decides."""
        if self._process != os.getpid():
            self._begin_anew()
        with self._lock:
            if loop is not self._loop and not self._moves_to(loop):
                return None
            self._deciding = True
            try:
                self._welcome(call)
                lane = self._lane(call.model, call.endpoint, call.account)
                self._listen(loop.time())
                return lane.enter(call)
            finally:
                self._deciding = False

    def decide(self, function: Callable[..., object], *args: object) -> None:
        """Do `function` here and now where things are decided here, and otherwise there, in the order of posting.

        Also later where something is just being decided: finalizers run between any two instructions.
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

    def call_at(self, when: float, function: Callable[[], object]) -> asyncio.TimerHandle:
        return self.loop.call_at(when, self._call_on, self.loop, function)

    def _call_on(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        if loop is self._loop:  # otherwise others decide now
            self.decide(function)

    def _moves_to(self, loop: Home) -> bool:
        """Whether the running `loop` is to decide from now on; holding the lock."""
        old = self._loop
        if self._portal is None and (isinstance(loop, TrioHome) or not self._is_left(old)):
            assert portal.loop is not None  # it starts, or says that it cannot
            self._portal = portal
        if isinstance(loop, TrioHome) or (self._portal is not None and not self._portal.runs(loop)):
            return False
        if self._on_portal:  # which has come to rest, at the interpreter's exit
            self._begin_anew()
            old = None
        if old is not None:
            self._forget_calls_of(self._closed())
        self._loop, self._on_portal = loop, self._portal is not None
        self._listened_at = self._called_at = -math.inf
        self.late = False
        if old is not None:
            # Real loops read one monotonic clock, so what refilled in between counts; virtual ones do not.
            same_clock = abs(old.time() - loop.time()) < 1.0
            for lane in self._lanes.values():
                lane.move(old, same_clock=same_clock)
            self.in_line.clear()
        return True

    def _is_left(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Whether nothing goes on on a loop, so that another may decide in its place."""
        if loop is None or loop.is_closed():
            return True
        return not (loop.is_running() or self.waiting or self.in_flight)

    def _go_over(self) -> Portal:
        """Decide on the portal's thread, from the next call on."""
        if self._process != os.getpid():
            self._begin_anew()
        with self._lock:
            self._portal = self._portal or portal
            return self._portal

    def _begin_anew(self) -> None:
        """In a forked child. What was under way is the parent's; what it knew may be half written."""
        self._process, self._lock, self._deciding = os.getpid(), threading.RLock(), False
        self._lanes, self._loop, self._on_portal, self.streams = {}, None, False, 0
        self._lane_of.clear()
        self._firsts.clear()
        self._first_account = None
        self.in_line.clear()
        self._homes.clear()
        self._flying, self._departed = set(), None

    def _welcome(self, call: Call) -> None:
        """A new event loop may come in the place of one that ended with calls in flight."""
        if call.home is not None and call.home not in self._homes:
            self._look_for_closed()
            self._homes.add(call.home)

    def _closed(self) -> set[weakref.ref[Home]]:
        return {ref for ref in self._homes if _is_closed(ref())}

    def _look_for_closed(self) -> None:
        """Clear away what closed event loops left, once all is done that was posted from there before."""
        gone = self._closed()
        if gone:
            post(self.loop, self.decide, self._clear_away, gone)

    def _clear_away(self, gone: set[weakref.ref[Home]]) -> None:
        self._forget_calls_of(gone)
        for lane in tuple(self.in_line):
            lane.admit_waiting()

    def _forget_calls_of(self, gone: set[weakref.ref[Home]]) -> None:
        """Calls in flight or waiting on event loops that are gone: nobody will settle them."""
        if gone:
            self._homes -= gone
            for permit in [permit for permit in self._flying if permit.call.home in gone]:
                self._forget(permit)
            for lane in tuple(self.in_line):
                lane.forget_waiting(gone)

    def _forget(self, permit: Permit) -> None:
        permit.settled = True
        self._flying.discard(permit)
        self.streams -= permit.counted
        permit.lane.forget(permit)

    # What is decided

    def observe(self, announcement: Announcement, account: Account | None = None) -> None:
        """Limits announced on a response that needed no permit: they are told where there is no doubt for whom."""
        if announcement.requests or announcement.tokens:
            self.decide(self._observe, announcement, account)

    def _observe(self, announcement: Announcement, account: Account | None) -> None:
        if len(self._lanes) == 1:
            for lane in self._lanes.values():
                if account is None or self._known_as(account) == lane.account:
                    lane.observe(announcement)
                    lane.admit_waiting()

    def admitted(self, permit: Permit) -> None:
        """A lane admits an attempt."""
        self._flying.add(permit)

    def settle(
        self, lane: Limiter, permit: Permit, outcome: Outcome, refusal: Refusal | None = None, response: Any = None
    ) -> None:
        """An attempt ended; two threads may say so."""
        if not permit.settled:
            permit.settled = True
            self._flying.discard(permit)
            self.streams -= permit.counted
            lane.settle(permit, outcome, refusal, response)

    def _lane(self, model: str, endpoint: str = "", account: Account | None = None) -> Limiter:
        """The lane of that model; without an account, of the first that called."""
        if account is None:
            account = self._first_account or NOBODY
        whose = account, endpoint, model
        lane = self._lane_of.get(whose)
        if lane is None:
            account = self._known_as(account)
            key, name, limits = self._book.find(model, endpoint)
            lane = self._lanes.get((account, key))
            if lane is None:
                lane = self._new_lane(account, key, name, limits)
            if len(self._lane_of) >= 4 * MOST_LANES:
                self._lane_of.clear()
            self._lane_of[whose] = lane
        return lane

    def _known_as(self, account: Account) -> Account:
        """The one its lanes are under: requests that do not say who asks are taken for the first account's there."""
        server = account[:3]
        first, owner = self._firsts.setdefault(server, (account, account.owner))
        if account.owner and not owner:
            owner = account.owner
            self._firsts[server] = first, owner
        return first if not account.owner or account.owner == owner else account

    def _new_lane(self, account: Account, key: object, name: str, limits: Limits | None) -> Limiter:
        if len(self._lanes) >= MOST_LANES:
            self._dismiss_idle()
        self._first_account = self._first_account or account
        lane = Limiter(self, name, limits, account)
        self._lanes = {**self._lanes, (account, key): lane}
        return lane

    def _dismiss_idle(self) -> None:
        """Let up to a quarter of the lanes go: idle ones, longest unused first. What they have done stays counted."""
        idle = sorted((lane for lane in self._lanes.values() if lane.is_idle), key=operator.attrgetter("used_at"))
        going = set(idle[: MOST_LANES // 4])
        self._departed = sum_of([*self._departed_stats(), *(lane.stats() for lane in going)], "other models")
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane not in going}
        self._lane_of = {whose: lane for whose, lane in self._lane_of.items() if lane not in going}

    def share(self, lane: Limiter, group: str) -> None:
        """The server said that `lane`'s model draws on the limits of `group`: from now on they have one budget."""
        key, name, limits = self._book.find(group)
        if name == lane.name or not self._book.is_each(lane.name):
            return
        other = self._lanes.get((lane.account, key))
        if other is None:
            other = self._new_lane(lane.account, key, name, limits)
            other.budget = lane.budget
        if other.budget is not lane.budget:
            lane.budget = other.budget
            logger.info("%s: draws on the limits of %s", lane.name, name)

    @property
    def most_connections(self) -> int:
        """As many as its calls may need, and those of copies of its clients, which keep the connections."""
        return max(self.most_in_flight, affordable(MOST_IN_FLIGHT))

    def held_by_its_ceiling(self) -> None:
        """Calls wait for this throttle's ceiling. Warn if open files set it: that is no choice of the user."""
        if "max_concurrency" not in self._options and self.most_in_flight < MOST_IN_FLIGHT:
            _warn_of_files(self.most_in_flight)

    def has_room(self) -> bool:
        """Whether the ceiling of all lanes together leaves room for one more; each lane keeps to it by itself."""
        return len(self._lanes) == 1 or self.in_flight < self.most_in_flight

    def admit_waiting(self, lane: Limiter) -> None:
        """Something changed in `lane`, and if the ceiling was what held others back, for them too."""
        if len(self._lanes) == 1 or self.in_flight < self.most_in_flight - 1 or self.in_line <= {lane}:
            lane.admit_waiting()
            return
        # The oldest first, or a busy model would keep the ceiling to itself. And now and then the one
        # that has waited longest, or a model whose calls are urgent would.
        waiting = [each for each in self.in_line if each.queue.waiting and each is not lane]
        line = sorted([lane, *waiting], key=lambda each: each.queue.head())
        longest = min(line, key=lambda each: each.queue.longest())
        if self._overtaken >= FAIR - 1:
            longest.queue.favour_longest()
            line.insert(0, longest)
        for each in line:
            before = each.admitted
            each.admit_waiting()
            if each.admitted > before:
                self._overtaken = 0 if each is longest else self._overtaken + each.admitted - before

    def _listen(self, now: float) -> None:
        """Look from time to time how late the event loop is.

        One that is busy all the time takes time for latency: more calls in flight would only wait
        in this process, for longer and longer.
        """
        if now - self._listened_at >= BEAT:
            self._listened_at = now
            self.loop.call_soon(self._heard, self.loop, now)

    def _heard(self, loop: asyncio.AbstractEventLoop, asked_at: float) -> None:
        self.late = self._late_elsewhere or loop.time() - asked_at > LATE
        self._late_elsewhere = False

    def _hear_of_late(self) -> None:
        self.late = self._late_elsewhere = True

    def moved(self, now: float) -> None:
        """An attempt ended."""
        self._listen(now)
        self._moved_at = now
        self.stuck_for = STUCK

    @property
    def may_be_stuck(self) -> bool:
        """Whether places may be held by dropped streams, or calls of event loops that have ended."""
        return self.streams > 0 or (self._portal is not None and bool(self._homes))

    def stuck_at(self, now: float) -> float:
        """When to look for them, if nothing moves until then."""
        return now + self.stuck_for if self.may_be_stuck else math.inf

    def collect_dropped_streams(self) -> None:
        """Free the permits of streams that nobody holds any more, and of event loops that have stopped or stand still.

        The SDK's stream and its generator refer to each other, so one that was left by `break` is
        only freed by the cyclic garbage collector, which does not run while nothing happens.
        """
        now = self.loop.time()
        if now - self._moved_at >= self.stuck_for:
            self.stuck_for *= 2
            if now - self._called_at >= STUCK:
                self._called_at = now
                self._call_homes()
            if self.streams:
                gc.collect()

    def _call_homes(self) -> None:
        """Forget the calls of event loops that have not answered since the last time, and call all others again."""
        self._clear_away(self._closed() | self._silent)
        self._silent = set(self._homes)
        for ref in self._homes:
            loop = ref()
            if loop is not None:
                post(loop, self._silent.discard, ref)

    def stats(self) -> Stats:
        """What the throttle knows, what waits, and what it did.

        From a thread where it does not decide, and that may hold what the deciding one waits for,
        such as the lock of a log handler, it is asked for a moment; then it is read as it is.
        """
        if self._process != os.getpid():
            self._begin_anew()
        if self._portal is not None and self._loop is not None and not self._portal.here:
            try:
                return self._portal.ask(self._stats_here, patience=PATIENCE)
            except (TimeoutError, RuntimeError):
                return self._stats()
        if self._loop is not None and self._loop.is_closed():
            with self._lock:
                if self._loop.is_closed():
                    self._forget_calls_of(self._closed())
        return self._stats()

    async def _stats_here(self) -> Stats:
        """On the portal's loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop is self._loop or self._moves_to(loop):
                self._look_for_closed()
        await asyncio.sleep(0)  # until that is done
        with self._lock:
            return self._stats()

    def _stats(self) -> Stats:
        lanes = list(self._lanes.values())
        return Stats(
            waiting=self.waiting,
            in_flight=self.in_flight,
            budgets=(*(lane.stats() for lane in lanes), *self._departed_stats()),
        )

    def _departed_stats(self) -> list[BudgetStats]:
        return [] if self._departed is None else [self._departed]

    def __repr__(self) -> str:
        # Asks nobody: a log handler formats with its lock held, which the portal may be waiting for.
        return f"<Throttle [{self._stats().summary()}]>"


def _is_closed(loop: Home | None) -> bool:
    return loop is None or loop.is_closed()


def _give_back(permit: Permit) -> None:
    permit.release(Outcome.UNSENT)


def with_changes(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`options` of a throttle, but for `changes`: limits of each model and of all together exclude each other."""
    kept = dict(options)
    if "limits" in changes:
        kept = {name: value for name, value in kept.items() if name not in _EACH_MODEL}
    elif not _EACH_MODEL.isdisjoint(changes):
        kept.pop("limits", None)
    return {**kept, **changes}


def check_given(throttle: object, limits: Mapping[str, Any]) -> None:
    """Raise unless a client may be given this throttle, beside these options."""
    if not isinstance(throttle, Throttle):
        raise TypeError(f"throttle must be a throttled_openai.Throttle, got {type(throttle).__name__}")
    if limits:
        raise ValueError(
            f"a throttle has its own limits: give {', '.join(limits)} to Throttle(...), or leave out throttle="
        )


def affordable(connections: int) -> int:
    """As many of `connections` as this process may have files; 256 on a Mac, often 1,024 on Linux."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return connections
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, files - min(SPARE_FILES, files // 2))


@functools.cache  # once for the process
def _warn_of_files(connections: int) -> None:
    logger.warning(
        "no more than %s calls can be in flight, and others wait: each takes a connection, and this process may have "
        "%s open files (ulimit -n). Raise that before it starts, for example: ulimit -n 10240",
        f"{connections:,}",
        f"{_open_files():,}",
    )


def _open_files() -> int:
    import resource  # noqa: PLC0415  # not on Windows, where there is no such limit

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
