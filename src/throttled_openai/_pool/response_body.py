"""The body of a pooled response: it keeps its connection until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# Seconds to read what follows the `[DONE]` of a stream, as in SDK 3.30.
DRAIN_SECONDS: Final = 0.1

_TAIL: Final = len(b"[DONE]\r\n\r\n")


class PooledBody:
    """The response's body, which calls `over` once it is closed."""

    def __init__(self, inner: Any, over: Callable[[], None]) -> None:
        self._inner = inner
        self._iterator: AsyncIterator[bytes] | None = None
        self._over: Callable[[], None] | None = over
        self._tail = b""
        self._ended = False
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[bytes]:
        # A second iteration, to drain the rest, continues where the first one stopped.
        if self._iterator is None:
            self._iterator = self._inner.__aiter__()
        return self

    async def __anext__(self) -> bytes:
        assert self._iterator is not None
        try:
            chunk = await self._iterator.__anext__()
        except BaseException as end:
            self._ended = True
            if not isinstance(end, StopAsyncIteration):
                # httpx does not close the response if reading an error's body fails.
                await self.aclose()
            raise
        self._tail = chunk if len(chunk) >= _TAIL else self._tail[-_TAIL:] + chunk
        return chunk

    async def aclose(self) -> None:
        over, self._over = self._over, None
        if over is None:
            return
        try:
            if not self._ended and self._tail[-_TAIL:].rstrip().endswith(b"[DONE]"):
                await self._drain()
            await self._inner.aclose()
        finally:
            over()

    def __del__(self) -> None:
        # Dropped half-read. This may run in any thread, and after the loop.
        over, self._over = self._over, None
        if over is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(over)

    async def _drain(self) -> None:
        """Read what follows the `[DONE]`, which SDK 2.9 to 3.29 leave unread.

        Unless the empty last chunk is read, httpcore must close the connection.
        """
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in self:
                    pass
