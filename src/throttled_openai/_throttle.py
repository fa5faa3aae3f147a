"""The throttle: the budgets that clients share, each with its lane, on one event loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import math
import random
from typing import TYPE_CHECKING, Any, Final

from ._core.limits import Limits, LimitsBook
from ._core.stats import Stats
from ._lane import Lane
from ._permit import Outcome, PostedPermit, check_count
from ._portal import portal, post

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from ._core.headers import Announcement
    from ._permit import Call, Permit
    from ._portal import Portal

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

    One event loop at a time; several in turn are fine. With `threads=True` it serves synchronous
    clients in any thread, and asynchronous ones on any number of event loops at once: it then
    decides on a thread of its own, which all throttles of the process share. After `os.fork()` the
    child begins anew, with the same limits.
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
        self.max_refusals = max_refusals
        self.random = random.random  # jitter
        self.arrivals = itertools.count()
        self.threads = threads
        self._portal = portal if threads else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: dict[object, Lane] = {}  # replaced, never changed: other threads may be reading it
        self._lane_of: dict[object, Lane] = {}  # by model, or by endpoint and model
        self._moved_at = -math.inf
        self._listened_at = -math.inf
        self.late = False
        self._late_elsewhere = False
        self.stuck_for = STUCK

    def changed(self, **options: Any) -> Throttle:
        """Another throttle, made as this one but for `options`, with budgets of its own."""
        kept = dict(self._options)
        if "limits" in options:
            kept = {name: value for name, value in kept.items() if name not in _EACH_MODEL}
        elif not _EACH_MODEL.isdisjoint(options):
            kept.pop("limits", None)
        return Throttle(**{**kept, **options})

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "no call was ever admitted"
        return self._loop

    @property
    def waiting(self) -> int:
        """Calls asked for and not admitted."""
        return sum(lane.queue.waiting for lane in self._lanes.values())

    @property
    def in_flight(self) -> int:
        """Attempts admitted and not settled."""
        return sum(lane.in_flight for lane in self._lanes.values())

    def admit(self, call: Call) -> Coroutine[Any, Any, Permit]:
        """Wait until `call` may go.

        Raises `AdmissionTimeout`, `QueueFull` or `RequestTooLarge`.
        """
        if self._portal is not None:
            return self._admit_there(self._portal, call)
        return self._enter(call)

    def admit_blocking(self, call: Call) -> PostedPermit:
        """As `admit`, for a thread that waits; the throttle has to have `threads=True`."""
        assert self._portal is not None, "no throttle for threads"
        return self._received(self._portal.ask(functools.partial(self._admit_here, call), _give_back))

    async def _admit_there(self, portal: Portal, call: Call) -> Permit:
        return self._received(await portal.ask_async(functools.partial(self._admit_here, call), _give_back))

    async def _admit_here(self, call: Call) -> PostedPermit:
        """On the portal's loop."""
        permit = await self._enter(call)
        return PostedPermit(permit, self.loop)

    def _received(self, permit: PostedPermit) -> PostedPermit:
        """The thread that asked has it now, perhaps much later: it, or all of the process, is busy."""
        if permit.loop.time() - permit.admitted_at > LATE:
            post(permit.loop, self._hear_of_late)
        return permit

    def _enter(self, call: Call) -> Coroutine[Any, Any, Permit]:
        lane = self._lane(call.model, call.endpoint)
        self._listen(self.loop.time())
        return lane.admit(call)

    def observe(self, announcement: Announcement) -> None:
        """Limits announced on a response that needed no permit: they are told where there is no doubt for whom."""
        if self._portal is None:
            self._observe(announcement)
        elif self._loop is not None and (announcement.requests or announcement.tokens):
            post(self._loop, self._observe, announcement)

    def _observe(self, announcement: Announcement) -> None:
        if len(self._lanes) == 1 and self._loop is asyncio.get_running_loop():
            for lane in self._lanes.values():
                lane.observe(announcement)
                lane.admit_waiting()

    def _lane(self, model: str, endpoint: str = "") -> Lane:
        self._settle_down()
        whose = (endpoint, model) if endpoint else model
        lane = self._lane_of.get(whose)
        if lane is None:
            key, name, limits = self._book.find(model, endpoint)
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._new_lane(key, name, limits)
            self._lane_of[whose] = lane
        return lane

    def _new_lane(self, key: object, name: str, limits: Limits | None) -> Lane:
        lane = Lane(self, name, limits)
        self._lanes = {**self._lanes, key: lane}
        return lane

    def share(self, lane: Lane, group: str) -> None:
        """The server said that `lane`'s model draws on the limits of `group`: from now on they have one budget."""
        key, name, limits = self._book.find(group)
        if name == lane.name or not self._book.is_each(lane.name):
            return
        other = self._lanes.get(key)
        if other is None:
            other = self._new_lane(key, name, limits)
            other.budget = lane.budget
        if other.budget is not lane.budget:
            lane.budget = other.budget
            logger.info("%s: draws on the limits of %s", lane.name, name)

    def _settle_down(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        old, self._loop = self._loop, loop
        if old is None:
            return
        if self._portal is not None:
            # A forked child. What was under way is the parent's; what it knew may be half written.
            self._lanes = {}
        elif old.is_running() and (self.waiting or self.in_flight):
            self._loop = old
            raise RuntimeError(
                "this Throttle is in use on another event loop that is still running; "
                "give each running loop a client of its own, or all of them one Throttle(threads=True)"
            )
        self._listened_at, self.late = -math.inf, False
        # Real loops read one monotonic clock, so what refilled in between counts; virtual ones do not.
        same_clock = abs(old.time() - loop.time()) < 1.0
        self._lanes = {key: lane.moved(same_clock=same_clock) for key, lane in self._lanes.items()}
        self._lane_of.clear()

    @property
    def most_connections(self) -> int:
        """As many as its calls may need, and those of copies of its clients, which keep the connections."""
        return max(self.most_in_flight, affordable(MOST_IN_FLIGHT))

    def has_room(self) -> bool:
        """Whether the ceiling of all lanes together leaves room for one more; each lane keeps to it by itself."""
        return len(self._lanes) == 1 or self.in_flight < self.most_in_flight

    def admit_waiting(self, lane: Lane) -> None:
        """Something changed in `lane`, and if the ceiling was what held others back, for them too."""
        if len(self._lanes) == 1:
            lane.admit_waiting()
            return
        others = [other for other in self._lanes.values() if other.queue.waiting and other is not lane]
        if others and self.in_flight >= self.most_in_flight - 1:
            # The oldest first, or a busy model would keep the ceiling to itself.
            for other in sorted([lane, *others], key=lambda other: other.queue.head()):
                other.admit_waiting()
        else:
            lane.admit_waiting()

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
        if self._portal is None or self._loop is None or self._portal.here:
            return self._stats()
        return self._portal.ask(self._stats_here)

    async def _stats_here(self) -> Stats:
        self._settle_down()
        return self._stats()

    def _stats(self) -> Stats:
        return Stats(
            waiting=self.waiting,
            in_flight=self.in_flight,
            budgets=tuple(lane.stats() for lane in list(self._lanes.values())),
        )

    def __repr__(self) -> str:
        # Asks nobody: a log handler formats with its lock held, which the portal may be waiting for.
        return f"<Throttle [{self._stats().summary()}]>"


def _give_back(permit: Permit) -> None:
    permit.release(Outcome.UNSENT)


def throttle_from(throttle: Throttle | None = None, *, threads: bool = False, **options: Any) -> Throttle:
    """The throttle that was given, or one made of the limits that were; one for `threads` where that is asked for."""
    if throttle is None:
        return Throttle(**options, threads=threads)
    if not isinstance(throttle, Throttle):
        raise TypeError(f"throttle must be a throttled_openai.Throttle, got {type(throttle).__name__}")
    if options:
        raise ValueError(
            f"a throttle has its own limits: give {', '.join(options)} to Throttle(...), or leave out throttle="
        )
    if threads and not throttle.threads:
        raise ValueError(
            "this throttle decides on an event loop, and a synchronous client has none: make it with "
            "Throttle(..., threads=True), which synchronous and asynchronous clients may share"
        )
    return throttle


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
