"""Calls: how a run's requests are sent, whether by this process or by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from throttled_openai._clients.raw import Answer
    from throttled_openai._stats import Stats


class Throttling(Protocol):
    """The figures of a throttle, or of several together."""

    @property
    def waiting(self) -> int: ...

    @property
    def in_flight(self) -> int: ...

    def stats(self) -> Stats: ...


class Calls(Protocol):
    """`waiting`: calls that are not admitted yet. `moved` is called when a call waits no longer."""

    moved: Callable[[], object]

    @property
    def waiting(self) -> int: ...

    @property
    def throttle(self) -> Throttling: ...

    async def post(self, path: str, content: bytes, body: Mapping[str, Any]) -> Answer:
        """Send `content`, which is `body` as JSON. Raises the SDK's errors where there is no answer."""
        ...

    def end_waits(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Calls of `tasks` that are not admitted yet fail with `ClientClosed`."""
