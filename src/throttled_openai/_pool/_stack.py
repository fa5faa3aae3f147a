"""The stack: what an httpx transport has in place of httpcore's pool."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Self

from ._loops import PerLoop, on_asyncio
from ._shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable


class StackPool:
    """Sends httpcore's requests in place of `stock`, which is httpcore's pool.

    `core` is the module, httpcore or httpcore2. `connect` makes a connection to an origin. `limits`
    are httpx's, and hold for each server.

    Our connections need asyncio. On trio `stock` sends, and so it does where a mock has replaced its
    methods.
    """

    def __init__(self, core: Any, stock: Any, connect: Callable[[Any], Any], limits: Any) -> None:
        self.core = core
        self._stock = stock
        make = functools.partial(Shelf, core=core, limits=limits)
        self._shelves = PerLoop(functools.partial(_Shelves, connect, make))

    async def handle_async_request(self, request: Any) -> Any:
        ours = request.url.scheme in {b"http", b"https"} and on_asyncio()
        if not ours or self.is_replaced:
            return await self._stock.handle_async_request(request)
        shelves = await self._shelves.get()
        return await shelves.of(request.url).exchange(request)

    @property
    def is_replaced(self) -> bool:
        """Whether a mock answers in the place of httpcore's pool."""
        return is_patched(type(self._stock).handle_async_request, self.core.AsyncConnectionPool.aclose)

    async def aclose(self) -> None:
        """Close every connection; as with httpcore, exchanges under way fail."""
        await self._shelves.aclose()
        await self._stock.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property  # type: ignore[misc]  # an attribute, to mypy
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        """The class of `stock`: programs find out whether a transport has a proxy by `isinstance()` of its pool."""
        return type(self._stock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _Shelves:
    """The shelves of one event loop, one for each server."""

    def __init__(self, connect: Callable[[Any], Any], make: Callable[..., Shelf]) -> None:
        self._connect = connect
        self._make = make
        self._shelves: dict[tuple[bytes, bytes, int | None], Shelf] = {}

    def of(self, url: Any) -> Shelf:
        server = url.scheme, url.host, url.port
        shelf = self._shelves.get(server)
        if shelf is None:
            shelf = self._shelves[server] = self._make(functools.partial(self._connect, url.origin))
        return shelf

    async def aclose(self) -> None:
        for shelf in self._shelves.values():
            await shelf.aclose()


def is_patched(method: Any, neighbour: Any) -> bool:
    """Whether respx, vcrpy or the like has put this method of its own into httpcore's pool, to answer in its place.

    It may have been there before us, so it is compared with a neighbour, which nobody replaces.
    """
    return type(method) is not types.FunctionType or method.__code__.co_filename != neighbour.__code__.co_filename
