"""The shelf: the connections to one server."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ._connection import Connection
from ._stream import PooledStream

if TYPE_CHECKING:
    from collections.abc import Callable

# New connections under way at once. A TLS handshake takes 2 ms of the loop: a thousand at once would
# meet the SDK's connect timeout of 5 s by their own weight, and overrun a listen queue of 128.
HANDSHAKES: Final = 64
# Seconds after which a handshake counts no longer, or calls to a server that does not answer would
# fail in single file, a connect timeout apart.
HANDSHAKE: Final = 1.0


class _Connection:
    """A connection, ours or httpcore's, from before it is opened until it is closed."""

    __slots__ = ("core", "idle_since", "opening")

    def __init__(self, core: Any) -> None:
        self.core = core
        self.opening: asyncio.TimerHandle | None = None
        self.idle_since = math.inf


class Shelf:
    """Connections in use on the running loop, and a stack of idle ones, the warmest on top.

    `new` makes a connection with the errors of `core`, which is the module httpcore or httpcore2.
    `limits` are httpx's.
    """

    def __init__(self, new: Callable[[], Any], *, core: Any, limits: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._new = new
        self._core = core
        most, kept, seconds = limits.max_connections, limits.max_keepalive_connections, limits.keepalive_expiry
        self._room = None if most is None else asyncio.Semaphore(most)
        self._kept = math.inf if kept is None else kept
        self._seconds = math.inf if seconds is None else seconds
        self._handshakes = asyncio.Semaphore(HANDSHAKES)
        self._idle: deque[_Connection] = deque()
        self._connections: set[_Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def exchange(self, request: Any) -> Any:
        """Send `request`; the response's stream has its connection until it is closed.

        It is sent once. If the server closes an idle connection just as it is used, that looks the
        same as a server that read the request, acted on it and hung up. So sending it again is left
        to the SDK's retries, as with httpcore.
        """
        await self._enter(request)
        try:
            return await self._send(await self._take(), request)
        except BaseException:
            self._leave()
            raise

    async def aclose(self) -> None:
        connections = list(self._connections)
        self._connections.clear()
        self._idle.clear()
        for connection in connections:
            await connection.core.aclose()

    async def _enter(self, request: Any) -> None:
        """Wait while `max_connections` are in use, at most for the request's pool timeout."""
        if self._room is None:
            return
        if not self._room.locked():
            await self._room.acquire()
            return
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                await self._room.acquire()
        except TimeoutError as late:
            raise self._core.PoolTimeout("all connections are in use") from late

    def _leave(self) -> None:
        if self._room is not None:
            self._room.release()

    async def _take(self) -> _Connection:
        """The warmest connection, or else a new one in its turn."""
        connection = self._warmest()
        if connection is None:
            await self._handshakes.acquire()
            connection = self._warmest()  # what came back in the meantime
            if connection is None:
                return self._open()
            self._handshakes.release()
        return connection

    def _warmest(self) -> _Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._seconds and not connection.core.has_expired():
                return connection
            self._close(connection)
        return None

    def _open(self) -> _Connection:
        connection = _Connection(self._new())
        connection.opening = self._loop.call_later(HANDSHAKE, self._opened, connection)
        self._connections.add(connection)
        return connection

    def _opened(self, connection: _Connection) -> None:
        if connection.opening is not None:
            connection.opening.cancel()
            connection.opening = None
            self._handshakes.release()

    async def _send(self, connection: _Connection, request: Any) -> Any:
        try:
            if connection.opening is not None:
                # Of ten thousand calls that start in one turn of the loop the first would meet its
                # connect timeout before the last has started: the clock runs from the next turn.
                await asyncio.sleep(0)
                opened = functools.partial(self._opened, connection)
                if isinstance(connection.core, Connection):
                    connection.core.opened = opened
                else:
                    request = _traced(request, opened)
            response = await connection.core.handle_async_request(request)
        except BaseException as failure:
            self._close(connection)
            raise_connect_error(self._core, connection.core, failure)
            raise
        finally:
            self._opened(connection)
        response.stream = PooledStream(response.stream, functools.partial(self._over, connection))
        return response

    def _over(self, connection: _Connection) -> None:
        """An exchange is over."""
        self._leave()
        if not connection.core.is_idle():
            self._close(connection)
        elif connection in self._connections:
            now = connection.idle_since = self._loop.time()
            self._idle.append(connection)
            # The coldest go; two at a time are more than come, and hold nobody up.
            for _ in range(2):
                if self._idle and (len(self._idle) > self._kept or now - self._idle[0].idle_since >= self._seconds):
                    self._close(self._idle.popleft())

    def _close(self, connection: _Connection) -> None:
        async def close() -> None:
            await connection.core.aclose()
            self._connections.discard(connection)

        task = self._loop.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def raise_connect_error(core: Any, connection: Any, failure: BaseException) -> None:
    """Raise httpcore's `ConnectError` where one of its own connections failed to connect with another error.

    Resolvers have several for invalid hosts and ports: `UnicodeError`, `OverflowError`.
    """
    named = not isinstance(failure, Exception) or type(failure).__module__ == core.__name__
    if not named and not isinstance(connection, Connection) and connection.info() == "CONNECTION FAILED":
        raise core.ConnectError(str(failure)) from failure


def _traced(request: Any, opened: Callable[[], None]) -> Any:
    """The same request, which calls `opened` once its connection, one of httpcore's, is open."""
    theirs = request.extensions.get("trace")

    async def trace(name: str, info: dict[str, Any]) -> None:
        # A proxy gets a CONNECT first, and the handshake with the server comes after it.
        if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            opened()
        if theirs is not None:
            await theirs(name, info)

    return type(request)(
        request.method,
        request.url,
        headers=request.headers,
        content=request.stream,
        extensions={**request.extensions, "trace": trace},
    )
