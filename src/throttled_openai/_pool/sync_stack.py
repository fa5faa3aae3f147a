"""The stack pool of synchronous clients: as `stack`, but with httpcore's own connections."""

from __future__ import annotations

import functools
import math
import queue
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from .origin_pool import raise_connect_error
from .stack import is_patched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class SyncStackPool:
    """Sends httpcore's requests in place of `stock`, which is httpcore's pool.

    `core` is the module, httpcore or httpcore2. `limits` are httpx's, and hold for each server. No
    thread waits for another, or examines a connection that another thread uses.
    """

    def __init__(self, core: Any, stock: Any, limits: Any) -> None:
        self._core = core
        self._stock = stock
        self._limits = limits
        self._pools: dict[tuple[bytes, bytes, int | None], _SyncOriginPool] = {}

    def handle_request(self, request: Any) -> Any:
        theirs, url = type(self._stock), request.url
        if url.scheme not in {b"http", b"https"} or is_patched(theirs.handle_request, self._core.ConnectionPool.close):
            return self._stock.handle_request(request)
        server = url.scheme, url.host, url.port
        pool = self._pools.get(server)
        if pool is None:
            new = functools.partial(self._stock.create_connection, url.origin)
            pool = self._pools.setdefault(server, _SyncOriginPool(new, self._core, self._limits))
        return pool.exchange(request)

    def close(self) -> None:
        """Close every connection. Exchanges under way fail, as with httpcore."""
        for pool in list(self._pools.values()):
            pool.close()
        self._stock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property  # type: ignore[misc]  # an attribute, to mypy
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        """The class of `stock`, as in `StackPool`."""
        return type(self._stock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _SyncOriginPool:
    """A stack of idle connections to one origin, the most recently used on top. `new` makes one."""

    def __init__(self, new: Callable[[], Any], core: Any, limits: Any) -> None:
        most, kept = limits.max_connections, limits.max_keepalive_connections
        self._new = new
        self._core = core
        self._limit = None if most is None else _FinalizerSafeSemaphore(most)
        self._kept = math.inf if kept is None else kept
        self._idle: deque[Any] = deque()  # any thread may use both ends, without a lock
        self._in_use: set[Any] = set()  # references, or a dropped stream's socket would be collected while open
        self._closed = False

    def exchange(self, request: Any) -> Any:
        """Send `request`. The response's stream keeps the connection until it is closed."""
        if self._limit is not None and not self._limit.enter(request.extensions.get("timeout", {}).get("pool")):
            raise self._core.PoolTimeout("all connections are in use")
        connection = None
        try:
            connection = self._most_recent() or self._new()
            self._in_use.add(connection)
            response = connection.handle_request(request)
            response.stream = _SyncPooledBody(response.stream, functools.partial(self._release, connection))
            return response
        except BaseException as failure:
            self._leave()
            if connection is not None:
                self._in_use.discard(connection)
                connection.close()
                raise_connect_error(self._core, connection, failure)
            raise

    def close(self) -> None:
        self._closed = True
        for pop in (self._idle.pop, self._in_use.pop):
            while (connection := _popped(pop)) is not None:
                connection.close()

    def __del__(self) -> None:
        self.close()

    def _most_recent(self) -> Any:
        while (connection := _popped(self._idle.pop)) is not None:
            if not connection.has_expired():
                return connection
            connection.close()
        return None

    def _release(self, connection: Any) -> None:
        """Return the connection at the end of its exchange."""
        self._leave()
        self._in_use.discard(connection)
        if not connection.is_idle():
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self.close()
        # Close expired and surplus connections, least recently used first. Two at a time keep up with the
        # one that is added, and take little time.
        for _ in range(2):
            oldest = _popped(self._idle.popleft)
            if oldest is None:
                return
            if len(self._idle) < self._kept and not oldest.has_expired():
                self._idle.appendleft(oldest)
                return
            oldest.close()

    def _leave(self) -> None:
        if self._limit is not None:
            self._limit.leave()


def _popped(pop: Callable[[], Any]) -> Any:
    try:
        return pop()
    except LookupError:  # another thread was faster
        return None


class _FinalizerSafeSemaphore:
    """A semaphore that a finalizer may release: it has no lock that the interrupted thread could be holding."""

    def __init__(self, most: int) -> None:
        self._unused = iter(range(most))
        self._left: queue.SimpleQueue[None] = queue.SimpleQueue()

    def enter(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds (None: for ever). False: there was no free place."""
        try:
            self._left.get_nowait()
        except queue.Empty:
            if next(self._unused, None) is not None:
                return True
            try:
                self._left.get(timeout=timeout)
            except queue.Empty:
                return False
        return True

    def leave(self) -> None:
        self._left.put(None)


class _SyncPooledBody:
    """The response's body, which calls `over` once it is closed."""

    def __init__(self, inner: Any, over: Callable[[], None]) -> None:
        self._inner = inner
        self._over: Callable[[], None] | None = over

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._inner
        except BaseException:
            # Dropped half-read. Or reading an error's body failed, after which httpx does not close the response.
            self.close()
            raise

    def close(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            try:
                self._inner.close()
            finally:
                over()
