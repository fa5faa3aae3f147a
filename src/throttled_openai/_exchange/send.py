"""The async sender: one permit around one exchange, for `httpx` and `httpx2` clients alike."""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tenacity import AsyncRetrying

from throttled_openai._admission.call import Call, GivenUp, Outcome
from throttled_openai._admission.home import home, post
from throttled_openai._admission.permit import Permit
from throttled_openai.errors import AdmissionError

from .readmission import Readmission, may_be_readmitted, response_after, response_of, unsent_on_error
from .settlement import (
    ADMITTED,
    MAY_REFUSE,
    Exchange,
    family_of,
    is_replayable,
    observe_response,
    outcome_of_error,
    refusal_read,
    settle_response,
)

if TYPE_CHECKING:
    import asyncio

    import httpx

    from throttled_openai._admission.home import Home

Send = Callable[[Any], Awaitable[Any]]
Admit = Callable[[Call], Awaitable[Permit]]
Renew = Callable[[], Awaitable[Any]]


async def send_admitted(  # noqa: PLR0917  # what an attempt needs, in the order of its use
    max_refusals: int | None,
    permit: Permit,
    request: httpx.Request,
    send: Send,
    admit: Admit,
    renew: Renew | None = None,
) -> httpx.Response:
    """Send an admitted request; if the server refuses it, admit it again and send it again.

    `renew` makes a new request for each further attempt, with fresh credentials and date; without it
    the same request is sent.

    Returns the response of the attempt that was not refused; or the last refusal if it is final, if
    `max_refusals` or `max_wait` is used up, or if the body cannot be sent twice. A refusal given up
    here is marked `x-should-retry: false`, which the SDK obeys: a retry of its own would meet the same
    refusal. Transport errors are raised unchanged.
    """
    exchange = await _exchange(permit, request, send)
    if not may_be_readmitted(exchange, max_refusals):
        return exchange.response
    readmission = Readmission[Permit](permit.call, exchange, max_refusals, replayable=is_replayable(request))

    async def wait(_: float) -> None:
        readmission.permit = await admit(readmission.call_again())

    async def attempt() -> Exchange:
        permit = readmission.take_permit()
        if permit is not None:
            with unsent_on_error(permit):
                renewed = request if renew is None else await renew()
            readmission.last = await _exchange(permit, renewed, send)
        return readmission.counted()

    try:
        await AsyncRetrying(sleep=wait, **readmission.policy)(attempt)
    except (AdmissionError, GivenUp) as error:
        return response_after(error, readmission.last)
    return response_of(readmission.last)


async def _exchange(permit: Permit, request: httpx.Request, send: Send) -> Exchange:
    """One attempt. Every way out settles the permit, or hands it to the open stream."""
    request.extensions[ADMITTED] = True
    try:
        response = await send(request)
        content = await response.aread() if response.status_code in MAY_REFUSE else None
        refusal = observe_response(permit, response, content)
        if permit.streaming:
            response.stream = _settling_stream(family_of(response).AsyncByteStream)(response, permit)
    except BaseException as error:
        permit.release(outcome_of_error(error))
        raise
    finally:
        # The caller's own retries may send the request a second time, which then has to be admitted too.
        request.extensions.pop(ADMITTED, None)
    return settle_response(permit, response, refusal)


# Closing tasks of dropped streams, kept until they are done: the loop has only weak references.
_closing: set[asyncio.Task[None]] = set()


@functools.cache
def _settling_stream(base: type[Any]) -> type[Any]:
    """The class of response streams that settle their permit at the end; httpx wants its own base class."""

    class SettlingStream(base):  # type: ignore[misc]
        def __init__(self, response: Any, permit: Permit) -> None:
            self.permit = permit
            self._response = weakref.ref(response)
            self._inner = response.stream
            self._iterator: AsyncIterator[bytes] | None = None
            self._loop = home()

        def __aiter__(self) -> AsyncIterator[bytes]:
            # SDK >= 3.30 iterates again after `[DONE]` to drain the stream: continue, do not restart.
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
            # Released after the connection is back in the pool, or the next attempt would open a new one.
            try:
                self.permit.refusal = self.permit.refusal or refusal_read(response)
                await self._inner.aclose()
            finally:
                self.permit.release(Outcome.SUCCESS, response)

        def __del__(self) -> None:
            # Dropped without being closed. This may run in any thread, and after the loop has ended.
            if self.permit.open:
                _drop(self._inner, self.permit, self._loop)

    return SettlingStream


def _drop(stream: Any, permit: Permit, loop: Home) -> None:
    if not post(loop, _close, stream, permit, loop) or not loop.is_running():  # it may never run again
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
