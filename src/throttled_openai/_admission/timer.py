"""The timer of one limiter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .home import post

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Timer:
    """The instant `at` which a limiter is served again; infinity if none is set."""

    __slots__ = ("at", "handle")

    def __init__(self) -> None:
        self.at = math.inf
        self.handle: asyncio.TimerHandle | None = None

    def set(self, at: float, loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: object) -> None:
        """Call `function` at the instant `at`, or earlier.

        A timer that fires too early only makes the limiter look again, which is cheaper than cancelling it each time.
        """
        if self.handle is not None:
            if self.at <= at < math.inf:
                return
            self.handle.cancel()
            self.handle, self.at = None, math.inf
        if at < math.inf and not loop.is_closed():
            self.handle, self.at = loop.call_at(at, function, *args), at

    def fired(self) -> None:
        self.handle, self.at = None, math.inf

    def cancel_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel it where it was set: `loop` may run in another thread."""
        if self.handle is not None:
            post(loop, self.handle.cancel)
        self.fired()
