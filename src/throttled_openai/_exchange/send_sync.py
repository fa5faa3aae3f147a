"""The blocking sender: as `send`, in the calling thread."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tenacity import Retrying

from throttled_openai._admission.call import Call, GivenUp, Outcome
from throttled_openai._admission.home import post
from throttled_openai._admission.posted_permit import PostedPermit
from throttled_openai.errors import AdmissionError

from .readmission import Readmission, may_be_readmitted, response_after, response_of, unsent_on_error
from .settlement import (
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
    import httpx

Send = Callable[[Any], Any]
Admit = Callable[[Call], PostedPermit]
Renew = Callable[[], Any]


def send_admitted(  # noqa: PLR0917  # as its namesake
    max_refusals: int | None,
    permit: PostedPermit,
    request: httpx.Request,
    send: Send,
    admit: Admit,
    renew: Renew,
) -> httpx.Response:
    """Send an admitted request; if the server refuses it, admit it again and send it again.

    Returns and raises what its namesake in `send` does.
    """
    exchange = _exchange(permit, request, send)
    if not may_be_readmitted(exchange, max_refusals):
        return exchange.response
    readmission = Readmission[PostedPermit](permit.call, exchange, max_refusals, replayable=is_replayable(request))

    def wait(_: float) -> None:
        readmission.permit = admit(readmission.call_again())

    def attempt() -> Exchange:
        permit = readmission.take_permit()
        if permit is not None:
            with unsent_on_error(permit):
                renewed = renew()
            readmission.last = _exchange(permit, renewed, send)
        return readmission.counted()

    try:
        Retrying(sleep=wait, **readmission.policy)(attempt)
    except (AdmissionError, GivenUp) as error:
        return response_after(error, readmission.last)
    return response_of(readmission.last)


def _exchange(permit: PostedPermit, request: httpx.Request, send: Send) -> Exchange:
    """One attempt. Every way out settles the permit, or hands it to the open stream."""
    try:
        response = send(request)
        content = response.read() if response.status_code in MAY_REFUSE else None
        refusal = observe_response(permit, response, content)
        if permit.streaming:
            response.stream = _settling_stream(family_of(response).SyncByteStream)(response, permit)
    except BaseException as error:
        permit.release(outcome_of_error(error))
        raise
    return settle_response(permit, response, refusal)


@functools.cache
def _settling_stream(base: type[Any]) -> type[Any]:
    """The class of response streams that settle their permit at the end; httpx wants its own base class."""

    class SettlingStream(base):  # type: ignore[misc]
        def __init__(self, response: Any, permit: PostedPermit) -> None:
            self.permit = permit
            self._response = weakref.ref(response)
            self._inner = response.stream
            self._iterator: Iterator[bytes] | None = None
            self._dropped = False

        def __iter__(self) -> Iterator[bytes]:
            # SDK >= 3.30 iterates again after `[DONE]` to drain the stream: continue, do not restart.
            if self._iterator is None:
                self._iterator = iter(self._inner)
            return self

        def __next__(self) -> bytes:
            assert self._iterator is not None
            try:
                return next(self._iterator)
            except StopIteration:
                raise
            except BaseException as error:
                self.permit.release(outcome_of_error(error))
                raise

        def close(self) -> None:
            if self._dropped:  # the SDK's generator closes it in the same garbage collection
                return
            response = self._response()
            # Released after the connection is back in the pool, or the next attempt would open a new one.
            try:
                self.permit.refusal = self.permit.refusal or refusal_read(response)
                self._inner.close()
            finally:
                self.permit.release(Outcome.SUCCESS, response)

        def __del__(self) -> None:
            # Dropped without being closed. This may run in any thread, while that holds the very lock that
            # closing needs: another thread has to close it.
            self._dropped = self.permit.open
            _drop(self._inner, self.permit)

    return SettlingStream


def _drop(stream: Any, permit: PostedPermit) -> None:
    if permit.open:
        post(permit.loop, _close_in_a_thread, stream, permit)


def _close_in_a_thread(stream: Any, permit: PostedPermit) -> None:
    try:
        threading.Thread(target=_close, args=(stream, permit), daemon=True).start()
    except RuntimeError:  # no more threads: at interpreter exit, or because the system has run out of them
        permit.release(Outcome.SUCCESS)


def _close(stream: Any, permit: PostedPermit) -> None:
    try:
        stream.close()
    finally:
        permit.release(Outcome.SUCCESS)
