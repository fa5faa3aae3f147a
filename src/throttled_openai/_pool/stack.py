"""The stack pool: takes the place of httpcore's pool in an httpx transport."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Self

from .loops import PerLoop, on_asyncio
from .origin_pool import OriginPool

if TYPE_CHECKING:
    from collections.abc import Callable


class StackPool:
    """Sends httpcore's requests in place of `stock`, which is httpcore's pool.

    `core` is the module, httpcore or httpcore2. `connect` makes a connection to an origin. `limits`
    are httpx's, and hold for each server.

    Our connections need asyncio. On trio `stock` sends, and also if a mock has replaced its methods.
    """

    def __init__(self, core: Any, stock: Any, connect: Callable[[Any], Any], limits: Any) -> None:
        self.core = core
        self._stock = stock
        make = functools.partial(OriginPool, core=core, limits=limits)
        self._pools = PerLoop(functools.partial(_OriginPools, connect, make))

    async def handle_async_request(self, request: Any) -> Any:
        ours = request.url.scheme in {b"http", b"https"} and on_asyncio()
        if not ours or self.is_replaced:
            return await self._stock.handle_async_request(request)
        pools = await self._pools.get()
        return await pools.of(request.url).exchange(request)

    @property
    def is_replaced(self) -> bool:
        """Whether a mock answers in the place of httpcore's pool."""
        return is_patched(type(self._stock).handle_async_request, self.core.AsyncConnectionPool.aclose)

    async def aclose(self) -> None:
        """Close every connection. Exchanges under way fail, as with httpcore."""
        await self._pools.aclose()
        await self._stock.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property  # type: ignore[misc]  # an attribute, to mypy
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        """The class of `stock`: programs use `isinstance()` on the pool to find out whether there is a proxy."""
        return type(self._stock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _OriginPools:
    """The origin pools of one event loop."""

    def __init__(self, connect: Callable[[Any], Any], make: Callable[..., OriginPool]) -> None:
        self._connect = connect
        self._make = make
        self._pools: dict[tuple[bytes, bytes, int | None], OriginPool] = {}

    def of(self, url: Any) -> OriginPool:
        origin = url.scheme, url.host, url.port
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = self._make(functools.partial(self._connect, url.origin))
        return pool

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()


def is_patched(method: Any, neighbour: Any) -> bool:
    """True if respx, vcrpy or the like has replaced this method of httpcore's pool with its own.

    It may have done so before we were imported, so compare with a method of the same file that none of them replaces.
    """
    return type(method) is not types.FunctionType or method.__code__.co_filename != neighbour.__code__.co_filename
