"""The pool of one origin: its connections in use, and a stack of idle ones."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from .connection import Connection
from .response_body import PooledBody

if TYPE_CHECKING:
    from collections.abc import Callable

# Handshakes at the same time. A TLS handshake takes 2 ms of the loop, so 1,000 at once would by themselves
# exceed the SDK's connect timeout of 5 s, and overflow a listen queue of 128.
MAX_HANDSHAKES: Final = 64
# Seconds after which a handshake no longer counts. Otherwise calls to a server that does not answer would
# fail one after the other, each after a connect timeout.
HANDSHAKE_SECONDS: Final = 1.0


class _PooledConnection:
    """The pool's record of a connection, ours or httpcore's, from before it opens until it is closed."""

    __slots__ = ("core", "idle_since", "opening")

    def __init__(self, core: Any) -> None:
        self.core = core
        self.opening: asyncio.TimerHandle | None = None
        self.idle_since = math.inf


class OriginPool:
    """The connections to one origin on the running loop; the most recently used idle one is taken first.

    `new` makes a connection that raises the errors of `core`, the module httpcore or httpcore2.
    `limits` are httpx's.
    """

    def __init__(self, new: Callable[[], Any], *, core: Any, limits: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._new = new
        self._core = core
        most, kept, seconds = limits.max_connections, limits.max_keepalive_connections, limits.keepalive_expiry
        self._limit = None if most is None else asyncio.Semaphore(most)
        self._kept = math.inf if kept is None else kept
        self._seconds = math.inf if seconds is None else seconds
        self._handshakes = asyncio.Semaphore(MAX_HANDSHAKES)
        self._idle: deque[_PooledConnection] = deque()
        self._connections: set[_PooledConnection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    async def exchange(self, request: Any) -> Any:
        """Send `request`. The response's stream keeps the connection until it is closed.

        It is sent once. A server that closes an idle connection just as it is used looks the same as one
        that read the request, acted on it and hung up. So retrying is left to the SDK, as with httpcore.
        """
        await self._enter(request)
        try:
            return await self._send(await self._acquire(), request)
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
        """Wait while `max_connections` are in use, for at most the request's pool timeout."""
        if self._limit is None:
            return
        if not self._limit.locked():
            await self._limit.acquire()
            return
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                await self._limit.acquire()
        except TimeoutError as late:
            raise self._core.PoolTimeout("all connections are in use") from late

    def _leave(self) -> None:
        if self._limit is not None:
            self._limit.release()

    async def _acquire(self) -> _PooledConnection:
        """The most recently used connection, or a new one when a handshake may begin."""
        connection = self._most_recent()
        if connection is None:
            await self._handshakes.acquire()
            connection = self._most_recent()  # one may have been returned in the meantime
            if connection is None:
                return self._open()
            self._handshakes.release()
        return connection

    def _most_recent(self) -> _PooledConnection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._seconds and not connection.core.has_expired():
                return connection
            self._close(connection)
        return None

    def _open(self) -> _PooledConnection:
        connection = _PooledConnection(self._new())
        connection.opening = self._loop.call_later(HANDSHAKE_SECONDS, self._opened, connection)
        self._connections.add(connection)
        return connection

    def _opened(self, connection: _PooledConnection) -> None:
        if connection.opening is not None:
            connection.opening.cancel()
            connection.opening = None
            self._handshakes.release()

    async def _send(self, connection: _PooledConnection, request: Any) -> Any:
        try:
            if connection.opening is not None:
                # If 10,000 calls start in one turn of the loop, the first would reach its connect timeout
                # before the last has started. So the timeout runs from the next turn on.
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
        response.stream = PooledBody(response.stream, functools.partial(self._release, connection))
        return response

    def _release(self, connection: _PooledConnection) -> None:
        """Return the connection at the end of its exchange."""
        self._leave()
        if not connection.core.is_idle():
            self._close(connection)
        elif connection in self._connections:
            now = connection.idle_since = self._loop.time()
            self._idle.append(connection)
            # Close expired and surplus connections, least recently used first. Two at a time keep up with
            # the one that is added, and take little time.
            for _ in range(2):
                if self._idle and (len(self._idle) > self._kept or now - self._idle[0].idle_since >= self._seconds):
                    self._close(self._idle.popleft())

    def _close(self, connection: _PooledConnection) -> None:
        async def close() -> None:
            await connection.core.aclose()
            self._connections.discard(connection)

        task = self._loop.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def raise_connect_error(core: Any, connection: Any, failure: BaseException) -> None:
    """Raise httpcore's `ConnectError` if one of its own connections failed to connect with another error.

    Resolvers raise several for invalid hosts and ports, such as `UnicodeError` and `OverflowError`.
    """
    named = not isinstance(failure, Exception) or type(failure).__module__ == core.__name__
    if not named and not isinstance(connection, Connection) and connection.info() == "CONNECTION FAILED":
        raise core.ConnectError(str(failure)) from failure


def _traced(request: Any, opened: Callable[[], None]) -> Any:
    """The same request, which calls `opened` once its httpcore connection is open."""
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
