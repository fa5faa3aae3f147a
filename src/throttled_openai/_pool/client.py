"""The HTTP clients: the choices of `pool=`, and the mixins that put any httpx client on our transport."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient, DefaultHttpxClient

from .connection import Connection
from .loops import LoopTransport
from .network import NetworkBackend
from .stack import StackPool
from .sync_stack import SyncStackPool

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

    _AsyncClient = httpx2.AsyncClient
    _Client = httpx2.Client
else:
    _AsyncClient = _Client = object

# Connections to one server for a client that a user makes: the SDK's own number.
MAX_CONNECTIONS: Final = 1000
# Connections beyond the calls in flight, for requests that the throttle does not count: listings, uploads,
# streams that are not closed yet.
SPARE: Final = 100
# Seconds that a connection may be idle. Calls of one batch are seconds apart, so with httpx's 5 s many would
# reconnect. Load balancers hang up after 60 s (AWS), 75 s (nginx) or 240 s (Azure), so close before them.
KEEP_ALIVE: Final = 50.0

Kind = Literal["httpx", "aiohttp", "sdk"]


def http_client(kind: Kind, *, most_in_flight: int, **options: Any) -> Any:
    """The client for `pool=kind` and `most_in_flight` calls in flight, with `options` for httpx.

    Raises `ValueError` for other kinds, and `ImportError` if aiohttp is not installed.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"pool must be one of {', '.join(map(repr, get_args(Kind)))}, got {kind!r}")
    if kind == "sdk":
        return DefaultAsyncHttpxClient(**options)
    most = most_in_flight + SPARE
    if kind == "httpx":
        return PooledAsyncHttpxClient(limits=_limits(PooledAsyncHttpxClient, most), **options)
    try:
        return LoopedAioHttpClient(limits=_limits(LoopedAioHttpClient, most), **options)
    except RuntimeError as missing:  # the SDK's error for it
        raise ImportError('pool="aiohttp" needs aiohttp: pip install "throttled-openai[aiohttp]"') from missing


def sync_http_client(kind: Kind, *, most_in_flight: int, **options: Any) -> Any:
    """As `http_client`, for a synchronous client. Raises `ValueError` for kinds that are asynchronous only."""
    if kind not in {"httpx", "sdk"}:
        raise ValueError(f"pool of a synchronous client must be 'httpx' or 'sdk', got {kind!r}")
    if kind == "sdk":
        return DefaultHttpxClient(**options)
    return PooledHttpxClient(limits=_limits(PooledHttpxClient, most_in_flight + SPARE), **options)


class Pooled(_AsyncClient):
    """Mixed into an `AsyncClient` of httpx or httpx2: the same client on our pool, whose cost per call never grows.

        class Client(Pooled, httpx.AsyncClient): ...

    All arguments keep their meaning, but `limits` hold for each server. `transport=`, `mounts=` and
    `http2=True` are left to httpx.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("limits", _limits(type(self), MAX_CONNECTIONS))
        super().__init__(**options)

    # httpx 0.27 to httpx2 2.16 make their transports in these two methods, which the SDK's own aiohttp
    # client overrides as well. If they are renamed, the client is the stock one. The transport stays
    # httpx's, so that libraries that wrap it (OpenTelemetry, pytest-httpx) are still called.

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        if args or any(options.get(theirs) for theirs in ("transport", "app", "http2")):
            return super()._init_transport(*args, **options)
        options = _with_context(_family(type(self)), options)
        transport: Any = super()._init_transport(**options)
        core = _core_of(transport)
        backend, context, whole = NetworkBackend(core), options["verify"], _family(type(self)).ByteStream
        return _stacked(transport, options, lambda origin: Connection(core, backend, origin, context, whole))

    def _init_proxy_transport(self, proxy: Any, *args: Any, **options: Any) -> Any:
        transport: Any = super()._init_proxy_transport(proxy, *args, **options)
        if args or options.get("http2"):
            return transport
        # httpcore's own connections implement forwarding, tunnels, TLS within TLS, and SOCKS.
        return _stacked(transport, options, transport._pool.create_connection)  # noqa: SLF001


def _stacked(transport: Any, options: dict[str, Any], connect: Callable[[Any], Any]) -> Any:
    """The same transport with our pool."""
    transport._pool = StackPool(_core_of(transport), transport._pool, connect, options["limits"])  # noqa: SLF001
    return transport


class PooledAsyncHttpxClient(Pooled, DefaultAsyncHttpxClient):
    """The SDK's `DefaultAsyncHttpxClient` on our pool, whose cost per call does not grow with its connections.

    For settings of your own: `ThrottledAsyncOpenAI(http_client=PooledAsyncHttpxClient(verify=...))`.
    Takes what `httpx.AsyncClient` takes; `limits` hold for each server, by default 1,000 connections.
    """


class SyncPooled(_Client):
    """As `Pooled`, for a synchronous `Client` of httpx or httpx2."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("limits", _limits(type(self), MAX_CONNECTIONS))
        super().__init__(**options)

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        return _on_a_stack(super()._init_transport(*args, **options), args, options)

    def _init_proxy_transport(self, *args: Any, **options: Any) -> Any:
        return _on_a_stack(super()._init_proxy_transport(*args, **options), args[1:], options)


def _on_a_stack(transport: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if not args and not any(options.get(theirs) for theirs in ("transport", "app", "http2")):
        transport._pool = SyncStackPool(_core_of(transport), transport._pool, options["limits"])  # noqa: SLF001
    return transport


class PooledHttpxClient(SyncPooled, DefaultHttpxClient):
    """The SDK's `DefaultHttpxClient` on our pool, whose cost per call does not grow with its connections.

    For settings of your own: `ThrottledOpenAI(http_client=PooledHttpxClient(verify=...))`. Takes what
    `httpx.Client` takes; `limits` hold for each server, by default 1,000 connections.
    """


class LoopedAioHttpClient(DefaultAioHttpClient):
    """The SDK's aiohttp client, made to work on several event loops and to be dropped without a warning."""

    def _init_transport(self, *args: Any, **options: Any) -> Any:
        return self._on_each_loop(super()._init_transport, *args, **options)

    def _init_proxy_transport(self, *args: Any, **options: Any) -> Any:
        return self._on_each_loop(super()._init_proxy_transport, *args, **options)

    def _on_each_loop(self, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return LoopTransport(functools.partial(make, *args, **_with_context(_family(type(self)), options)))


def _with_context(family: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A transport's `options` with the certificates loaded once, which takes 20 ms and a megabyte."""
    files = {name: options.pop(name) for name in ("verify", "cert") if name in options}
    context = family.create_ssl_context(**files, trust_env=options.get("trust_env", True))
    return {**options, "verify": context}


def _core_of(transport: Any) -> Any:
    """The module that a transport of httpx uses: httpcore or httpcore2."""
    return sys.modules[type(transport._pool).__module__.partition(".")[0]]  # noqa: SLF001


def _limits(client: type[Any], most: int) -> Any:
    return _family(client).Limits(max_connections=most, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE)


def _family(client: type[Any]) -> Any:
    """The module of the client's base class: httpx or httpx2."""
    return next(sys.modules[base.__module__] for base in client.__mro__ if base.__module__ in {"httpx", "httpx2"})
