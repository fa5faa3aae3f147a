"""What answers: so many places at once, and a line without an end before them. Nobody is refused here."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._reply import Reply
    from ._settings import Settings


class Backend:
    """First come, first served, like vLLM. Without `slots` there is a place for everybody."""

    def __init__(self) -> None:
        self._running: set[Reply] = set()
        # In order of arrival; no deque, because whoever leaves may stand anywhere in the line.
        self._line: OrderedDict[Reply, None] = OrderedDict()

    @property
    def queued(self) -> int:
        return len(self._line)

    def enter(self, reply: Reply, settings: Settings) -> None:
        reply.queued = True
        self._line[reply] = None
        self.fill(settings)

    def leave(self, reply: Reply, settings: Settings) -> None:
        """Free the place of `reply`, or its place in the line."""
        self._running.discard(reply)
        self._line.pop(reply, None)
        self.fill(settings)

    def fill(self, settings: Settings) -> None:
        """Give the free places to the first in line."""
        slots = settings.slots
        while self._line and (slots is None or len(self._running) < slots):
            reply, _ = self._line.popitem(last=False)
            # Its speed is fixed as it starts, by the others that run: alone it takes its plain latency.
            reply.start(1.0 if slots is None else 1.0 + settings.slowdown * len(self._running) / slots)
            self._running.add(reply)
