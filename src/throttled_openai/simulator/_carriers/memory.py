"""The memory carrier: a transport for httpx or httpx2, on the running loop's clock."""

from __future__ import annotations

import asyncio
import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from .._answers.reply import Reply
    from .._server import Server


def transport_of(simulator: Server, family: ModuleType) -> Any:
    """A transport for clients of `family`, which is httpx or httpx2."""
    transport, stream = _classes(family)
    return transport(simulator, family, stream)


@cache
def _classes(family: Any) -> tuple[type[Any], type[Any]]:
    """The transport and the stream of `family`: each accepts only subclasses of its own."""
    return (
        type("SimulatedTransport", (_Transport, family.AsyncBaseTransport), {}),
        type("SimulatedStream", (_StreamedBody, family.AsyncByteStream), {}),
    )


class _Transport:
    def __init__(self, simulator: Server, family: Any, stream: type[_StreamedBody]) -> None:
        self._simulator = simulator
        self._family = family
        self._stream = stream

    async def handle_async_request(self, request: Any) -> Any:
        body = await request.aread()
        simulator, timeout = self._simulator, _ReadTimeout(request, self._family)
        # A client that leaves now leaves no trace at the server.
        await timeout.travel(simulator.network.to_server(simulator.settings))
        now = asyncio.get_running_loop().time()
        path = request.url.path + (f"?{request.url.query.decode('latin-1')}" if request.url.query else "")
        reply = simulator.receive(request.method, path, request.headers, body, now)
        try:
            await timeout.wait_for_slot(reply)
            await timeout.sleep(reply.delay)
            if not reply.stream:
                simulator.finish(reply, delivered=True)  # a reply on the network occupies no slot
            await timeout.travel(simulator.network.to_client(simulator.settings))
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


class _ReadTimeout:
    """The client's read timeout, kept here because there is no socket to enforce it."""

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

    async def wait_for_slot(self, reply: Reply) -> None:
        if not reply.queued:
            return
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            async with asyncio.timeout(self._left):
                await reply.wait_for_slot()
        except TimeoutError:
            raise self._family.ReadTimeout("", request=self._request) from None
        if self._left is not None:
            self._left -= loop.time() - since


class _StreamedBody:
    """The body of a streamed reply. Closing, cancelling or dropping the iteration is a client that leaves.

    Pieces arrive as far apart as they are sent: each takes as long over the network as the head did.
    """

    def __init__(self, simulator: Server, reply: Reply, request: Any, family: Any) -> None:
        self._simulator = simulator
        self._reply = reply
        self._request = request
        self._family = family
        self._sent = 0
        self._closed = False

    def __aiter__(self) -> _StreamedBody:
        """Iterating again continues, as on a socket: the SDK reads the remainder after the last event."""
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
            await _ReadTimeout(self._request, self._family).sleep(self._reply.pause)
        except BaseException:
            self._simulator.finish(self._reply, delivered=False)
            raise
        self._sent += 1
        if self._sent == len(self._reply.pieces):
            # Not on the next read: a client that has read the last event need not read again.
            self._simulator.finish(self._reply, delivered=True)
        return self._reply.pieces[self._sent - 1]

    async def aclose(self) -> None:
        self._closed = True
        self._sent = len(self._reply.pieces)
        self._simulator.finish(self._reply, delivered=False)
