"""Event loops: connections live and die with theirs, and a client may outlive several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable


class LoopTransport:
    """What an `AsyncClient` sends with: a transport that `make` makes for each event loop.

    Not even closing a connection works on another loop than its own. So each transport is closed
    when this is closed or dropped, or when its event loop ends.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]] = {}

    async def handle_async_request(self, request: Any) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            await self._begin(loop)
        transport, _ = self._loops[loop]
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection; as with httpx, exchanges under way fail."""
        _, lifetime = self._loops.pop(asyncio.get_running_loop(), (None, None))
        self._loops.clear()
        if lifetime is not None:
            await lifetime.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loops = {old: its for old, its in self._loops.items() if not old.is_closed()}
        transport = self._make()
        lifetime = _lifetime(transport)
        self._loops[loop] = transport, lifetime
        await anext(lifetime)


async def _lifetime(transport: Any) -> AsyncGenerator[None]:
    """Close `transport` when this is closed or dropped, or when the event loop ends.

    An event loop closes its asynchronous generators as its last act, and those that nobody refers
    to any more.
    """
    try:
        yield
    finally:
        await transport.aclose()
