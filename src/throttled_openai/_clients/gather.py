"""`gather` and `as_completed` as asyncio has them, with a progress bar."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from .bar import display_for, progress_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable

    from .bar import Display

T = TypeVar("T")

# Seconds between two looks at what is done.
_EVERY: Final = 0.2


@overload
def gather(
    *calls: Awaitable[T], progress: Any = True, return_exceptions: Literal[False] = False
) -> asyncio.Future[list[T]]: ...
@overload
def gather(
    *calls: Awaitable[T], progress: Any = True, return_exceptions: bool
) -> asyncio.Future[list[T | BaseException]]: ...
def gather(*calls: Awaitable[Any], progress: Any = True, return_exceptions: bool = False) -> asyncio.Future[list[Any]]:
    """As `asyncio.gather`, with a bar of what is done and of the time left by the limits.

    `progress`: True shows what suits the notebook, terminal or log; False nothing. It may also be tqdm's class, or a
    `rich.progress.Progress` that you have started. Results, errors and cancellation are those of `asyncio.gather`.
    """
    display = display_for(progress)
    tasks = _tasks(calls)
    gathered = asyncio.gather(*(tasks[call] for call in calls), return_exceptions=return_exceptions)
    if display is not None and tasks:
        bar = _Bar(list(tasks.values()), display)
        gathered.add_done_callback(lambda _: bar.close())
    return gathered


async def as_completed(calls: Iterable[Awaitable[T]], *, progress: Any = True) -> AsyncIterator[asyncio.Future[T]]:
    """Tasks of the calls, in the order in which they end.

    `async for task in as_completed(calls): print(task.result())`

    With a bar as `gather` has it. A loop that is left early leaves the other calls running, as with asyncio's.
    """
    display = display_for(progress)
    done: asyncio.Queue[asyncio.Future[T]] = asyncio.Queue()
    tasks = list(_tasks(tuple(calls)).values())
    for task in tasks:
        task.add_done_callback(done.put_nowait)
    bar = _Bar(tasks, display) if display is not None and tasks else None
    try:
        for _ in tasks:
            yield await done.get()
    finally:
        if bar is not None:
            bar.close()


def _tasks(calls: tuple[Awaitable[Any], ...]) -> dict[Awaitable[Any], asyncio.Future[Any]]:
    """The task of each call; one that is given twice has one task, as with asyncio."""
    asyncio.get_running_loop()  # raises here, rather than for each call
    return {call: asyncio.ensure_future(call) for call in dict.fromkeys(calls)}


class _Bar:
    """Shows how many of `tasks` are done until it is closed. No error of a display ever reaches a call."""

    def __init__(self, tasks: list[asyncio.Future[Any]], display: Display) -> None:
        self._total = len(tasks)
        self._done = self._failed = 0
        self._display: Display | None = display
        for task in tasks:
            task.add_done_callback(self._count)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._show()  # before the first call begins: that of thousands takes a second
        self._timer = self._loop.call_soon(self._tick)

    def _count(self, task: asyncio.Future[Any]) -> None:
        self._done += 1
        self._failed += task.cancelled() or task.exception() is not None

    def _tick(self) -> None:
        self._show()
        self._timer = self._loop.call_later(_EVERY, self._tick)

    def _show(self, *, last: bool = False) -> None:
        if self._display is not None:
            with contextlib.suppress(Exception):
                self._display.show(progress_of(self._total, self._done, self._failed), last=last)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._show(last=True)
        self._display = None
