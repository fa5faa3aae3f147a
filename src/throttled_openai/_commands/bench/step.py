"""The step: one load through one client, while it runs and afterwards."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .call import TimedCall
from .figures import MeasuredWindow, TimeBin, figures, percentile, timeline

if TYPE_CHECKING:
    from throttled_openai._clients.async_client import ThrottledAsyncOpenAI
    from throttled_openai._stats import Stats, WindowStats

    from .bounds import Bounds
    from .endpoint import Endpoint
    from .figures import Figures
    from .load import Load, Prompts

# Requests per minute that never bind. With a known rate the client does not search for a concurrency limit
# of its own, which would hide how the server behaves beyond it.
UNBOUND: Final = 60_000_000.0
# Calls that wait for admission when the client sets the concurrency: more than it admits at a time.
_BACKLOG: Final = 100
# Seconds to wait after the end for answers still under way; at least as long as the step took.
_GRACE: Final = 60.0
# Seconds between two samples of the event loop's lag.
_SAMPLE_INTERVAL: Final = 0.05


class Step:
    """One load. Its figures are valid at any time, also after it was cancelled."""

    def __init__(
        self,
        client: ThrottledAsyncOpenAI,
        endpoint: Endpoint,
        prompts: Prompts,
        load: Load,
        bounds: Bounds | None = None,
    ) -> None:
        self.load = load
        self._bounds = bounds
        self.calls: list[TimedCall] = []
        self.done = self.failed = 0
        self._client = client
        self._endpoint = endpoint
        self._prompts = prompts
        self._tasks: dict[asyncio.Task[None], TimedCall] = {}
        self._slots = asyncio.Semaphore(load.concurrency or _BACKLOG)
        self.began_at = self._window_start = math.inf
        self._ended: float | None = None
        self._stats = client.throttle.stats()
        self._refused_before: int | None = None
        self._lags: list[float] = []

    async def run(self) -> None:
        """Send the load and wait for its answers."""
        loop = asyncio.get_running_loop()
        self.began_at = loop.time()
        self._window_start = self.began_at + self.load.warming
        listener = asyncio.create_task(self._watch_loop())
        try:
            if self.load.rate is None:
                await self._fill()
            else:
                await self._arrive()
            await self._drain()
            if self._ended is None:  # it had a number of calls
                self._ended = max((call.done_at for call in self.calls if call.done_at is not None), default=None)
        finally:
            listener.cancel()
            self._ended = loop.time() if self._ended is None else min(self._ended, loop.time())
            if self.load.rate is None:
                self._forget_unsent()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(listener, *tasks, return_exceptions=True)
            self._stats = self._client.throttle.stats()

    # Sending

    async def _arrive(self) -> None:
        """Make calls at their scheduled instants, independent of the others."""
        for at in self.load.arrivals:
            due_at = self.began_at + at
            await _sleep_until(due_at)
            if due_at >= self._window_start:
                self._count_from_here()
            self._start(due_at)
        if self._deadline is not None and self.load.horizon == self.load.duration:
            await _sleep_until(self._deadline)
            self._ended = self._deadline

    async def _fill(self) -> None:
        """Make a call whenever one more may be in flight or, if the client decides that, may wait for admission."""
        load, loop = self.load, asyncio.get_running_loop()
        if load.warm_up_calls:
            self._window_start = math.inf
        counted = number = 0
        while load.calls is None or counted < load.calls:
            in_time = await self._acquire_slot()
            now = loop.time()
            if not in_time or (self._deadline is not None and now >= self._deadline):
                self._ended = self._deadline
                self._forget_unsent()
                return
            number += 1
            if number > load.warm_up_calls and now >= self.began_at + load.warm_up:
                self._window_start = min(self._window_start, now)
                self._count_from_here()
                counted += 1
            self._start(now)

    async def _acquire_slot(self) -> bool:
        """False: the deadline came first."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    @property
    def _deadline(self) -> float | None:
        if self.load.duration is None or self._window_start == math.inf:
            return None
        return self._window_start + self.load.duration

    def _start(self, due_at: float) -> None:
        call = TimedCall(due_at=due_at, asked_at=asyncio.get_running_loop().time())
        if self.load.rate is None and self.load.concurrency is None:
            call.on_sent = self._slots.release
        self.calls.append(call)
        task = asyncio.create_task(self._endpoint.make(self._client, self._prompts.next(), call))
        self._tasks[task] = call
        task.add_done_callback(partial(self._call_ended, call))

    def _call_ended(self, call: TimedCall, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.done += call.answered
        self.failed += call.failure is not None
        if self.load.rate is None and (call.on_sent is None or not call.attempts):
            self._slots.release()

    def _count_from_here(self) -> None:
        if self._refused_before is None:
            self._refused_before = self._client.throttle.stats().refused

    def _forget_unsent(self) -> None:
        """Drop the calls that only waited for others to end."""
        for task, call in self._tasks.items():
            if not call.attempts:
                task.cancel()
        self.calls = [call for call in self.calls if call.attempts or call.ended]

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=max(_GRACE, loop.time() - self.began_at))

    async def _watch_loop(self) -> None:
        """Sample the event loop's lag, because time that this process takes itself looks like latency."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_INTERVAL
            await asyncio.sleep(_SAMPLE_INTERVAL)
            self._lags.append(max(0.0, loop.time() - due))

    # Results

    @property
    def _now(self) -> float:
        if self._ended is not None:
            return self._ended
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:  # never ran
            return self.began_at

    @property
    def window(self) -> MeasuredWindow:
        """The measured time. With a number of calls it ends with the last answer."""
        return MeasuredWindow(min(self._window_start, self._now), self._now)

    @property
    def stats(self) -> Stats:
        """The client's statistics, now or as they were at the end."""
        return self._stats if self._ended is not None else self._client.throttle.stats()

    @property
    def limits(self) -> tuple[WindowStats, ...]:
        """The known rate limits: announced or configured."""
        return tuple(
            window
            for budget in self.stats.budgets
            for window in budget.windows
            if window.announced or window.dimension == "tokens" or window.limit < UNBOUND
        )

    @property
    def concurrency_limit(self) -> int | None:
        return max((budget.concurrency_limit for budget in self.stats.budgets), default=None)

    @property
    def refused(self) -> int:
        """Refused attempts since the measured time began."""
        return 0 if self._refused_before is None else self.stats.refused - self._refused_before

    @property
    def loop_lag(self) -> float:
        """The 99th percentile of the event loop's lag, in seconds."""
        return percentile(sorted(self._lags), 0.99) if self._lags else 0.0

    def figures(self) -> Figures:
        return figures(self.calls, self.window, self._bounds, refused_attempts=self.refused)

    def timeline(self) -> list[TimeBin]:
        """The rates over time from the first call on, warm-up included."""
        return timeline(self.calls, self.began_at, self.window.end) if self.calls else []

    def progress(self) -> str:
        """One line of progress."""
        seconds = self._now - self.began_at
        of = "" if self.load.horizon is None else f" of {self.load.warming + self.load.horizon:.0f}"
        rate = self.done / seconds if seconds > 0 else 0.0
        return (
            f"{self.load}: {seconds:.1f}{of} s, {len(self._tasks):,} under way, {self.done:,} done, "
            f"{self.failed:,} failed, {self.stats.refused:,} refused, {rate:.1f} calls/s"
        )


def holding(client: ThrottledAsyncOpenAI, concurrency: int, *, rpm: float | None = None) -> ThrottledAsyncOpenAI:
    """The same client and connections, with `concurrency` calls in flight from the start.

    `rpm`: the limit that `client` was configured with, if any. Announced limits still apply.
    """
    client_of_any_class: Any = client
    made: ThrottledAsyncOpenAI = client_of_any_class.with_options(max_concurrency=concurrency, rpm=rpm or UNBOUND)
    return made


async def _sleep_until(at: float) -> None:
    loop = asyncio.get_running_loop()
    if at > loop.time():
        await asyncio.sleep(at - loop.time())
