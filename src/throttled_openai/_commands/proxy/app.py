"""The proxy as an ASGI application: passes one call on, once it is admitted, and its answer back as it comes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import zlib
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._clients.http_client import Reading, permit_of, wrap_http_client
from throttled_openai._clients.shared import shared
from throttled_openai._clients.waits import end_waits, waits_of
from throttled_openai._pool import http_client
from throttled_openai._protocol.endpoints import is_metered

from .answers import LOOP, NO_TUNNEL, NO_WEBSOCKETS, NOT_FOUND, STOPPING, Answer, answer_to
from .record import HUNG_UP, Record, label_of
from .upstream import Upstream, decodable, headers_of_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from throttled_openai._pool import Kind

    from .upstream import Pairs

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

# Paths of the proxy itself. No API of a provider begins like this.
_OWN: Final = b"/-/"
_STATS: Final = b"/-/stats"
# The throttles bound the calls in flight, so the connections need no bound.
_MOST_CONNECTIONS: Final = 100_000
# Seconds. The rest of the time belongs to the caller, who hangs up when it has had enough.
_CONNECT_TIMEOUT: Final = 10.0
# Bytes of a body that is no JSON and runs no model, up to which it is read before it is passed on.
_SHORT: Final = 65_536
_GZIP_OR_ZLIB: Final = 47
_MOST_INFLATED: Final = 4 * 1024 * 1024
_NAMES_A_MODEL: Final = {"model": "any"}


class Proxy:
    """Passes calls on to `upstream`; `options` are those of `wrap_http_client`, and `pool`.

    `report` is called with the line for the log of each call when it has ended.
    """

    def __init__(self, upstream: str, report: Callable[[str], None], **options: Any) -> None:
        pool: Kind = options.pop("pool", None) or "httpx"
        http = http_client(pool, most_in_flight=_MOST_CONNECTIONS, timeout=None, follow_redirects=False)
        self._family: Any = sys.modules[type(http.build_request("GET", "http://any")).__module__.partition(".")[0]]
        self.upstream = Upstream(upstream, self._family)
        self._http = http
        http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))  # they are the callers'
        self._client: Any = wrap_http_client(http, **options)
        self._client._throttled.throttles.keeps = True  # noqa: SLF001  # also those of keys that are used seldom
        self._timeouts = self._family.Timeout(None, connect=_CONNECT_TIMEOUT).as_dict()
        self._report = report
        self._stops = False
        self.under_way: set[Record] = set()

    def stop(self) -> None:
        """End the calls that wait, and leave those in flight time to end."""
        self._stops = True
        end_waits(waits_of(self._http))

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["raw_path"].startswith(_OWN):
            await _own(scope, send)
            return
        loop = asyncio.get_running_loop()
        record, caller = Record(scope["method"], scope["raw_path"], loop.time()), _Caller(receive)
        self.under_way.add(record)
        try:
            async with caller:
                await self._serve(scope, caller, send, record)
        except _HungUpError:
            record.status, record.code = HUNG_UP, f"hung-up-during-{record.phase}"
        finally:
            caller.leave()
            self.under_way.discard(record)
            self._report(record.line(loop.time()))

    async def _serve(self, scope: Message, caller: _Caller, send: Send, record: Record) -> None:
        """Pass the call on, or say why not."""
        refused = STOPPING if self._stops else _refused(scope, self.upstream)
        if refused is None:
            try:
                await self._pass_on(await self._request(scope, caller, record), caller, send, record)
                return
            except _HungUpError:
                raise
            except Exception as error:  # noqa: BLE001  # the caller gets an answer after any error
                refused = answer_to(error, str(self.upstream))
        record.code = refused.code
        if record.phase == "its-stream":  # too late for another status; the caller sees that the answer is cut off
            return
        record.status = refused.status
        await _say(refused, send)

    async def _request(self, scope: Message, caller: _Caller, record: Record) -> Any:
        """The request for the upstream server, its body read as far as admission needs it."""
        method, received = scope["method"], scope["headers"]
        url = self.upstream.url_of(scope["raw_path"], scope["query_string"])
        headers = self.upstream.headers_of_request(received)
        size = _value(received, b"content-length")
        may_run = is_metered(method, url.path, _NAMES_A_MODEL)
        is_json = b"json" in _value(received, b"content-type")
        has_body = bool(size) or bool(_value(received, b"transfer-encoding"))
        content: Any = caller.body()
        if is_metered(method, url.path, None) or is_json or not has_body or (size and int(size) <= _SHORT):
            read = [chunk async for chunk in content]
            content = b"".join(read) if has_body else None
        elif size:
            headers.append((b"content-length", size))
        if may_run:
            headers = decodable(headers)
        extensions = {"timeout": self._timeouts}
        record.request = self._family.Request(method, url, headers=headers, content=content, extensions=extensions)
        return record.request

    async def _pass_on(self, request: Any, caller: _Caller, send: Send, record: Record) -> None:
        loop = asyncio.get_running_loop()

        async def attempt(request: Any, **options: Any) -> Any:
            record.sent_at, record.phase = loop.time(), "its-flight"
            record.attempts += 1
            response = await self._http.send(request, **options)
            record.phase = "its-wait"  # again, if this is a refusal
            return response

        record.phase = "its-wait"
        response = await self._client.send(request, stream=True, _below=attempt)
        try:
            await self._answer(response, caller, send, record)
        finally:
            await response.aclose()

    async def _answer(self, response: Any, caller: _Caller, send: Send, record: Record) -> None:
        """Send the answer as it comes, byte for byte."""
        permit = permit_of(response)
        record.status, record.phase = response.status_code, "its-stream"
        if permit is not None:
            record.model, record.reading = permit.call.model, Reading(permit)
        headers = headers_of_response(response.headers.raw)
        start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
        if response.is_closed:  # it may have been a refusal, and was read
            content = response.content
            dropped = {b"content-encoding", b"content-length"}
            start["headers"] = [pair for pair in headers if pair[0] not in dropped]
            start["headers"].append((b"content-length", b"%d" % len(content)))
            await send(start)
            caller.leave()
            await send({"type": "http.response.body", "body": content})
            return
        decoded = _decoding(response.headers.get("content-encoding", ""))
        await send(start)
        async for chunk in response.aiter_raw():
            try:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:  # afterwards, so that nothing delays it, but also if the caller hangs up
                if record.reading is not None:
                    record.reading.add(decoded(chunk))
        caller.leave()
        await send({"type": "http.response.body", "body": b""})


class _HungUpError(Exception):
    """The caller is gone."""


class _Caller:
    """The caller of one call: the body of its request, and then whether it is still there.

    As a context it ends what runs in it with `_HungUpError` when the caller hangs up.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: Any = asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._gone = False

    async def body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _HungUpError
            more = message.get("more_body", False)
            if message["body"]:
                yield message["body"]
        self._watch = asyncio.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    def leave(self) -> None:
        """From now on a caller that hangs up is none of our business: it has all of its answer."""
        if self._watch is not None:
            self._watch.cancel()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError) and self._gone and not self._task.uncancel():
            raise _HungUpError from None


