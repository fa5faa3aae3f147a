"""The network: asyncio's own transports, with the interface of httpcore's backends and streams.

httpcore's own go through anyio, which asks the selector to stop listening after every read and to
listen again before the next, and has a cancel scope for each read and each write.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

# Bytes read ahead of whoever reads the response.
READ_AHEAD: Final = 256 * 1024
# Seconds a host's first address has before its second is tried as well (RFC 8305), as in anyio.
EYEBALLS: Final = 0.25


class Backend:
    """Connects; `core` is the module, httpcore or httpcore2, whose errors it raises."""

    def __init__(self, core: Any) -> None:
        self._core = core

    async def connect_tcp(self, host: str, port: int, timeout: float | None) -> Stream:  # noqa: ASYNC109
        loop = asyncio.get_running_loop()
        # uvloop tries one address after the other.
        eyeballs: Any = {"happy_eyeballs_delay": EYEBALLS} if isinstance(loop, asyncio.BaseEventLoop) else {}
        with _failures(self._core):
            async with asyncio.timeout(timeout):
                _, stream = await loop.create_connection(lambda: Stream(self._core), host, port, **eyeballs)
        return stream


class Stream(asyncio.Protocol):
    """An `AsyncNetworkStream` of httpcore, and the protocol on asyncio's side of it."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._received: list[bytes] = []
        self._ahead = 0
        self._paused = False  # writing, by asyncio
        self._ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._ahead += len(data)
        if self._ahead > READ_AHEAD:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._failure = exc
        self._wake()
        if not self._lost.done():
            self._lost.set_result(None)

    # What a connection calls; `AsyncNetworkStream` has all but the last three.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if not self._received and not self._ended:
            await self._wait(timeout, self._core.ReadTimeout)
        if self._received:
            data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
            self._received.clear()
            if len(data) > max_bytes:
                self._received.append(data[max_bytes:])
                data = data[:max_bytes]
            if self._ahead > READ_AHEAD:
                self._transport.resume_reading()
            self._ahead = len(self._received[0]) if self._received else 0
            return data
        if self._failure is not None:
            raise self._core.ReadError(str(self._failure)) from self._failure
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if not buffer:
            return
        if self._ended:
            raise self._core.WriteError(str(self._failure or "the connection was closed")) from self._failure
        self._transport.write(buffer)
        while self._paused and not self._ended:
            await self._wait(timeout, self._core.WriteTimeout)

    async def aclose(self) -> None:
        self.abort()
        await self._lost

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Stream:
        # When this fails, asyncio closes the transport, and does not tell us.
        with _failures(self._core):
            async with asyncio.timeout(timeout):
                self._transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        return self

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        if info == "is_readable":
            return self.is_readable()
        return self._transport.get_extra_info(names.get(info, info))

    def abort(self) -> None:
        self._transport.abort()

    def unread(self, data: bytes) -> None:
        """The next `read` begins with `data`."""
        if data:
            self._received.insert(0, data)

    def is_readable(self) -> bool:
        """Whether there is something to read, or the end.

        The socket is asked too, as asyncio may not yet have looked. This takes 2 us.
        """
        if self._received or self._ended:
            return True
        socket = self._transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return True
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select([socket], [], [], 0)[0])
        poll = select.poll()
        poll.register(socket, select.POLLIN)
        return bool(poll.poll(0))

    # Between the two.

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, timeout: float | None, error: type[Exception]) -> None:  # noqa: ASYNC109
        waiter = self._waiter = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(timeout, _expire, waiter, error)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def _expire(waiter: asyncio.Future[None], error: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(error())


@contextlib.contextmanager
def _failures(core: Any) -> Iterator[None]:
    """Failures to connect, as httpcore's."""
    try:
        yield
    except TimeoutError as late:
        raise core.ConnectTimeout from late
    except OSError as failed:  # ssl.SSLError is one
        raise core.ConnectError(str(failed)) from failed
