"""The upstream server: the address that a path stands for, and the headers that are passed on to it and back."""

from __future__ import annotations

import functools
import os
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    Pairs = list[tuple[bytes, bytes]]

# RFC 9110, 7.6.1: headers of one connection, which a proxy must not pass on.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The server below answers `Expect` itself, and the client above writes `Host` and the length anew.
_OF_REQUEST: Final = _HOP_BY_HOP | {b"content-length", b"expect", b"host"}
# Offers of the upstream server about its own address, such as HTTP/3 there.
_OF_RESPONSE: Final = _HOP_BY_HOP | {b"alt-svc"}

_GZIP: Final = re.compile(rb"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)


class Upstream:
    """The API at `url`, such as `https://api.openai.com/v1`. `family`: httpx or httpx2. Raises `ValueError`.

    Callers may use the address of the proxy with all of the path of `url`, with its last words, or with nothing in
    the place of `https://api.openai.com/v1`.
    """

    def __init__(self, url: str, family: Any) -> None:
        try:
            base = family.URL(url)
        except family.InvalidURL as error:
            raise ValueError(f"upstream must be the URL of an API such as https://api.openai.com/v1: {error}") from None
        if base.scheme not in {"http", "https"} or not base.host:
            raise ValueError(f"upstream must be the URL of an API such as https://api.openai.com/v1, got {url!r}")
        if base.userinfo or base.query or base.fragment:
            raise ValueError("upstream must be an address only: keys are those of the callers")
        self._base = base
        self._path = base.raw_path.partition(b"?")[0].rstrip(b"/")
        starts = [match.start() for match in re.finditer(b"/", self._path)]
        self._endings = [self._path[start:] for start in starts]  # the longest one first
        # RFC 9110, 7.6.3; a name of its own for each process, so that it knows its own requests.
        self._via = f"1.1 throttled-openai-{os.urandom(4).hex()}".encode()

    @property
    def path(self) -> str:
        """The last word of the path, or nothing: what callers add to the address of the proxy."""
        word: str = (self._endings[-1] if self._endings else b"").decode()
        return word

    def __str__(self) -> str:
        return str(self._base)

    @functools.lru_cache(maxsize=1024)  # noqa: B019  # one for the process; few paths are asked for again and again
    def url_of(self, path: bytes, query: bytes) -> Any:
        """The address of a call for `path`."""
        for ending in self._endings:
            if path == ending or path.startswith(ending + b"/"):
                path = path[len(ending) :]
                break
        target = self._path + path or b"/"
        return self._base.copy_with(raw_path=target + b"?" + query if query else target)

    def has_seen(self, headers: Pairs) -> bool:
        """Whether the request comes from this very proxy: its upstream server is the proxy itself."""
        return any(name == b"via" and self._via in value for name, value in headers)

    def headers_of_request(self, headers: Pairs) -> Pairs:
        return [*_passed_on(headers, _OF_REQUEST), (b"via", self._via)]


def headers_of_response(headers: Pairs) -> Pairs:
    return _passed_on(headers, _OF_RESPONSE)


def decodable(headers: Pairs) -> Pairs:
    """The same, but the answer comes in an encoding that can be read as it passes: usage is in it."""
    asked = b",".join(value for name, value in headers if name == b"accept-encoding")
    kept = [pair for pair in headers if pair[0] != b"accept-encoding"]
    return [*kept, (b"accept-encoding", b"gzip" if _GZIP.search(asked) else b"identity")]


def _passed_on(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Pairs:
    pairs = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    return [pair for pair in pairs if pair[0] not in dropped and pair[0] not in named]
