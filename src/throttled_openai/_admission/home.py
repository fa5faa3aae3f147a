"""The home of a call: the event loop, asyncio's or trio's, that its task runs on."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


def home() -> asyncio.AbstractEventLoop | TrioHome:
    """The event loop of the running task. Raises `RuntimeError` if no event loop runs."""
    if "trio" in sys.modules:
        import sniffio  # noqa: PLC0415  # comes with trio

        with contextlib.suppress(sniffio.AsyncLibraryNotFoundError):
            if sniffio.current_async_library() == "trio":
                return _trio_home()
    return asyncio.get_running_loop()


def post(loop: asyncio.AbstractEventLoop | TrioHome, function: Callable[..., object], *args: object) -> bool:
    """Call `function` on `loop`, in the order of posting; may be used in any thread, and in finalizers.

    Returns False if the loop is closed: then nothing happens.
    """
    with contextlib.suppress(RuntimeError):
        # A new context: the caller's would live as long as any timer that `function` sets.
        loop.call_soon_threadsafe(function, *args, context=contextvars.Context())
        return True
    return False


@functools.cache
def _trio_homes(trio: Any) -> Any:
    """A variable that each run of trio has for itself."""
    return trio.lowlevel.RunVar("throttled_openai_home", default=None)


def _trio_home() -> TrioHome:
    trio = sys.modules["trio"]
    homes = _trio_homes(trio)
    run: TrioHome | None = homes.get()
    if run is None:
        run = TrioHome(trio)
        homes.set(run)
    return run


class TrioHome:
    """A run of trio, with the methods of an event loop that we use."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def call_soon_threadsafe(self, callback: Callable[..., object], /, *args: Any, context: Any = None) -> None:
        del context
        # RunFinishedError is a RuntimeError.
        self._token.run_sync_soon(callback, *args)

    def create_future(self) -> _TrioFuture:
        return _TrioFuture(self._trio.Event())

    def create_task(self, coro: Coroutine[Any, Any, object], /) -> None:
        self._trio.lowlevel.spawn_system_task(_harmless, coro)

    def is_closed(self) -> bool:
        try:
            self._token.run_sync_soon(int, idempotent=True)
        except RuntimeError:
            return True
        return False

    def is_running(self) -> bool:
        return not self.is_closed()

    def time(self) -> float:
        return float(self._trio.current_time())


async def _harmless(coroutine: Coroutine[Any, Any, object]) -> None:
    """Suppress errors, which would end the whole run."""
    with contextlib.suppress(Exception):
        await coroutine


class _TrioFuture:
    """The part of a future that a waiting task needs."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def __await__(self) -> Any:
        waiting: Awaitable[None] = self._event.wait()
        return waiting.__await__()

    def done(self) -> bool:
        return bool(self._event.is_set())

    def set_result(self, result: object) -> None:
        del result
        self._event.set()


Home = asyncio.AbstractEventLoop | TrioHome
