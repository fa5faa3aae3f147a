"""How late the deciding event loop runs its callbacks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

# Seconds between two measurements, and the delay above which latencies are ignored.
INTERVAL: Final = 0.25
LATE: Final = 0.1


class LoopLag:
    """Whether the event loop, or a thread that waits for it, is too busy for latencies to mean anything.

    A busy loop mistakes its own delay for latency: more calls in flight would only wait inside this
    process, for longer and longer.
    """

    def __init__(self) -> None:
        self.late = False
        self._late_elsewhere = False
        self._measured_at = -math.inf

    def reset(self) -> None:
        """Another event loop decides from now on."""
        self.late, self._measured_at = False, -math.inf

    def measure(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Measure the delay of one callback, if the last measurement is old enough."""
        if now - self._measured_at >= INTERVAL:
            self._measured_at = now
            loop.call_soon(self._measured, loop, now)

    def _measured(self, loop: asyncio.AbstractEventLoop, asked_at: float) -> None:
        self.late = self._late_elsewhere or loop.time() - asked_at > LATE
        self._late_elsewhere = False

    def late_elsewhere(self) -> None:
        """A thread received its permit late."""
        self.late = self._late_elsewhere = True
