"""The HTTP seam of synchronous clients: as `_http`, in the calling thread. What is decided comes from `_exchange`."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tenacity import Retrying

from throttled_openai._admission.home import post
from throttled_openai._admission.permit import Call, GivenUp, Outcome, PostedPermit
from throttled_openai.errors import AdmissionError

from .settlement import (
    MAY_REFUSE,
    Exchange,
    begin,
    end,
    family_of,
    may_be_readmitted,
    outcome_of_error,
    readmission_policy,
    refusal_read,
    response_after,
    response_of,
)

if TYPE_CHECKING:
    import httpx

    from throttled_openai._admission.throttle import Throttle

Send = Callable[[Any], Any]
Admit = Callable[[Call], PostedPermit]
Renew = Callable[[], Any]


def send_admitted(  # noqa: PLR0917  # as its namesake
    throttle: Throttle,
    permit: PostedPermit,
    request: httpx.Request,
    send: Send,
    admit: Admit,
    renew: Renew,
) -> httpx.Response:
    """Send an admitted request; one the server refuses is admitted again and sent again.

    Returns and raises what its namesake in `_http` does.
    """
    exchange = _exchange(permit, request, send)
    if not may_be_readmitted(exchange, throttle):
        return exchange.response
    readmission = _Readmission(permit.call, exchange, send, admit, renew)
    policy = readmission_policy(permit.call, request, throttle)
    try:
        Retrying(sleep=readmission.wait, **policy)(readmission.attempt)
    except (AdmissionError, GivenUp) as error:
        return response_after(error, readmission.last)
    return response_of(readmission.last)


class _Readmission:
    """The further attempts of one refused call. `last` is the newest exchange."""

    def __init__(self, call: Call, first: Exchange, send: Send, admit: Admit, renew: Renew) -> None:
        self.last = first
        self._call = call
        self._send = send
        self._admit = admit
        self._renew = renew
        self._permit: PostedPermit | None = None

    def wait(self, seconds: float) -> None:
        """Back into the queue, at the call's old place; `seconds` is what the server asked for."""
        del seconds
        self._call.again = True
        self._permit = self._admit(self._call)

    def attempt(self) -> Exchange:
        # The first outcome tenacity sees is the refusal that is already at hand.
        if self._permit is not None:
            permit, self._permit = self._permit, None
            try:
                request = self._renew()
            except BaseException:
                permit.release(Outcome.UNSENT)
                raise
            self.last = _exchange(permit, request, self._send)
        self._call.refusals += self.last.refusal is not None
        return self.last


def _exchange(permit: PostedPermit, request: httpx.Request, send: Send) -> Exchange:
    """One attempt. Every way out settles the permit, or hands it to the open stream."""
    try:
        response = send(request)
        content = response.read() if response.status_code in MAY_REFUSE else None
        refusal = begin(permit, response, content)
        if permit.streaming:
            response.stream = _settling_stream(family_of(response).SyncByteStream)(response, permit)
    except BaseException as error:
        permit.release(outcome_of_error(error))
        raise
    return end(permit, response, refusal)


@functools.cache
def _settling_stream(base: type[Any]) -> type[Any]:
    """A response stream that settles its permit at its end; httpx wants its own family's base class."""

    class SettlingStream(base):  # type: ignore[misc]
        def __init__(self, response: Any, permit: PostedPermit) -> None:
            self.permit = permit
            self._response = weakref.ref(response)
            self._inner = response.stream
            self._iterator: Iterator[bytes] | None = None
            self._dropped = False

        def __iter__(self) -> Iterator[bytes]:
            # SDK >= 3.30 comes back after `[DONE]` to drain what is left: go on, do not start again.
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
            if self._dropped:  # by the SDK's generator, in the same collection
                return
            response = self._response()
            # After the connection is back in the pool, or the next attempt would open a new one.
            try:
                self.permit.refusal = self.permit.refusal or refusal_read(response)
                self._inner.close()
            finally:
                self.permit.release(Outcome.SUCCESS, response)

        def __del__(self) -> None:
            # Dropped without being closed. This may run in any thread, within the very lock that
            # closing takes: another thread has to do it.
            self._dropped = self.permit.open
            _drop(self._inner, self.permit)

    return SettlingStream


def _drop(stream: Any, permit: PostedPermit) -> None:
    if permit.open:
        post(permit.loop, _close_in_a_thread, stream, permit)


def _close_in_a_thread(stream: Any, permit: PostedPermit) -> None:
    try:
        threading.Thread(target=_close, args=(stream, permit), daemon=True).start()
    except RuntimeError:  # no more threads: at the interpreter's exit, or as the system has no more
        permit.release(Outcome.SUCCESS)


def _close(stream: Any, permit: PostedPermit) -> None:
    try:
        stream.close()
    finally:
        permit.release(Outcome.SUCCESS)
