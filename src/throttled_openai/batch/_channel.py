"""The channel: messages between the process of a run and its workers, over a pair of sockets.

What belongs here is packing several messages into one write, and taking them apart again.
"""

from __future__ import annotations

import asyncio
import pickle
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

# Before each packet: the bytes that follow.
_LENGTH: Final = Struct("<Q")


class Channel(asyncio.Protocol):
    """One end. `received` is called with each message, and `lost` once the other end is gone.

    Both ends are processes of the same run, started by each other, so messages are pickled.
    """

    def __init__(self, received: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._unsent: list[Any] = []
        self._transport: asyncio.Transport | None = None
        self._is_lost = False

    async def connect(self, end: socket.socket) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def send(self, message: Any) -> None:
        """Send a message together with those of the same turn of the event loop."""
        self._unsent.append(message)
        if len(self._unsent) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        messages, self._unsent = self._unsent, []
        if messages and self._transport is not None and not self._is_lost:
            packet = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
            self._transport.writelines([_LENGTH.pack(len(packet)), packet])

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer, 0
        buffer += data
        while len(buffer) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, at)
            end = at + _LENGTH.size + size
            if len(buffer) < end:
                break
            messages = pickle.loads(memoryview(buffer)[at + _LENGTH.size : end])  # noqa: S301  # of our own process
            at = end
            for message in messages:
                self._received(message)
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_lost = True
        self._lost()
