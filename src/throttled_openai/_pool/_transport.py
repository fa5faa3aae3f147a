"""The transport: a shelf of connections for each server, on each event loop."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Self

from ._shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    Shelves = dict[tuple[bytes, bytes], Shelf]


class PoolTransport:
    """What an `AsyncClient` sends with, in place of its `AsyncHTTPTransport` and with the same arguments.

    `family` is the module, httpx or httpx2. `limits` hold for each server.
    """

    def __init__(
        self, family: Any, *, limits: Any, verify: Any = True, cert: Any = None, trust_env: bool = True, **options: Any
    ) -> None:
        self._family = family
        self._limits = limits
        # One for all: it takes 20 ms and a megabyte to load the certificates.
        context = family.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        one = family.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        self._new = functools.partial(
            family.AsyncHTTPTransport, verify=context, trust_env=trust_env, limits=one, **options
        )
        # Connections live and die with their loop; not even closing them works on another.
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Shelves, AsyncGenerator[None]]] = {}

    async def handle_async_request(self, request: Any) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            await self._begin(loop)
        shelves, _ = self._loops[loop]
        server = request.url.raw_scheme, request.url.netloc
        shelf = shelves.get(server)
        if shelf is None:
            shelf = shelves[server] = Shelf(loop, self._family, self._new, self._limits)
        return await shelf.exchange(request)

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
        shelves: Shelves = {}
        lifetime = _lifetime(shelves)
        await anext(lifetime)
        self._loops[loop] = shelves, lifetime


async def _lifetime(shelves: Shelves) -> AsyncGenerator[None]:
    """Close the connections when this is closed or dropped, or when its event loop ends.

    An event loop closes its asynchronous generators as its last act, and those that nobody refers
    to any more: so a client used by several `asyncio.run` in turn, or dropped, leaves nothing open.
    """
    try:
        yield
    finally:
        for shelf in shelves.values():
            await shelf.aclose()
