"""The shelf: the connections to one server."""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ._stream import PooledStream

if TYPE_CHECKING:
    from collections.abc import Callable

# New connections under way at once. A TLS handshake takes 2 ms of the loop: a thousand at once would
# meet the SDK's connect timeout of 5 s by their own weight, and overrun a listen queue of 128.
HANDSHAKES: Final = 64
# Seconds after which a handshake counts no longer, or calls to a server that does not answer would
# fail in single file, a connect timeout apart.
HANDSHAKE: Final = 1.0
# Seconds. A reused connection that dies so soon, without an answer, was closed before it was used.
STALE: Final = 1.0


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
    `limits` are httpx's. `replayable`: the class of bodies that can be read twice.
    """

    def __init__(
        self,
        new: Callable[[], Any],
        *,
        core: Any,
        limits: Any,
        replayable: type[Any],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._new = new
        self._core = core
        self._replayable = replayable
        most, kept, seconds = limits.max_connections, limits.max_keepalive_connections, limits.keepalive_expiry
        self._room = None if most is None else asyncio.Semaphore(most)
        self._kept = math.inf if kept is None else kept
        self._seconds = math.inf if seconds is None else seconds
        self._handshakes = asyncio.Semaphore(HANDSHAKES)
        self._idle: deque[_Connection] = deque()
        self._connections: set[_Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._died = core.ReadError, core.WriteError, core.RemoteProtocolError

    async def exchange(self, request: Any) -> Any:
        """Send `request`; the response's stream has its connection until it is closed.

        A server may close an idle connection in the moment it is used: then the request goes out
        again, once, on a new one. That is for connections that had been idle and died at once and
        without an answer: the server did not read the request, so whatever its method is, it was
        not acted upon. What dies later may have been, and is for the SDK's retries to judge.
        """
        await self._enter(request)
        try:
            connection = await self._take()
            reused, began = connection.opening is None, self._loop.time()
            try:
                return await self._send(connection, request)
            except self._died as failure:
                late = self._loop.time() - began > STALE
                if not reused or late or not isinstance(request.stream, self._replayable):
                    raise
                if _was_heard(connection.core, failure):
                    raise
            await self._handshakes.acquire()
            return await self._send(self._open(), request)
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
        oldest = self._loop.time() - self._seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and not connection.core.has_expired():
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
                request = _traced(request, functools.partial(self._opened, connection))
            response = await connection.core.handle_async_request(request)
        except BaseException:
            self._close(connection)
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
                if self._idle and (len(self._idle) > self._kept or now - self._idle[0].idle_since > self._seconds):
                    self._close(self._idle.popleft())

    def _close(self, connection: _Connection) -> None:
        async def close() -> None:
            await connection.core.aclose()
            self._connections.discard(connection)

        task = self._loop.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _was_heard(core: Any, failure: Exception) -> bool:
    """Whether the server had begun to answer; httpcore's connections tell by their words only."""
    heard = getattr(core, "heard", None)
    if heard is None:
        return "Protocol" in type(failure).__name__ and not str(failure).startswith("Server disconnected")
    return bool(heard)


def _traced(request: Any, opened: Callable[[], None]) -> Any:
    """The same request, which calls `opened` once its connection is there."""
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
