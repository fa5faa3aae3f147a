"""The backend: slots that run attempts, and an unlimited queue before them. It refuses nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._answers.reply import Reply
    from ._settings import Settings


class Backend:
    """Runs attempts in order of arrival, as vLLM does. Without a limit of `slots` all of them start at once."""

    def __init__(self) -> None:
        self._running: set[Reply] = set()
        # In order of arrival. Not a deque: a client may leave from any position.
        self._queue: OrderedDict[Reply, None] = OrderedDict()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def enter(self, reply: Reply, settings: Settings) -> None:
        reply.queued = True
        self._queue[reply] = None
        self.start_queued(settings)

    def leave(self, reply: Reply, settings: Settings) -> None:
        """Free the slot of `reply`, or remove it from the queue."""
        self._running.discard(reply)
        self._queue.pop(reply, None)
        self.start_queued(settings)

    def start_queued(self, settings: Settings) -> None:
        """Start attempts from the head of the queue while slots are free."""
        slots = settings.slots
        while self._queue and (slots is None or len(self._running) < slots):
            reply, _ = self._queue.popitem(last=False)
            # The slowdown is fixed at the start, by the attempts then running; alone there is none.
            reply.start(1.0 if slots is None else 1.0 + settings.slowdown * len(self._running) / slots)
            self._running.add(reply)
