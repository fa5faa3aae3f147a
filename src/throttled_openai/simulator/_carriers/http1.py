"""A parser of HTTP/1.1 requests, complete enough for the SDK, curl and a browser's fetch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

# Bytes. A larger head or body is a mistake.
_LARGEST_HEAD: Final = 64 * 1024
_LARGEST_BODY: Final = 512 * 1024 * 1024
# Bytes of a chunk's size line.
_LARGEST_LINE: Final = 4096


class MalformedRequestError(Exception):
    """The bytes are not an HTTP/1.1 request; the connection must be closed."""


@dataclass(slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool
    body: bytes = b""
    query: str = ""


class RequestReader:
    """Takes bytes and gives complete requests. No I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._request: Request | None = None
        self._length: int | None = 0
        self._body = bytearray()
        self._last_chunk = False
        self.expects_continue = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """Return the next request, or None while it is not complete."""
        if self._request is None and not self._read_head():
            return None
        request = self._request
        assert request is not None
        if not (self._read_chunks() if self._length is None else self._read_sized(self._length)):
            return None
        request.body = bytes(self._body)
        self._body.clear()
        self._request = None
        return request

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                raise MalformedRequestError("head too large")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").lstrip("\r\n").split("\r\n")
        del self._buffer[: end + 4]
        try:
            method, target, version = first.split(" ")
            headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            self._length = _number(headers.get("content-length", "0"), 10)
        except ValueError as problem:
            raise MalformedRequestError(first[:100]) from problem
        if self._length > _LARGEST_BODY:
            raise MalformedRequestError("body too large")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._length = None
        keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        path, _, query = target.partition("?")
        self._request = Request(method, unquote(path), headers, keep_alive, query=query)
        self.expects_continue = headers.get("expect", "").lower() == "100-continue"
        return True

    def _read_sized(self, length: int) -> bool:
        if len(self._buffer) < length:
            return False
        self._body += self._buffer[:length]
        del self._buffer[:length]
        return True

    def _read_chunks(self) -> bool:
        while (end := self._buffer.find(b"\r\n", 0, _LARGEST_LINE)) >= 0:
            line = self._buffer[:end].decode("latin-1")
            if self._last_chunk:  # trailers are ignored up to the empty line
                del self._buffer[: end + 2]
                self._last_chunk = bool(line)
                if not line:
                    return True
                continue
            try:
                size = _number(line.partition(";")[0].strip(), 16)
            except ValueError as problem:
                raise MalformedRequestError("bad chunk") from problem
            if len(self._body) + size > _LARGEST_BODY:
                raise MalformedRequestError("body too large")
            if size == 0:
                self._last_chunk = True
                del self._buffer[: end + 2]
                continue
            whole = end + 2 + size + 2
            if len(self._buffer) < whole:
                return False
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[:whole]
        if len(self._buffer) >= _LARGEST_LINE:
            raise MalformedRequestError("chunk without an end")
        return False


def _number(text: str, base: int) -> int:
    """Like `int`, but without the signs, underscores and prefixes that it accepts. Raises `ValueError`."""
    if not re.fullmatch("[0-9a-fA-F]{1,16}", text):
        raise ValueError(text)
    return int(text, base)
