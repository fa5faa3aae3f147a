"""The carrier in memory: a transport for httpx and httpx2, on the running loop's clock."""

from __future__ import annotations

import asyncio
import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from ._reply import Reply
    from ._server import Simulator


def transport_of(simulator: Simulator, family: ModuleType) -> Any:
    """Make a transport of `family`, which is httpx or httpx2."""
    transport, stream = _classes(family)
    return transport(simulator, family, stream)


@cache
def _classes(family: Any) -> tuple[type[Any], type[Any]]:
    """Both families insist on their own base classes."""
    return (
        type("SimulatedTransport", (_Transport, family.AsyncBaseTransport), {}),
        type("SimulatedStream", (_Stream, family.AsyncByteStream), {}),
    )


class _Transport:
    def __init__(self, simulator: Simulator, family: Any, stream: type[_Stream]) -> None:
        self._simulator = simulator
        self._family = family
        self._stream = stream

    async def handle_async_request(self, request: Any) -> Any:
        body = await request.aread()
        simulator, patience = self._simulator, _Patience(request, self._family)
        # A client that leaves now was never heard of.
        await patience.travel(simulator.network.there(simulator.settings))
        now = asyncio.get_running_loop().time()
        reply = simulator.receive(request.method, request.url.path, request.headers, body, now)
        try:
            await patience.queue(reply)
            await patience.sleep(reply.delay)
            if not reply.stream:
                simulator.finish(reply, delivered=True)  # it leaves the server; on its way it costs nobody anything
            await patience.travel(simulator.network.back(simulator.settings))
        except BaseException:
            simulator.finish(reply, delivered=False)
            raise
        if reply.stream:
            stream = self._stream(simulator, reply, request, self._family)
            return self._family.Response(reply.status, headers=reply.headers, stream=stream)
        if reply.fault == "disconnect":
            message = "Server disconnected without sending a response."
            raise self._family.RemoteProtocolError(message, request=request)
        return self._family.Response(reply.status, headers=reply.headers, content=reply.pieces[0])


class _Patience:
    """How long the client still waits for bytes: no socket is there to time out."""

    def __init__(self, request: Any, family: Any) -> None:
        self._request = request
        self._family = family
        self._left: float | None = request.extensions.get("timeout", {}).get("read")

    async def travel(self, delay: float) -> None:
        if delay > 0:
            await self.sleep(delay)

    async def sleep(self, delay: float) -> None:
        if self._left is not None and delay > self._left:
            await asyncio.sleep(self._left)
            raise self._family.ReadTimeout("", request=self._request)
        if math.isinf(delay):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(delay)
        if self._left is not None:
            self._left -= delay

    async def queue(self, reply: Reply) -> None:
        """Wait in the server's line."""
        if not reply.queued:
            return
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            async with asyncio.timeout(self._left):
                await reply.turn()
        except TimeoutError:
            raise self._family.ReadTimeout("", request=self._request) from None
        if self._left is not None:
            self._left -= loop.time() - since


class _Stream:
    """The body of a streamed reply. The client is gone when it closes, cancels, or drops the iteration.

    Its pieces are as far apart as they were sent: all of them have been on their way as long as the head.
    """

    def __init__(self, simulator: Simulator, reply: Reply, request: Any, family: Any) -> None:
        self._simulator = simulator
        self._reply = reply
        self._request = request
        self._family = family
        self._sent = 0
        self._closed = False

    def __aiter__(self) -> _Stream:
        """Go on where it stopped, like a socket: the SDK looks for what is left after the last event."""
        return self

    async def __anext__(self) -> bytes:
        if self._sent == len(self._reply.pieces):
            if self._reply.fault == "stream_cut" and not self._closed:
                raise self._family.RemoteProtocolError(
                    "peer closed connection without sending complete message body (incomplete chunked read)",
                    request=self._request,
                )
            raise StopAsyncIteration
        try:
            await _Patience(self._request, self._family).sleep(self._reply.pause)
        except BaseException:
            self._simulator.finish(self._reply, delivered=False)
            raise
        self._sent += 1
        if self._sent == len(self._reply.pieces):
            # Now, not when more is asked for: a client that has all it wants need not ask again.
            self._simulator.finish(self._reply, delivered=True)
        return self._reply.pieces[self._sent - 1]

    async def aclose(self) -> None:
        self._closed = True
        self._sent = len(self._reply.pieces)
        self._simulator.finish(self._reply, delivered=False)
