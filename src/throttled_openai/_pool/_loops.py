"""Event loops: connections live and die with theirs, and a client may outlive several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

T = TypeVar("T")

# What is open. Only so is a dropped one closed before it is collected, by whatever complains of that.
_open: set[Any] = set()


def on_asyncio() -> bool:
    """Whether this runs in a task of asyncio: trio may run without asyncio, or as a guest in asyncio's loop."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


class PerLoop(Generic[T]):
    """Something that `make` makes for each event loop, and that has `aclose()`.

    Not even closing a connection works on another loop than its own. So it is closed when this is
    closed or dropped, or when its event loop ends.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._loops: dict[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}

    async def get(self) -> T:
        """The one of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops = {old: its for old, its in self._loops.items() if not old.is_closed()}
            made = self._make()
            lifetime = _lifetime(made)
            await anext(lifetime)
            self._loops[loop] = made, lifetime
        return self._loops[loop][0]

    async def aclose(self) -> None:
        """Close what the running loop has; what others have is closed with them."""
        _, lifetime = self._loops.pop(asyncio.get_running_loop(), (None, None)) if on_asyncio() else (None, None)
        self._loops.clear()
        if lifetime is not None:
            await lifetime.aclose()


async def _lifetime(made: Any) -> AsyncGenerator[None]:
    """Close `made` when this is closed or dropped, or when the event loop ends.

    An event loop closes its asynchronous generators as its last act, and those that nobody refers
    to any more.
    """
    _open.add(made)
    try:
        yield
    finally:
        try:
            # At the interpreter's exit nothing can be awaited, where nobody has closed the loop (nest_asyncio).
            if asyncio._get_running_loop() is not None:  # noqa: SLF001  # of the module's public list
                await made.aclose()
        finally:
            _open.discard(made)


class LoopTransport:
    """What an `AsyncClient` sends with: a transport that `make` makes for each event loop."""

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
