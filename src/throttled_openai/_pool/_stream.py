"""The response's stream: it has the connection until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# Seconds for what follows the `[DONE]` of a stream, as in SDK 3.30.
DRAIN: Final = 0.1

_TAIL: Final = len(b"[DONE]\r\n\r\n")


class _PooledStream:
    """Calls `over` when it is closed, with whether the response was read to its end."""

    def __init__(self, inner: Any, over: Callable[[bool], None]) -> None:
        self._inner = inner
        self._iterator: AsyncIterator[bytes] | None = None
        self._over: Callable[[bool], None] | None = over
        self._tail = b""
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        # Who comes again, to drain what is left, goes on where the last one stopped.
        if self._iterator is None:
            self._iterator = self._inner.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        assert self._iterator is not None
        try:
            chunk = await self._iterator.__anext__()
        except StopAsyncIteration:
            self._ended = True
            raise
        self._tail = chunk if len(chunk) >= _TAIL else self._tail[-_TAIL:] + chunk
        return chunk

    async def aclose(self) -> None:
        over, self._over = self._over, None
        if over is None:
            return
        reusable = False
        try:
            if not self._ended and self._tail[-_TAIL:].rstrip().endswith(b"[DONE]"):
                await self._drain()
            await self._inner.aclose()
            reusable = self._ended
        finally:
            over(reusable)

    async def _drain(self) -> None:
        """Read what follows the `[DONE]`, where SDK 2.9 to 3.29 leave a stream.

        Unless the empty last chunk is read, httpcore has to close the connection.
        """
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DRAIN):
                async for _ in self:
                    pass


@functools.cache
def stream_class(base: type[Any]) -> type[Any]:
    """The class for responses of the family with this `AsyncByteStream`, which httpx asks for."""
    return type("PooledStream", (_PooledStream, base), {})
