"""The HTTP seam: one permit around one exchange, for `httpx` and `httpx2` clients alike."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying

from throttled_openai._admission.home import home, post
from throttled_openai._admission.permit import Call, GivenUp, Outcome, Permit
from throttled_openai.errors import AdmissionError

from .settlement import (
    ADMITTED,
    MAY_REFUSE,
    PERMIT,
    Exchange,
    begin,
    end,
    family_of,
    is_replayable,
    may_be_readmitted,
    outcome_of_error,
    readmission_policy,
    refusal_read,
    response_after,
    response_of,
)

if TYPE_CHECKING:
    import asyncio

    import httpx

    from throttled_openai._admission.home import Home
    from throttled_openai._admission.throttle import Throttle

__all__ = ["PERMIT", "is_replayable", "outcome_of_error", "send_admitted"]

Send = Callable[[Any], Awaitable[Any]]
Admit = Callable[[Call], Awaitable[Permit]]
Renew = Callable[[], Awaitable[Any]]


async def send_admitted(  # noqa: PLR0917  # what an attempt needs, in the order of its use
    throttle: Throttle,
    permit: Permit,
    request: httpx.Request,
    send: Send,
    admit: Admit,
    renew: Renew | None = None,
) -> httpx.Response:
    """Send an admitted request; one the server refuses is admitted again and sent again.

    `renew` makes the request anew for each further attempt, with the credentials and the date of
    then; without it the same one is sent.

    Returns the response of the attempt that was not refused; or the last refusal where it is
    final, where `max_refusals` or `max_wait` is used up, or where the body cannot be sent twice.
    Refusals given up here are marked `x-should-retry: false`, which the SDK obeys: another try
    of its own would meet the same refusal. Transport errors are raised as they are.
    """
    exchange = await _exchange(permit, request, send)
    if not may_be_readmitted(exchange, throttle):
        return exchange.response
    readmission = _Readmission(permit.call, exchange, request, send, admit, renew)
    policy = readmission_policy(permit.call, request, throttle)
    try:
        await AsyncRetrying(sleep=readmission.wait, **policy)(readmission.attempt)
    except (AdmissionError, GivenUp) as error:
        return response_after(error, readmission.last)
    return response_of(readmission.last)


class _Readmission:
    """The further attempts of one refused call. `last` is the newest exchange."""

    def __init__(  # noqa: PLR0917
        self,
        call: Call,
        first: Exchange,
        request: httpx.Request,
        send: Send,
        admit: Admit,
        renew: Renew | None,
    ) -> None:
        self.last = first
        self._call = call
        self._request = request
        self._send = send
        self._admit = admit
        self._renew = renew
        self._permit: Permit | None = None

    async def wait(self, seconds: float) -> None:
        """Back into the queue, at the call's old place; `seconds` is what the server asked for.

        The wait is the budget's: its pause and its levels know of every refusal, not only of this one.
        """
        del seconds
        self._call.again = True
        self._permit = await self._admit(self._call)

    async def attempt(self) -> Exchange:
        # The first outcome tenacity sees is the refusal that is already at hand.
        if self._permit is not None:
            permit, self._permit = self._permit, None
            try:
                if self._renew is not None:
                    self._request = await self._renew()
            except BaseException:
                permit.release(Outcome.UNSENT)
                raise
            self.last = await _exchange(permit, self._request, self._send)
        self._call.refusals += self.last.refusal is not None
        return self.last


async def _exchange(permit: Permit, request: httpx.Request, send: Send) -> Exchange:
    """One attempt. Every way out settles the permit, or hands it to the open stream."""
    request.extensions[ADMITTED] = True
    try:
        response = await send(request)
        content = await response.aread() if response.status_code in MAY_REFUSE else None
        refusal = begin(permit, response, content)
        if permit.streaming:
            response.stream = _settling_stream(family_of(response).AsyncByteStream)(response, permit)
    except BaseException as error:
        permit.release(outcome_of_error(error))
        raise
    finally:
        # The request may be sent a second time, by somebody's own retries: that is to be admitted too.
        request.extensions.pop(ADMITTED, None)
    return end(permit, response, refusal)


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
            self._loop = home()

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
            # After the connection is back in the pool, or the next attempt would open a new one.
            try:
                self.permit.refusal = self.permit.refusal or refusal_read(response)
                await self._inner.aclose()
            finally:
                self.permit.release(Outcome.SUCCESS, response)

        def __del__(self) -> None:
            # Dropped without being closed. This may run in any thread, and after the loop.
            if self.permit.open:
                _drop(self._inner, self.permit, self._loop)

    return SettlingStream


def _drop(stream: Any, permit: Permit, loop: Home) -> None:
    if not post(loop, _close, stream, permit, loop) or not loop.is_running():  # for how long, nobody knows
        permit.release()


def _close(stream: Any, permit: Permit, loop: Home) -> None:
    async def close() -> None:
        try:
            await stream.aclose()
        finally:
            permit.release(Outcome.SUCCESS)

    task = loop.create_task(close())
    if task is not None:
        _closing.add(task)
        task.add_done_callback(_closing.discard)
