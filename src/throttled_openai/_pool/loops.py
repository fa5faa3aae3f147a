"""Event loops: a connection belongs to one loop and ends with it, but a client may use several loops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

T = TypeVar("T")

# Strong references to everything open. Without them a dropped transport is garbage-collected before the loop
# can close it, and warns.
_open: set[Any] = set()


def on_asyncio() -> bool:
    """True in a task of asyncio. Trio may run without asyncio, or as a guest in asyncio's loop."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


class PerLoop(Generic[T]):
    """One object from `make` for each event loop; it has `aclose()`.

    A connection cannot even be closed on another loop than its own. So each object is closed when this
    is closed or dropped, or when its event loop ends.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._loops: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}

    async def get(self) -> T:
        """The object of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops = {old: its for old, its in self._loops.items() if not old.is_closed()}
            made = self._make()
            lifetime = _lifetime(made)
            await anext(lifetime)
            self._loops[loop] = made, lifetime
        return self._loops[loop][0]

    async def aclose(self) -> None:
        """Close the running loop's object. Those of other loops are closed with their loops."""
        _, lifetime = self._loops.pop(asyncio.get_running_loop(), (None, None)) if on_asyncio() else (None, None)
        self._loops.clear()
        if lifetime is not None:
            await lifetime.aclose()


async def _lifetime(made: Any) -> AsyncGenerator[None]:
    """Close `made` when this is closed or dropped, or when the event loop ends.

    An event loop closes asynchronous generators that are no longer referenced, and all of them at its end.
    """
    _open.add(made)
    try:
        yield
    finally:
        try:
            # At interpreter exit, if the loop was never closed (nest_asyncio), nothing can be awaited.
            if asyncio._get_running_loop() is not None:  # noqa: SLF001  # of the module's public list
                await made.aclose()
        finally:
            _open.discard(made)


class LoopTransport:
    """A transport for an `AsyncClient` that uses one transport from `make` for each event loop."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._transports = PerLoop(make)

    async def handle_async_request(self, request: Any) -> Any:
        transport = await self._transports.get()
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transports.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
