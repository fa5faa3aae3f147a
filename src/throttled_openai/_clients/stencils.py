"""Stencils: requests that differ only in their bodies are made from one that the SDK has built."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from openai import NotGiven, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

# Private, and perhaps not there in another version: then the SDK builds all requests.
_base: Final[Any] = sys.modules.get("openai._base_client")
# What builds requests, unless another class or library has its own.
BUILD: Final = getattr(getattr(_base, "BaseClient", None), "_build_request", None)
_sdk_log: Final = logging.getLogger("openai._base_client")
# Stencils that one client keeps.
_MOST: Final = 64
# What the HTTP client's `build_request` consists of.
_PARTS: Final = ("build_request", "_merge_url", "_merge_headers", "_merge_cookies", "_merge_queryparams")


class Stencil:
    """A request without its body. It is `proven` once it has made a request equal to the SDK's own."""

    def __init__(self, client: Any, request: Any) -> None:
        self.proven = False
        self._of = client.base_url, client._client  # noqa: SLF001
        self._kind, self._stream = type(request), type(request.stream)
        self._method, self._url, self._headers = request.method, request.url, request.headers.copy()
        self._extensions = _copied(request.extensions)

    def fits(self, client: Any) -> bool:
        """Whether the client has the same address and connections as before."""
        base_url, http = self._of
        return base_url is client.base_url and http is client._client  # noqa: SLF001

    def fill(self, content: bytes) -> Any:
        """A request with that body."""
        stream, extensions = self._stream(content), _copied(self._extensions)
        request = self._kind(self._method, self._url, headers=self._headers, stream=stream, extensions=extensions)
        request.headers["Content-Length"] = str(len(content))
        request.read()
        return request


def build_request(stencils: dict[Hashable, Stencil | None], client: Any, options: Any, retries: int, sdk: Any) -> Any:
    """The request that `sdk`, the SDK's own method, would build.

    Of each shape the SDK builds two: the stencil is taken from the first, and makes a request beside the second.
    Only if both are equal it makes those that follow.
    """
    shape = _shape(client, options, retries, sdk)
    if shape is None:
        return sdk(options, retries_taken=retries)
    stencil = stencils.get(shape)
    if stencil is not None and stencil.proven and stencil.fits(client):
        return stencil.fill(_base.openapi_dumps(options.json_data))
    request = sdk(options, retries_taken=retries)
    if stencil is None and shape in stencils:  # not proven equal
        return request
    if len(stencils) >= _MOST:
        stencils.clear()
    if stencil is None or not stencil.fits(client):
        stencils[shape] = Stencil(client, request)
    elif _are_equal(stencil.fill(_base.openapi_dumps(options.json_data)), request):
        stencil.proven = True
    else:
        stencils[shape] = None
    return request


def _shape(client: Any, options: Any, retries: int, sdk: Any) -> Hashable | None:
    """All that a request depends on, besides its body; None if it is unusual, and left to the SDK."""
    try:
        if (
            sdk.__func__ is not BUILD
            or type(options.json_data) is not dict
            or options.method.lower() != "post"
            or options.headers
            or options.params
            or options.extra_json is not None
            or options.files is not None
            or options.content is not None
            or client.default_query
            or client._idempotency_header  # noqa: SLF001
            or _sdk_log.isEnabledFor(logging.DEBUG)
        ):
            return None
        http = client._client  # noqa: SLF001
        if http.params or http.cookies or not _is_plain(type(http)) or "build_request" in vars(http):
            return None
        query = getattr(client, "_auth_query", None)
        if query is not None and query(options.security):
            return None
        hooks = tuple(_hooks(client))
        timeout = client.timeout if isinstance(options.timeout, NotGiven) else options.timeout
        if not all(hook.__module__.startswith("openai.") for hook in hooks) or not _is_timeout(timeout):
            return None
        return (
            options.method,
            options.url,
            retries,
            type(timeout),
            repr(timeout),  # 600 and 600.0 are equal, but written differently
            _items(client._auth_headers(options.security)),  # noqa: SLF001
            _items(client.default_headers),
            tuple(http.headers.raw),
            hooks,
        )
    except Exception:  # noqa: BLE001  # of a hook, which the SDK asks, too
        return None


def _hooks(client: Any) -> list[Callable[..., Any]]:
    """The functions that the SDK's `_build_request` calls, and that depend on nothing else."""
    return [client._build_headers.__func__, client._prepare_url.__func__, client._validate_headers.__func__]  # noqa: SLF001


def _items(headers: dict[str, Any]) -> tuple[Hashable, ...]:
    """Of `Omit()`, which is a new one each time, only the type."""
    return tuple([(name, value if type(value) is str else type(value)) for name, value in headers.items()])


_plain: Final[dict[type, bool]] = {}


def _is_plain(kind: type[Any]) -> bool:
    """Whether an HTTP client of that type builds requests as httpx does."""
    plain = _plain.get(kind)
    if plain is None:
        homes = [next(base for base in kind.__mro__ if part in vars(base)).__module__ for part in _PARTS]
        plain = _plain[kind] = all(home in {"httpx._client", "httpx2._client"} for home in homes)
    return plain


def _is_timeout(timeout: object) -> bool:
    kind = type(timeout)
    return kind in {int, float, type(None), Timeout} or kind.__module__ in {"httpx", "httpx2"}


def _copied(extensions: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if type(value) is dict else value for name, value in extensions.items()}


def _are_equal(one: Any, other: Any) -> bool:
    def told(request: Any) -> tuple[Any, ...]:
        headers = request.headers
        stream = type(request.stream), b"".join(request.stream)
        return request.method, request.url, headers.raw, headers.encoding, request.content, stream, request.extensions

    return type(one) is type(other) and vars(one).keys() == vars(other).keys() and told(one) == told(other)
