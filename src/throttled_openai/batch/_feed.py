"""The feed: the requests to send, in the order of the input, with a bounded number read ahead.

A thread reads files, so that a slow disk or an idle pipe does not block the event loop. Requests from Python come
from an iterable or an asynchronous iterable.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._ids import check_unique
from ._request import BadLineError, Request, dumped, read_body, read_request
from ._result import BatchResult
from ._source import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Generator, Mapping

    from ._ids import Ids
    from ._input import Input
    from ._source import Record

# Requests taken from an iterable in one go.
_AT_ONCE: Final = 100


class Feed(Protocol):
    """A source of requests. `take` returns a request, the result of an invalid line, or None: call `more` first."""

    def take(self) -> Request | BatchResult | None: ...

    async def more(self) -> bool:
        """Read the next requests. Returns False at the end of the input."""
        ...


class FileFeed:
    """The requests of a file, except the lines in `done`. `blank` is called with a count for each blank line.

    A stream has no digest that the next run could compare, so the `custom_id` of each line that is done is compared.
    """

    def __init__(self, source: Input, done: Container[int], ids: Ids, blank: Callable[[int], None]) -> None:
        self._source = source
        self._ids = ids
        self._blank = blank
        self._compared: Container[int] = done if source.is_stream else ()
        self._ready: deque[Record] = deque()
        self._thread = _Reader(_undone(source, () if source.is_stream else done))

    def take(self) -> Request | BatchResult | None:
        while self._ready:
            record = self._ready.popleft()
            try:
                request = self._source.request(record)
                if request is None:
                    self._blank(1)
                    continue
                if record[0] in self._compared:
                    self._compare(request)
                    continue
                check_unique(self._ids, request)
            except BadLineError as error:
                if record[0] in self._compared:
                    continue
                return invalid_line_result(record[0], error)
            return request
        return None

    def _compare(self, request: Request) -> None:
        if self._ids.line_of(dumped(request.custom_id)) is None:
            raise InputError(
                f"line {request.line} of standard input has the custom_id {request.custom_id!r}, which the results of "
                "the lines done before do not have: this is another input. Choose another output"
            )

    async def more(self) -> bool:
        chunk = await self._thread.next()
        if chunk is None:
            return False
        self._ready.extend(chunk)
        return True

    def close(self) -> None:
        """Close the input."""
        self._thread.close()


def invalid_line_result(line: int, error: BadLineError) -> BatchResult:
    """The result of an invalid line. It has no `custom_id` if another line has the same, so that ids stay unique."""
    problem = {"code": error.code, "message": f"line {line} {error}", "line": line}
    return BatchResult(line, None if error.code == "duplicate_custom_id" else error.custom_id, error=problem)


class IterableFeed:
    """Requests from Python: mappings like the lines of a batch file, or request bodies."""

    def __init__(self, requests: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]) -> None:
        self._ready: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._line = 0
        self._later: AsyncIterator[Mapping[str, Any]] | None = None
        self._now: Iterator[Mapping[str, Any]] = iter(())
        if isinstance(requests, AsyncIterable):
            self._later = aiter(requests)
        else:
            self._now = iter(requests)

    def take(self) -> Request | BatchResult | None:
        if not self._ready:
            return None
        line, given = self._ready.popleft()
        try:
            raw = dumped(given)
            return read_request(raw, line, {}) if "body" in given else read_body(raw, line, None, {})
        except BadLineError as error:
            return invalid_line_result(line, error)
        except (TypeError, ValueError, RecursionError) as error:
            return invalid_line_result(line, BadLineError("invalid_json", f"is not JSON: {type(error).__name__}"))

    async def more(self) -> bool:
        if self._later is not None:
            with contextlib.suppress(StopAsyncIteration):
                self._keep(await anext(self._later))
        else:
            for given in itertools.islice(self._now, _AT_ONCE):
                self._keep(given)
        return bool(self._ready)

    def _keep(self, given: Mapping[str, Any]) -> None:
        self._line += 1
        self._ready.append((self._line, given))


def _undone(source: Input, done: Container[int]) -> Generator[list[Record], None, None]:
    for chunk in source.chunks():
        left = [record for record in chunk if record[0] not in done]
        if left:
            yield left


_Asked = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class _Reader:
    """A thread that reads one chunk ahead. It is a daemon, so a pipe without data does not keep the process alive."""

    def __init__(self, chunks: Generator[list[Record], None, None]) -> None:
        self._chunks = chunks
        self._asked: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._ahead: asyncio.Future[Any] | None = None

    async def next(self) -> list[Record] | None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="throttled-openai input", daemon=True)
            self._thread.start()
            self._ahead = self._ask()
        assert self._ahead is not None
        chunk: list[Record] | None = await asyncio.shield(self._ahead)
        if chunk is not None:
            self._ahead = self._ask()
        return chunk

    def close(self) -> None:
        self._asked.put(None)

    def _ask(self) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._asked.put((loop, future))
        return future

    def _read(self) -> None:
        while (asked := self._asked.get()) is not None:
            loop, future = asked
            made: Any
            try:
                made = next(self._chunks, None)
            except BaseException as error:  # noqa: BLE001  # raised where the chunk is awaited
                made = error
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
                loop.call_soon_threadsafe(_resolve, future, made)
            if made is None or isinstance(made, BaseException):
                return
        self._chunks.close()


def _resolve(future: asyncio.Future[Any], made: Any) -> None:
    if future.done():
        return
    if isinstance(made, BaseException):
        future.set_exception(made)
        future.exception()  # mark it as retrieved, as nothing may be waiting any more
    else:
        future.set_result(made)
