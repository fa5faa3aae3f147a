"""The HTTP seam: one permit around one exchange, for `httpx` and `httpx2` clients alike."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_result
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from ._core.headers import read_limits
from ._core.refusals import Refusal, read_refusal, read_stream_error
from ._permit import Call, Outcome, Permit
from .errors import AdmissionError

if TYPE_CHECKING:
    import httpx

    from ._throttle import Throttle

# Where a response carries its permit, for the usage that is known once the body is parsed.
PERMIT: Final = "throttled_openai.permit"

# What may say "not now": billing, Groq's too-large, rate limits, overload, Anthropic's overload.
_MAY_REFUSE: Final = frozenset({402, 413, 429, 503, 529})
# The server, or something on the way to it, did not keep up.
_OVERLOADED: Final = frozenset({408, 503, 504, 520, 521, 522, 523, 524, 529})

Send = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One HTTP exchange and, where the server turned it away, why."""

    response: httpx.Response
    refusal: Refusal | None


async def send_admitted(throttle: Throttle, permit: Permit, request: httpx.Request, send: Send) -> httpx.Response:
    """Send an admitted request; one the server refuses is admitted again and sent again.

    Returns the response of the attempt that was not refused; or the last refusal where it is
    final, where `max_refusals` or `max_wait` is used up, or where the body cannot be sent twice.
    Refusals given up here are marked `x-should-retry: false`, which the SDK obeys: another try
    of its own would meet the same refusal. Transport errors are raised as they are.
    """
    exchange = await _exchange(permit, send)
    if exchange.refusal is None:
        return exchange.response
    call = permit.call
    if throttle.max_refusals == 0 and not exchange.refusal.final:
        return exchange.response  # the user asked for every refusal to reach the SDK's own retries
    readmission = _Readmission(throttle, call, send, exchange)
    try:
        exchange = await AsyncRetrying(
            retry=retry_if_result(_is_refused),
            stop=_StopRefused(call, throttle.max_refusals, replayable=is_replayable(request)),
            wait=_WaitForBudget(),
            sleep=readmission.wait,
            retry_error_callback=_last_exchange,
        )(readmission.attempt)
    except AdmissionError:
        exchange = readmission.last
    if exchange.refusal is not None:
        exchange.response.headers["x-should-retry"] = "false"
    return exchange.response


class _Readmission:
    """The further attempts of one refused call. `last` is the newest exchange."""

    def __init__(self, throttle: Throttle, call: Call, send: Send, first: _Exchange) -> None:
        self.last = first
        self._throttle = throttle
        self._call = call
        self._send = send
        self._permit: Permit | None = None

    async def wait(self, seconds: float) -> None:
        """Back into the queue, at the call's old place; `seconds` is what the server asked for.

        The wait is the budget's: its pause and its levels know of every refusal, not only of this one.
        """
        del seconds
        self._permit = await self._throttle.admit(self._call)

    async def attempt(self) -> _Exchange:
        # The first outcome tenacity sees is the refusal that is already at hand.
        if self._permit is not None:
            permit, self._permit = self._permit, None
            self.last = await _exchange(permit, self._send)
        self._call.refusals += self.last.refusal is not None
        return self.last


class _StopRefused(stop_base):
    """Stops at a refusal that waiting cannot cure, or after too many."""

    def __init__(self, call: Call, max_refusals: int, *, replayable: bool) -> None:
        self._call = call
        self._max_refusals = max_refusals
        self._replayable = replayable

    def __call__(self, retry_state: RetryCallState) -> bool:
        refusal = _last_exchange(retry_state).refusal
        assert refusal is not None
        return refusal.final or not self._replayable or self._call.refusals > self._max_refusals


class _WaitForBudget(wait_base):
    """What the server asked for, in seconds; 0 where it did not say."""

    def __call__(self, retry_state: RetryCallState) -> float:
        refusal = _last_exchange(retry_state).refusal
        assert refusal is not None
        return refusal.retry_after or 0.0


def _is_refused(exchange: _Exchange) -> bool:
    return exchange.refusal is not None


def _last_exchange(retry_state: RetryCallState) -> _Exchange:
    assert retry_state.outcome is not None
    exchange: _Exchange = retry_state.outcome.result()
    return exchange


