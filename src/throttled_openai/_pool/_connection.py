"""An HTTP/1.1 connection: one exchange at a time, with the interface of httpcore's connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from ._wire import (
    UPGRADED,
    Body,
    Head,
    MalformedRequest,
    MalformedResponse,
    RequestBody,
    body_of,
    parse_head,
    request_head,
    split_head,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ._network import Backend, Stream

T = TypeVar("T")

# Bytes to ask for at once, as in httpcore.
READ: Final = 64 * 1024
# A body up to this leaves in one piece with its head; copying a larger one would cost more than it saves.
SMALL: Final = 64 * 1024


class Connection:
    """A connection to `origin`, opened by its first request, over TLS with `context`.

    `core` is the module httpcore or httpcore2, whose requests it sends and whose errors it raises.
    """

    def __init__(self, core: Any, backend: Backend, origin: Any, context: Any) -> None:
        self._core = core
        self._backend = backend
        self._origin = origin
        self._context = context
        self._stream: Stream | None = None
        self._buffer = b""  # received before the response's body began
        self._busy = False
        self._closed = False
        self._all_sent = True
        self.heard = False  # whether the server has said anything since it was asked

    async def handle_async_request(self, request: Any) -> Any:
        """Send `request`; the connection belongs to the response until its stream is closed."""
        assert not self._busy, "one exchange at a time"
        self._busy = True
        self.heard = False
        trace, timeouts = request.extensions.get("trace"), request.extensions.get("timeout", {})
        try:
            if self._stream is None:
                self._stream = await self._connect(request, trace, timeouts.get("connect"))
            stream = self._stream
            # Head and body leave together, and so do their events.
            send = self._send(stream, request, timeouts.get("write"))
            send = _traced(trace, "send_request_body", request, send)
            await _traced(trace, "send_request_headers", request, send)
            receive = self._receive_head(stream, timeouts.get("read"))
            head = await _traced(trace, "receive_response_headers", request, receive)
            body = body_of(request.method, head, self._buffer)
        except BaseException as failure:
            self._close()
            self._raise_malformed(failure)
            raise
        self._buffer = b""
        if head.status == UPGRADED:
            stream.unread(body.rest)
        return self._core.Response(
            status=head.status,
            headers=head.fields,
            content=_Content(self, body, request),
            extensions={
                "http_version": b"HTTP/" + head.version,
                "reason_phrase": head.reason,
                "network_stream": stream,
            },
        )

    # What a pool asks.

    def is_idle(self) -> bool:
        return not self._busy and not self._closed and self._stream is not None

    def has_expired(self) -> bool:
        """Whether the server has hung up: when nothing was asked, it has nothing else to say."""
        return self._stream is None or self._stream.is_readable()

    async def aclose(self) -> None:
        self._closed = True
        if self._stream is not None:
            await self._stream.aclose()

    # An exchange.

    async def _connect(self, request: Any, trace: Any, timeout: float | None) -> Stream:  # noqa: ASYNC109
        host = self._origin.host.decode("ascii")
        tcp = self._backend.connect_tcp(host, self._origin.port, timeout)
        stream = await _traced(trace, "connect_tcp", request, tcp, "connection")
        if self._origin.scheme == b"https":
            self._context.set_alpn_protocols(["http/1.1"])
            tls = stream.start_tls(self._context, request.extensions.get("sni_hostname") or host, timeout)
            await _traced(trace, "start_tls", request, tls, "connection")
        return stream

    async def _send(self, stream: Stream, request: Any, timeout: float | None) -> None:  # noqa: ASYNC109
        try:
            body = RequestBody(request.headers)
            self._all_sent = not body.closes
            out = request_head(request.method, request.url.target, request.headers)
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
        except self._core.WriteError:
            # A server may answer early and hang up on the rest; what it said is still there to read.
            self._all_sent = False

    async def _receive_head(self, stream: Stream, timeout: float | None) -> Head:  # noqa: ASYNC109
        while True:
            split = split_head(self._buffer)
            if split is not None:
                lines, self._buffer = split
                head = parse_head(lines)
                if head.status >= 200 or head.status == UPGRADED:
                    return head
                continue
            data = await stream.read(READ, timeout)
            if not data:
                raise self._core.RemoteProtocolError("Server disconnected without sending a response.")
            self.heard = True
            self._buffer += data

    async def read(self, body: Body, timeout: float | None) -> bytes:  # noqa: ASYNC109
        """What comes next of the response's body; empty: nothing does."""
        try:
            while not body.ended:
                if data := body.take():
                    return data
                if not body.ended:
                    await self._receive(body, timeout)
            return b""
        except BaseException as failure:
            self._close()
            self._raise_malformed(failure)
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
        """The response was closed: the connection is free if all of it was read."""
        if body.ended and body.reusable and self._all_sent and not body.rest and not self._closed:
            self._busy = False
        else:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.abort()

    def _raise_malformed(self, failure: BaseException) -> None:
        """As httpcore's error, where `failure` is the wire's."""
        if isinstance(failure, MalformedRequest):
            raise self._core.LocalProtocolError(str(failure)) from failure
        if isinstance(failure, MalformedResponse):
            raise self._core.RemoteProtocolError(str(failure)) from failure


class _Content:
    """The response's body, piece by piece as it comes."""

    def __init__(self, connection: Connection, body: Body, request: Any) -> None:
        self._connection: Connection | None = connection
        self._body = body
        self._request = request
        self._trace = request.extensions.get("trace")
        self._timeout = request.extensions.get("timeout", {}).get("read")

    def __aiter__(self) -> _Content:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        read = self._connection.read(self._body, self._timeout)
        data = await _traced(self._trace, "receive_response_body", self._request, read)
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _traced(self._trace, "response_closed", self._request, connection.end(self._body))


def _traced(
    trace: Any, name: str, request: Any, work: Coroutine[Any, Any, T], prefix: str = "http11"
) -> Coroutine[Any, Any, T]:
    """`work`, with httpcore's events around it if somebody listens."""
    return work if trace is None else _told(trace, f"{prefix}.{name}", request, work)


async def _told(trace: Any, name: str, request: Any, work: Coroutine[Any, Any, T]) -> T:
    await trace(f"{name}.started", {"request": request})
    try:
        result = await work
    except BaseException as failure:
        await trace(f"{name}.failed", {"exception": failure})
        raise
    await trace(f"{name}.complete", {"return_value": result})
    return result
