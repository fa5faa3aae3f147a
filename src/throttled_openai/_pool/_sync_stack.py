"""The stack of synchronous clients: as `_stack`, of httpcore's own connections, one for each thread that sends."""

from __future__ import annotations

import functools
import math
import queue
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from ._shelf import raise_connect_error
from ._stack import is_patched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class SyncStackPool:
    """Sends httpcore's requests in place of `stock`, which is httpcore's pool.

    `core` is the module, httpcore or httpcore2. `limits` are httpx's, and hold for each server. No
    thread waits for another, nor looks at a connection another one has.
    """

    def __init__(self, core: Any, stock: Any, limits: Any) -> None:
        self._core = core
        self._stock = stock
        self._limits = limits
        self._shelves: dict[tuple[bytes, bytes, int | None], _Shelf] = {}

    def handle_request(self, request: Any) -> Any:
        pool, url = type(self._stock), request.url
        if url.scheme not in {b"http", b"https"} or is_patched(pool.handle_request, self._core.ConnectionPool.close):
            return self._stock.handle_request(request)
        server = url.scheme, url.host, url.port
        shelf = self._shelves.get(server)
        if shelf is None:
            new = functools.partial(self._stock.create_connection, url.origin)
            shelf = self._shelves.setdefault(server, _Shelf(new, self._core, self._limits))
        return shelf.exchange(request)

    def close(self) -> None:
        """Close every connection; as with httpcore, exchanges under way fail."""
        for shelf in list(self._shelves.values()):
            shelf.close()
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


class _Shelf:
    """A stack of idle connections to one server, the warmest on top. `new` makes one."""

    def __init__(self, new: Callable[[], Any], core: Any, limits: Any) -> None:
        most, kept = limits.max_connections, limits.max_keepalive_connections
        self._new = new
        self._core = core
        self._room = None if most is None else _Room(most)
        self._kept = math.inf if kept is None else kept
        self._idle: deque[Any] = deque()  # its ends are each thread's, without a lock
        self._in_use: set[Any] = set()  # held, or the collector would find a dropped stream's socket open
        self._closed = False

    def exchange(self, request: Any) -> Any:
        """Send `request`; the response's stream has its connection until it is closed."""
        if self._room is not None and not self._room.enter(request.extensions.get("timeout", {}).get("pool")):
            raise self._core.PoolTimeout("all connections are in use")
        connection = None
        try:
            connection = self._warmest() or self._new()
            self._in_use.add(connection)
            response = connection.handle_request(request)
            response.stream = _Stream(response.stream, functools.partial(self._over, connection))
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

    def _warmest(self) -> Any:
        while (connection := _popped(self._idle.pop)) is not None:
            if not connection.has_expired():
                return connection
            connection.close()
        return None

    def _over(self, connection: Any) -> None:
        """An exchange is over."""
        self._leave()
        self._in_use.discard(connection)
        if not connection.is_idle():
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self.close()
        # The coldest go; two at a time are more than come, and hold nobody up.
        for _ in range(2):
            coldest = _popped(self._idle.popleft)
            if coldest is None:
                return
            if len(self._idle) < self._kept and not coldest.has_expired():
                self._idle.appendleft(coldest)
                return
            coldest.close()

    def _leave(self) -> None:
        if self._room is not None:
            self._room.leave()


def _popped(pop: Callable[[], Any]) -> Any:
    try:
        return pop()
    except LookupError:  # whatever there was, another thread has it
        return None


class _Room:
    """A semaphore that may be left in a finalizer: without a lock that the same thread may hold just then."""

    def __init__(self, most: int) -> None:
        self._unused = iter(range(most))
        self._left: queue.SimpleQueue[None] = queue.SimpleQueue()

    def enter(self, timeout: float | None) -> bool:
        """Wait for a place, `timeout` seconds at most (None: for ever); whether there was one."""
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


class _Stream:
    """The response's body: it calls `over` once it is closed."""

    def __init__(self, inner: Any, over: Callable[[], None]) -> None:
        self._inner = inner
        self._over: Callable[[], None] | None = over

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._inner
        except BaseException:
            # Dropped half-read, or httpx did not close the response where reading the body of an error failed.
            self.close()
            raise

    def close(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            try:
                self._inner.close()
            finally:
                over()
