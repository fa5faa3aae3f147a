"""The order: results held back until all earlier ones have arrived."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._feed import Feed
    from ._request import Request
    from ._result import BatchResult

    # Takes a result, and its body as JSON if that is available.
    Sink = Callable[["BatchResult", "bytes | None"], None]

# No more requests are read while this many results wait for an earlier one.
MOST_HELD: Final = 2000

_MISSING: Final[Any] = object()


class InOrder:
    """A feed and a sink in one: results are passed on in the order in which the feed gave their requests."""

    def __init__(self, feed: Feed, sink: Sink) -> None:
        self._feed = feed
        self._sink = sink
        self._lines: deque[int] = deque()
        self._held: dict[int, tuple[BatchResult, bytes | None]] = {}

    def take(self) -> Request | BatchResult | None:
        item = self._feed.take()
        if item is not None:
            self._lines.append(item.line)
        return item

    async def more(self) -> bool:
        return await self._feed.more()

    def has_room(self) -> bool:
        return len(self._held) < MOST_HELD

    def sink(self, result: BatchResult, raw: bytes | None) -> None:
        self._held[result.line] = result, raw
        while self._lines and self._lines[0] in self._held:
            self._sink(*self._held.pop(self._lines.popleft()))

    def close(self) -> None:
        """Pass on the results still held, without the missing ones before them, which will not arrive."""
        while self._lines:
            held = self._held.pop(self._lines.popleft(), _MISSING)
            if held is not _MISSING:
                self._sink(*held)
