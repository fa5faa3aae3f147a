"""Calls: how a run sends its requests, in this process or in others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from throttled_openai._clients.raw import Answer
    from throttled_openai._stats import Stats


class Throttling(Protocol):
    """The figures of one throttle, or the sums of several."""

    @property
    def waiting(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def stats(self) -> Stats: ...


class Calls(Protocol):
    """Sends requests. `waiting`: calls not admitted yet. `on_wait_end`: called when a call stops waiting."""

    on_wait_end: Callable[[], object]

    @property
    def waiting(self) -> int: ...

    @property
    def throttle(self) -> Throttling: ...

    async def post(self, path: str, content: bytes, body: Mapping[str, Any]) -> Answer:
        """Send `content`, which is `body` as JSON. Raises an error of the SDK if there is no answer."""
        ...

    def end_waits(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Calls of `tasks` that wait for admission fail with `ClientClosed`."""
