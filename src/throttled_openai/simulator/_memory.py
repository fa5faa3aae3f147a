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
        now = asyncio.get_running_loop().time()
        reply = self._simulator.receive(request.method, request.url.path, request.headers, body, now)
        stream = self._stream(self._simulator, reply, request, self._family)
        try:
            await stream.wait(reply.delay)
        except BaseException:
            self._simulator.finish(reply, delivered=False)
            raise
        if reply.stream:
            return self._family.Response(reply.status, headers=reply.headers, stream=stream)
        self._simulator.finish(reply, delivered=True)
        if reply.fault == "disconnect":
            message = "Server disconnected without sending a response."
            raise self._family.RemoteProtocolError(message, request=request)
        return self._family.Response(reply.status, headers=reply.headers, content=reply.pieces[0])


class _Stream:
    """The body of a streamed reply. The client is gone when it closes, cancels, or drops the iteration."""

    def __init__(self, simulator: Simulator, reply: Reply, request: Any, family: Any) -> None:
        self._simulator = simulator
        self._reply = reply
        self._request = request
        self._family = family
        self._sent = 0
        self._closed = False

    async def wait(self, delay: float) -> None:
        """Sleep, but no longer than the client waits for bytes: no socket is there to time out."""
        patience = self._request.extensions.get("timeout", {}).get("read")
        if patience is not None and delay > patience:
            await asyncio.sleep(patience)
            raise self._family.ReadTimeout("", request=self._request)
        if math.isinf(delay):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(delay)

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
            await self.wait(self._reply.pause)
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
