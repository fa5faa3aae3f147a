"""The transport: a shelf of connections for each server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable


class PoolTransport:
    """Sends for one event loop; `new` makes a transport for one connection.

    `family` is the module, httpx or httpx2. `limits` hold for each server.
    """

    def __init__(self, family: Any, limits: Any, new: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._family = family
        self._limits = limits
        self._new = new
        self._shelves: dict[tuple[bytes, bytes], Shelf] = {}

    async def handle_async_request(self, request: Any) -> Any:
        server = request.url.raw_scheme, request.url.netloc
        shelf = self._shelves.get(server)
        if shelf is None:
            shelf = self._shelves[server] = Shelf(self._loop, self._family, self._new, self._limits)
        return await shelf.exchange(request)

    async def aclose(self) -> None:
        for shelf in self._shelves.values():
            await shelf.aclose()
