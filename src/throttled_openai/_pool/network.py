"""The network: asyncio's own transports, with the interface of httpcore's backends and streams.

httpcore's own use anyio, which unregisters from the selector after every read, registers again before
the next, and opens a cancel scope for each read and each write.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING, Any, Final

from .addresses import connect
from .tls import Layer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

# Bytes buffered before the response is read.
READ_AHEAD: Final = 256 * 1024
# Bytes per write: TLS copies them, and asyncio copies what it cannot send yet.
PIECE: Final = 64 * 1024


class NetworkBackend:
    """Connects; `core` is the module, httpcore or httpcore2, whose errors it raises."""

    def __init__(self, core: Any) -> None:
        self._core = core

    async def connect_tcp(self, host: str, port: int, timeout: float | None) -> NetworkStream:  # noqa: ASYNC109
        with _failures(self._core):
            async with asyncio.timeout(timeout):
                stream: NetworkStream = await connect(lambda: NetworkStream(self._core), host, port)
        return stream


class NetworkStream(asyncio.Protocol):
    """An `AsyncNetworkStream` of httpcore, and the protocol on asyncio's side of it.

    Data passes through layers of TLS: none, one, or two with an https proxy.
    """

    def __init__(self, core: Any) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._layers: tuple[Layer, ...] = ()  # the outermost, next to the network, comes first
        self._received = bytearray()
        self._paused = False  # asyncio has paused writing
        self._ended = False
        self._failure: Exception | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._lost: asyncio.Future[None] = self._loop.create_future()

    # Called by asyncio.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._receive(data, self._layers)
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
        if not self._ended:
            self._failure = exc
        self._ended = True
        self._wake()
        if not self._lost.done():
            self._lost.set_result(None)

    # Called by a connection; the last three are not in `AsyncNetworkStream`.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        while not self._received and not self._ended:
            await self._wait(timeout, self._core.ReadTimeout)
        if self._received:
            return self._take(max_bytes)
        if self._failure is not None:
            raise self._core.ReadError(str(self._failure)) from self._failure
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        for at in range(0, len(buffer), PIECE):
            if self._ended:
                raise self._core.WriteError(str(self._failure or "the connection was closed")) from self._failure
            self._send(buffer[at : at + PIECE])
            while self._must_wait() and not self._ended:
                await self._wait(timeout, self._core.WriteTimeout)

    async def aclose(self) -> None:
        self.abort()
        await self._lost

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> NetworkStream:
        try:
            with _failures(self._core):
                async with asyncio.timeout(timeout):
                    await self._shake_hands(Layer(ssl_context, server_hostname))
        except BaseException:
            self.abort()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        names = {"client_addr": "sockname", "server_addr": "peername"}
        if info == "is_readable":
            return self.is_readable()
        if info == "ssl_object":
            return self._layers[-1].ssl_object if self._layers else None
        return self._transport.get_extra_info(names.get(info, info))

    def abort(self) -> None:
        self._transport.abort()

    def unread(self, data: bytes) -> None:
        """The next `read` begins with `data`."""
        self._received[:0] = data

    def is_readable(self) -> bool:
        """True if there is data or the end to read.

        It polls the socket too, which asyncio may not have read yet. This takes 2 us.
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

    # Internal.

    async def _shake_hands(self, layer: Layer) -> None:
        early = self._take(len(self._received))
        self._layers += (layer,)
        self._receive(early, (layer,))
        while not layer.secure:
            if self._ended:
                raise self._failure or ConnectionResetError("the server hung up in the middle of the TLS handshake")
            await self._wait(None, self._core.ConnectTimeout)

    def _receive(self, data: bytes, layers: tuple[Layer, ...]) -> None:
        """Decrypt `data` through `layers` and buffer it."""
        for layer in layers:
            data = layer.decrypt(data)
        self._received += data
        if len(self._received) > READ_AHEAD:
            self._transport.pause_reading()
        if layers:
            self._send(b"")  # TLS may have messages of its own to send

    def _take(self, most: int) -> bytes:
        """Up to `most` buffered bytes."""
        data = bytes(self._received[:most])
        was_full = len(self._received) > READ_AHEAD
        del self._received[:most]
        if was_full and len(self._received) <= READ_AHEAD:
            self._transport.resume_reading()
        return data

    def _send(self, data: bytes) -> None:
        """Write `data`, and what the layers have waiting."""
        for layer in reversed(self._layers):
            data = layer.encrypt(data)
        if data:
            self._transport.write(data)
        for layer in self._layers:
            if layer.ended and not self._ended:
                self._ended = True
                self._failure = layer.failure
                self._transport.close()

    def _must_wait(self) -> bool:
        """True if the network or TLS cannot take more yet."""
        return self._paused or any(layer.waiting for layer in self._layers)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self, timeout: float | None, error: type[Exception]) -> None:  # noqa: ASYNC109
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        timer = None if timeout is None else self._loop.call_later(timeout, _expire, waiter, error)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _expire(waiter: asyncio.Future[None], error: type[Exception]) -> None:
    if not waiter.done():
        waiter.set_exception(error())


@contextlib.contextmanager
def _failures(core: Any) -> Iterator[None]:
    """Raise failures to connect as httpcore's errors.

    Not all are `OSError`s: for an invalid host or port the resolver and TLS raise `ValueError`, its
    subclass `UnicodeError` (a label of 64 characters), or `OverflowError`.
    """
    try:
        yield
    except TimeoutError as late:
        raise core.ConnectTimeout from late
    except Exception as failed:
        raise core.ConnectError(str(failed)) from failed
