"""An HTTP/1.1 connection: one exchange at a time, with the interface of httpcore's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from .events import Events, named_by_httpcore
from .wire import (
    Body,
    Framing,
    Head,
    MalformedRequest,
    MalformedResponse,
    RequestBody,
    body_of,
    parse_head,
    request_head,
    split_head,
    switches,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .network import NetworkBackend, NetworkStream

# Bytes per read, as in httpcore.
READ: Final = 64 * 1024
# Bytes. A body up to this size is sent in one piece with its head; for larger ones the copy costs more than it saves.
SMALL: Final = 64 * 1024


class Connection:
    """A connection to `origin`, opened by its first request, over TLS with `context`.

    `core` is the module httpcore or httpcore2, whose requests it sends and whose errors it raises.
    `whole` is the class of request bodies that are in memory.
    """

    def __init__(self, core: Any, backend: NetworkBackend, origin: Any, context: Any, whole: type[Any]) -> None:
        self._core = core
        self._backend = backend
        self._origin = origin
        self._context = context
        self._whole = whole
        self._stream: NetworkStream | None = None
        self._buffer = b""  # received before the response's body began
        self._busy = False
        self._closed = False
        self._all_sent = True
        self.opened: Callable[[], None] | None = None  # called when it is open

    async def handle_async_request(self, request: Any) -> Any:
        """Send `request`; the connection belongs to the response until its stream is closed."""
        assert not self._busy, "one exchange at a time"
        self._busy = True
        events = Events(self._core, request)
        timeouts = request.extensions.get("timeout", {})
        stream = self._stream or await self._connect(request, events, timeouts.get("connect"))
        try:
            return await self._exchange(stream, request, events, timeouts)
        except BaseException as failure:
            self._close()
            await events.around("http11.response_closed", _nothing(), {})
            named = named_by_httpcore(self._core, failure)
            if named is failure:
                raise
            raise named from failure

    # For the pool.

    def is_idle(self) -> bool:
        return not self._busy and not self._closed and self._stream is not None

    def has_expired(self) -> bool:
        """True if the server has closed the connection: on an idle one it sends nothing else."""
        return self._stream is None or self._stream.is_readable()

    async def aclose(self) -> None:
        closed, self._closed = self._closed, True
        if self._stream is not None:
            close = self._stream.aclose()
            await (close if closed else Events(self._core).around("connection.close", close, {}))

    # An exchange.

    async def _connect(self, request: Any, events: Events, timeout: float | None) -> NetworkStream:  # noqa: ASYNC109
        host, port = self._origin.host.decode("ascii"), self._origin.port
        info = {"host": host, "port": port, "local_address": None, "timeout": timeout, "socket_options": None}
        tcp = self._connect_tcp(host, port, timeout)
        stream = await events.around("connection.connect_tcp", tcp, info, result=lambda stream: stream)
        if self._origin.scheme == b"https":
            self._context.set_alpn_protocols(["http/1.1"])
            name = request.extensions.get("sni_hostname") or host
            info = {"ssl_context": self._context, "server_hostname": name, "timeout": timeout}
            tls = stream.start_tls(self._context, name, timeout)
            stream = await events.around("connection.start_tls", tls, info, result=lambda stream: stream)
        if self.opened is not None:
            self.opened()
        return stream

    async def _connect_tcp(self, host: str, port: int, timeout: float | None) -> NetworkStream:  # noqa: ASYNC109
        self._stream = await self._backend.connect_tcp(host, port, timeout)  # kept, so that a failure can close it
        return self._stream

    async def _exchange(self, stream: NetworkStream, request: Any, events: Events, timeouts: Any) -> Any:
        asked = await self._send(stream, request, events, timeouts.get("write"))
        receive = self._receive_head(stream, request.method, asked, timeouts.get("read"))
        name = "http11.receive_response_headers"
        head, switched = await events.around(name, receive, result=lambda received: tuple(received[0][:4]))
        body = body_of(request.method, head, self._buffer, switched=switched)
        self._buffer = b""
        if switched:
            stream.unread(body.rest)
        content = _TracedContent if events.wanted else _Content
        return self._core.Response(
            status=head.status,
            headers=head.fields,
            content=content(self, body, request, events),
            extensions={
                "http_version": head.version,
                "reason_phrase": head.reason,
                "network_stream": stream,
            },
        )

    async def _send(self, stream: NetworkStream, request: Any, events: Events, timeout: float | None) -> Framing:  # noqa: ASYNC109
        try:
            head, asked = request_head(request.method, request.url.target, request.headers)
        except MalformedRequest as malformed:
            await events.around("http11.send_request_headers", _fail(malformed))
            raise
        self._all_sent = not asked.closes
        try:
            if events.wanted or not isinstance(request.stream, self._whole):
                # Listeners expect the event of the head first. And if the body is not ready yet, the head must
                # be sent: without it the connection looks idle to the server, which may close it.
                await events.around("http11.send_request_headers", stream.write(head, timeout))
                head = b""
            send = self._send_body(stream, request, RequestBody(asked), head, timeout)
            await events.around("http11.send_request_body", send)
        except self._core.WriteError:
            # A server may answer early and refuse the rest of the body; its answer can still be read.
            self._all_sent = False
        return asked

    async def _send_body(
        self,
        stream: NetworkStream,
        request: Any,
        body: RequestBody,
        head: bytes,
        timeout: float | None,  # noqa: ASYNC109
    ) -> None:
        """Send the body, in one piece with an unsent head if it is small."""
        out = head
        async for part in request.stream:
            framed = body.frame(part)
            if len(framed) > SMALL:
                await stream.write(out, timeout)
                out = framed
            else:
                out += framed
            if body.more:
                await stream.write(out, timeout)
                out = b""
        await stream.write(out + body.end(), timeout)

    async def _receive_head(
        self,
        stream: NetworkStream,
        method: bytes,
        asked: Framing,
        timeout: float | None,  # noqa: ASYNC109
    ) -> tuple[Head, bool]:
        """The head of the response, and whether it switches to another protocol."""
        while True:
            split = split_head(self._buffer)
            if split is not None:
                lines, self._buffer = split
                head = parse_head(lines)
                switched = switches(method, asked, head)
                if head.status >= 200 or switched:
                    return head, switched
                continue
            data = await stream.read(READ, timeout)
            if not data:
                raise self._core.RemoteProtocolError("Server disconnected without sending a response.")
            self._buffer += data

    async def read(self, body: Body, timeout: float | None) -> bytes:  # noqa: ASYNC109
        """The next part of the response's body; empty: the body has ended."""
        try:
            while not body.ended:
                if data := body.take():
                    return data
                if not body.ended:
                    await self._receive(body, timeout)
            return b""
        except BaseException as failure:
            self._close()
            if isinstance(failure, MalformedResponse):
                raise named_by_httpcore(self._core, failure) from failure
            raise

    async def _receive(self, body: Body, timeout: float | None) -> None:  # noqa: ASYNC109
        if self._stream is None or self._closed:
            raise self._core.ReadError("the connection was closed")
        data = await self._stream.read(READ, timeout)
        if data:
            body.receive(data)
        else:
            body.closed()

    async def end(self, body: Body) -> None:
        """Called when the response is closed. The connection is reusable if all of it was read."""
        if body.ended and body.reusable and self._all_sent and not body.rest and not self._closed:
            self._busy = False
        else:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.abort()


class _Content:
    """The response's body, in pieces as they arrive."""

    def __init__(self, connection: Connection, body: Body, request: Any, events: Events) -> None:
        self._connection: Connection | None = connection
        self._body = body
        self._events = events
        self._timeout = request.extensions.get("timeout", {}).get("read")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        data = await self._connection.read(self._body, self._timeout)
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._events.around("http11.response_closed", connection.end(self._body), {})


class _TracedContent(_Content):
    """The same with trace events, one pair for the whole body."""

    _begun = _finished = False

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            await self._events.emit("http11.receive_response_body.started", {"request": self._events.request})
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            await self._end("http11.receive_response_body.complete", {"return_value": None})
            raise
        except BaseException as failure:
            await self._end("http11.receive_response_body.failed", {"exception": failure})
            raise

    async def aclose(self) -> None:
        await super().aclose()
        if self._begun:  # and dropped; httpcore closes its generator after the response
            await self._end("http11.receive_response_body.failed", {"exception": GeneratorExit()})

    async def _end(self, name: str, info: dict[str, Any]) -> None:
        if not self._finished:
            self._finished = True
            await self._events.emit(name, info)


async def _nothing() -> None:
    pass


async def _fail(failure: Exception) -> None:
    raise failure
