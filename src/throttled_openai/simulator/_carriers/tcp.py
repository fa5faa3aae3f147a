"""The TCP carrier: HTTP/1.1 over asyncio, fast enough not to dominate a benchmark.

Messages travel over the real network; the setting `network` has no effect here.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from .._answers.reply import reply_of
from .._wording.errors import error_body
from .http1 import MalformedRequestError, Request, RequestReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .._answers.reply import Reply
    from .._server import Server

# Connections that the system queues between two turns of the loop. 10,000 clients connect at once; a
# shorter queue drops handshakes, which are repeated only a second later.
_BACKLOG: Final = 4096

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


@asynccontextmanager
async def serve(
    simulator: Server, *, host: str = "127.0.0.1", port: int = 0, access_log: Callable[[str], object] | None = None
) -> AsyncIterator[str]:
    """Serve on a TCP port (0: any free one) and give the base URL, which ends in /v1.

    `access_log` gets a line for each request, at its end.
    """
    connections: set[_ClientConnection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _ClientConnection(simulator, connections, access_log), host, port, backlog=_BACKLOG
    )
    bound = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{bound}/v1"
    finally:
        server.close()
        await asyncio.gather(*[connection.close() for connection in list(connections)])
        await server.wait_closed()


class _ClientConnection(asyncio.Protocol):
    """One client's connection. It answers one request at a time, in a task that is cancelled when the client leaves."""

    def __init__(
        self,
        simulator: Server,
        connections: set[_ClientConnection],
        access_log: Callable[[str], object] | None = None,
    ) -> None:
        self._simulator = simulator
        self._access_log = access_log
        self._connections = connections
        self._reader = RequestReader()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio has set TCP_NODELAY already.
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass
        self._connections.add(self)
        self._simulator.counters.connections += 1
        self._simulator.counters.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._simulator.counters.connections -= 1
        if self._task is not None:
            self._task.cancel()
        self._closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._task is None:
            self._next()

    def close(self) -> asyncio.Future[None]:
        self._transport.abort()
        return self._closed

    def _next(self) -> None:
        try:
            request = self._reader.next()
        except MalformedRequestError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()
            return
        if request is not None:
            self._task = self._loop.create_task(self._answer(request))
        elif self._reader.expects_continue:
            self._reader.expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _answer(self, request: Request) -> None:
        began = self._loop.time()
        reply = self._receive(request)
        delivered = False
        try:
            await reply.wait_for_slot()
            await _wait(reply.delay)
            if reply.stream:
                await self._send_stream(reply)
            elif reply.fault != "disconnect":
                self._transport.write(_head(reply) + (b"" if request.method == "HEAD" else reply.pieces[0]))
            delivered = True
        finally:
            self._simulator.finish(reply, delivered=delivered)
            self._task = None
            if self._access_log is not None:
                self._access_log(_access_line(request, reply, self._loop.time() - began, delivered=delivered))
        if not request.keep_alive or reply.fault in {"disconnect", "stream_cut"}:
            self._transport.close()
        elif not self._transport.is_closing():
            self._next()

    def _receive(self, request: Request) -> Reply:
        now = self._loop.time()
        path = f"{request.path}?{request.query}" if request.query else request.path
        try:
            return self._simulator.receive(request.method, path, request.headers, request.body, now)
        except Exception as problem:  # noqa: BLE001  # one request must not leave its client without an answer
            self._loop.call_exception_handler({"message": "the simulator failed", "exception": problem})
            return reply_of(500, error_body(f"The simulator failed: {type(problem).__name__}", "server_error"))

    async def _send_stream(self, reply: Reply) -> None:
        self._transport.write(_head(reply))
        for piece in reply.pieces:
            if reply.pause:
                await asyncio.sleep(reply.pause)
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if reply.fault != "stream_cut":
            self._transport.write(b"0\r\n\r\n")


def _access_line(request: Request, reply: Reply, seconds: float, *, delivered: bool) -> str:
    """Such as `200 POST /v1/chat/completions 0.52 s gpt-4o, 24 tokens`; nothing of what was asked or answered."""
    path = "".join(letter if letter.isprintable() else "?" for letter in request.path[:200])
    end = "" if delivered else ", the client left"
    if reply.fault is not None:
        end = f", fault: {reply.fault}"
    return f"{reply.status} {request.method} {path} {seconds:.2f} s {reply.note}{end}".rstrip(" ,")


async def _wait(delay: float) -> None:
    if math.isinf(delay):
        await asyncio.get_running_loop().create_future()
    if delay:
        await asyncio.sleep(delay)


def _head(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}"]
    lines += (f"{name}: {value}" for name, value in reply.headers)
    lines.append("transfer-encoding: chunked" if reply.stream else f"content-length: {len(reply.pieces[0])}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
