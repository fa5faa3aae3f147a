"""The raw exchange: sends the bytes of a request and returns the bytes of its response, on our own pool.

httpx's work around an exchange (request and response objects, hooks, cookies, redirects) costs as much as the exchange
itself, and files of requests need none of it. A client with hooks, a mock or another transport has no raw exchange.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .client import PooledAsyncHttpxClient, _family
from .stack import StackPool

if TYPE_CHECKING:
    from collections.abc import Sequence

# Bytes of one decoded answer. A server that sends without end may fail one call, but must not exhaust the memory.
MOST: Final = 256 * 1024 * 1024
# The encoding that is decoded here; httpx decodes others.
_ENCODINGS: Final = b"gzip"
_GZIP_OR_ZLIB: Final = 47


class RawResponse(NamedTuple):
    """A response. `headers`: as received. `content`: decoded."""

    status: int
    headers: list[tuple[bytes, bytes]]
    content: bytes


class RawExchange:
    """Sends POST requests to the address of `template`, with its headers."""

    def __init__(self, pool: StackPool, family: Any, template: Any, timeouts: dict[str, float | None]) -> None:
        core, url = pool.core, template.url
        self._pool = pool
        self._core = core
        self._family = family
        self._template = template
        self._body = family.ByteStream
        self._url = core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        left_out = {b"content-length", b"accept-encoding", b"transfer-encoding"}
        self._headers = [pair for pair in template.headers.raw if pair[0].lower() not in left_out]
        self._headers.append((b"Accept-Encoding", _ENCODINGS))
        self._extensions = {"timeout": timeouts}

    async def post(self, content: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> RawResponse:
        """Send `content`. Raises what httpx raises if there is no answer."""
        core = self._core
        request = core.Request(b"POST", self._url, extensions=self._extensions)
        request.headers = [*self._headers, *more, (b"Content-Length", b"%d" % len(content))]
        request.stream = self._body(content)
        try:
            response = await self._pool.handle_async_request(request)
            stream = response.stream
            try:
                received = await self._read(stream)
            finally:
                await stream.aclose()
        except Exception as failure:
            raise self._named_by_httpx(failure) from failure
        return RawResponse(response.status, response.headers, self._decoded(response.headers, received))

    async def _read(self, stream: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in stream:
            parts.append(part)
            size += len(part)
            if size > MOST:
                raise self._core.RemoteProtocolError(f"the answer is larger than {MOST} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _decoded(self, headers: list[tuple[bytes, bytes]], content: bytes) -> bytes:
        encoding = next((value for name, value in headers if name.lower() == b"content-encoding"), b"identity")
        if encoding == b"identity" or not content:
            return content
        if encoding.lower() == _ENCODINGS:
            inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
            try:
                whole = inflate.decompress(content, MOST)
            except zlib.error as failure:
                raise self._family.DecodingError(str(failure), request=self._bare()) from failure
            if inflate.unconsumed_tail:
                raise self._family.DecodingError(f"the answer is larger than {MOST} bytes", request=self._bare())
            return whole
        response = self._family.Response(200, headers=headers, content=content, request=self._bare())
        decoded: bytes = response.content
        return decoded

    def response(self, raw: RawResponse) -> Any:
        """`raw` as a response of httpx."""
        headers = [pair for pair in raw.headers if pair[0].lower() not in {b"content-encoding", b"content-length"}]
        return self._family.Response(raw.status, headers=headers, content=raw.content, request=self._bare())

    def _bare(self) -> Any:
        return self._family.Request("POST", self._template.url)

    def _named_by_httpx(self, failure: Exception) -> Exception:
        """The error of httpx that corresponds to one of httpcore; other errors unchanged."""
        for kind in type(failure).__mro__:
            named = getattr(self._family, kind.__name__, None) if kind.__module__.startswith("httpcore") else None
            if named is not None:
                made: Exception = named(str(failure), request=self._bare())
                return made
        return failure


def raw_exchange(http: Any, template: Any, timeouts: dict[str, float | None]) -> RawExchange | None:
    """A raw exchange for the address of `template`, a request of httpx; None if `http` needs httpx's own path."""
    if type(http) is not PooledAsyncHttpxClient or any(http.event_hooks.values()) or http.auth is not None:
        return None
    if "send" in vars(http):
        return None
    transport = http._transport_for_url(template.url)  # noqa: SLF001  # as httpx's own `send` finds it
    pool = getattr(transport, "_pool", None)
    family = _family(type(http))
    if type(pool) is not StackPool or pool.is_replaced or type(transport) is not family.AsyncHTTPTransport:
        return None
    if "handle_async_request" in vars(transport):
        return None
    return RawExchange(pool, family, template, timeouts)
