"""Virtual time for tests: an event loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor
    from contextvars import Context

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 and jumps to its next timer instead of sleeping until it.

    Functions meant for a thread run inline, which keeps the order of events the same in every run. If only
    a socket or a thread can wake a task, the loop really waits; if nothing can, it raises.

    `tick`: seconds that each turn of the loop takes, in addition to the jumps. Without it, code that
    repeatedly waits for less than the clock can represent would loop for ever.

    Floats get coarser as they grow: after 2**24 seconds (half a year) the next instant is 4 ns away,
    after 2**40 a quarter of a millisecond. Timers are then due at the next instant at the earliest.
    """

    if TYPE_CHECKING:  # attributes of asyncio's base class
        _clock_resolution: float
        _scheduled: list[asyncio.TimerHandle]

    def __init__(self, *, tick: float = 0.0) -> None:
        self._virtual_now = 0.0
        self._tick = tick
        super().__init__(_JumpingSelector(self))
        self._finest: float = self._clock_resolution

    def turn(self) -> None:
        self._virtual_now += self._tick

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Advance the clock without running anything in between."""
        self._go_to(self._virtual_now + seconds)

    def jump_to_next_timer(self) -> None:
        self._go_to(max(self._virtual_now, self._scheduled[0].when()))

    def _go_to(self, now: float) -> None:
        self._virtual_now = now
        # The loop runs the timers of the next `_clock_resolution` seconds: none, if adding that changes nothing.
        self._clock_resolution = max(self._finest, math.ulp(self._virtual_now))

    def call_at(
        self, when: float, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        now = self._virtual_now
        if when == now and math.ulp(now) > self._finest:  # probably a wait below the clock's resolution
            when = math.nextafter(now, math.inf)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        del executor
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # raised where the future is awaited
            future.set_exception(error)
        return future


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # The loop's own wake-up pipe is always registered; with nothing else and no thread, nothing can wake it.
        if timeout is None and len(self.get_map()) <= 1 and threading.active_count() == 1:
            raise RuntimeError(
                "deadlock: every task waits and no timer, socket or thread is left to wake one; "
                "something awaited is never set"
            )
        self._loop.turn()
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self._loop.jump_to_next_timer()
        return ready


def virtual_run(main: Coroutine[object, object, _T]) -> _T:
    """Run `main` on a `VirtualTimeLoop`, as `asyncio.run` does on a real one."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