async def _exchange(permit: Permit, send: Send) -> _Exchange:
    """One attempt. Every way out settles the permit, or hands it to the open stream."""
    try:
        response = await send()
        status = response.status_code
        refusal = await _refusal(response) if status in _MAY_REFUSE else None
        if refusal is None:
            permit.observe(read_limits(response.headers))
        if status < 300 and not response.is_closed:
            permit.started()
            response.stream = _settling_stream(_family(response).AsyncByteStream)(response, permit)
    except BaseException as error:
        permit.release(outcome_of_error(error))
        raise
    response.extensions[PERMIT] = permit
    if refusal is not None:
        permit.settle(Outcome.REFUSED, refusal, response)
    elif status in _OVERLOADED:
        permit.settle(Outcome.OVERLOADED)
    elif status >= 300:
        permit.settle(Outcome.IGNORED)
    elif not permit.streaming:
        permit.settle(Outcome.SUCCESS)
    return _Exchange(response, refusal)


async def _refusal(response: httpx.Response) -> Refusal | None:
    content = await response.aread()
    refusal = read_refusal(response.status_code, response.headers, content, wall_now=time.time())
    if refusal is None or refusal.kind != "overload" or response.status_code == 429:
        return refusal
    # A 503 of the provider says so in JSON or asks to come back. Any other is a broken gateway: a
    # fault, and faults are for the SDK's own retries.
    if refusal.retry_after is None:
        try:
            json.loads(content)
        except ValueError:
            return None
    return refusal


def _refusal_read(response: httpx.Response | None) -> Refusal | None:
    """The refusal that came as an event of a stream, if one did: status 200 had been sent by then.

    The SDK raises what an error event says, and closes the stream on its way out. The exception is
    what we can see of it: the bytes are compressed, and the SDK's parser is not ours.
    """
    error = sys.exc_info()[1]
    if response is None or getattr(error, "request", None) is not response.request:
        return None
    return read_stream_error(getattr(error, "body", None))


def outcome_of_error(error: BaseException) -> Outcome:
    """What a failed exchange says about the server's capacity."""
    for family in _families():
        if isinstance(error, (family.TimeoutException, family.ConnectError)):
            return Outcome.OVERLOADED
    return Outcome.IGNORED


def is_replayable(request: httpx.Request) -> bool:
    """Whether the body can be sent a second time: in memory, or files that can be rewound."""
    try:
        request.content  # noqa: B018
    except RuntimeError:  # RequestNotRead: a stream
        fields = getattr(request.stream, "fields", None)
        return fields is not None and all(_rewinds(getattr(field, "file", b"")) for field in fields)
    return True


def _rewinds(file: object) -> bool:
    if isinstance(file, str | bytes):
        return True
    seekable = getattr(file, "seekable", None)
    return callable(seekable) and bool(seekable())


def _families() -> list[Any]:
    # Either may be missing: SDK 2 comes with httpx, SDK 3 with httpx2.
    return [module for name in ("httpx2", "httpx") if (module := sys.modules.get(name)) is not None]


def _family(response: object) -> Any:
    return next(family for family in _families() if isinstance(response, family.Response))


# Closing tasks of dropped streams, held until they are done: the loop keeps weak references only.
_closing: set[asyncio.Task[None]] = set()


@functools.cache
def _settling_stream(base: type[Any]) -> type[Any]:
    """A response stream that settles its permit at its end; httpx wants its own family's base class."""

    class SettlingStream(base):  # type: ignore[misc]
        def __init__(self, response: Any, permit: Permit) -> None:
            self.permit = permit
            self._response = weakref.ref(response)
            self._inner = response.stream
            self._iterator: AsyncIterator[bytes] | None = None
            self._loop = asyncio.get_running_loop()

        def __aiter__(self) -> AsyncIterator[bytes]:
            # SDK >= 3.30 comes back after `[DONE]` to drain what is left: go on, do not start again.
            if self._iterator is None:
                self._iterator = self._inner.__aiter__()
            return self

        async def __anext__(self) -> bytes:
            assert self._iterator is not None
            try:
                return await self._iterator.__anext__()
            except StopAsyncIteration:
                raise
            except BaseException as error:
                self.permit.release(outcome_of_error(error))
                raise

        async def aclose(self) -> None:
            response = self._response()
            self.permit.refusal = self.permit.refusal or _refusal_read(response)
            # After the connection is back in the pool, or the next attempt would open a new one.
            try:
                await self._inner.aclose()
            finally:
                self.permit.release(Outcome.SUCCESS, response)

        def __del__(self) -> None:
            # Dropped without being closed. This may run in any thread, and after the loop.
            if self.permit.open:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(_close, self._inner, self.permit)

    return SettlingStream


def _close(stream: Any, permit: Permit) -> None:
    async def close() -> None:
        try:
            await stream.aclose()
        finally:
            permit.release(Outcome.SUCCESS)

    task = asyncio.get_running_loop().create_task(close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