def _refused(scope: Message, upstream: Upstream) -> Answer | None:
    """The answer to a request that no API can serve through a proxy; None for all others."""
    if scope["method"] == "CONNECT":
        return NO_TUNNEL
    if _value(scope["headers"], b"upgrade").lower() == b"websocket":
        return NO_WEBSOCKETS
    return LOOP if upstream.has_seen(scope["headers"]) else None


async def _own(scope: Message, send: Send) -> None:
    if scope["raw_path"] != _STATS or scope["method"] not in {"GET", "HEAD"}:
        await _say(NOT_FOUND, send)
        return
    body = json.dumps({"accounts": figures()}, indent=1).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def figures() -> list[dict[str, Any]]:
    """The figures of each account, for JSON."""
    return [
        {"host": account.host, "key": label_of(account), **dataclasses.asdict(stats)}
        for account, stats in shared.stats()
    ]


async def _say(answer: Answer, send: Send) -> None:
    body = answer.body
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers(body)})
    await send({"type": "http.response.body", "body": body})


def _value(headers: Pairs, name: bytes) -> bytes:
    return next((value for other, value in headers if other == name), b"")


def _decoding(encoding: str) -> Callable[[bytes], bytes]:
    """Decodes the chunks of an answer to read its usage; nothing of one in an encoding that was not asked for."""
    if encoding.lower() in {"", "identity"}:
        return bytes
    if encoding.lower() != "gzip":
        return _nothing_of
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB)

    def decoded(chunk: bytes) -> bytes:
        try:
            return inflate.decompress(chunk, _MOST_INFLATED)
        except zlib.error:
            return b""

    return decoded


def _nothing_of(_: bytes) -> bytes:
    return b""
