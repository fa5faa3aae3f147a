"""Readmission: whether a refused call is sent again; a policy for tenacity, used by both senders."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tenacity import retry_if_result

from throttled_openai._admission.call import GivenUp, Outcome
from throttled_openai._admission.permit import Permit
from throttled_openai._limits import OVERSIZE
from throttled_openai.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from tenacity import RetryCallState

    from throttled_openai._admission.call import Call

    from .settlement import Exchange

AnyPermit = TypeVar("AnyPermit", bound=Permit)


def may_be_readmitted(exchange: Exchange, max_refusals: int | None) -> bool:
    """Whether this is a refusal that the throttle deals with, rather than the SDK. `max_refusals` -1: none is."""
    refusal = exchange.refusal
    return refusal is not None and max_refusals != -1 and (refusal.kind == "too_large" or max_refusals != 0)


class Readmission(Generic[AnyPermit]):
    """The further attempts of one refused call. `last` is the newest exchange.

    Between two attempts the call waits in the queue, at its old place. It does not sleep as long as the
    server asked this one call to wait, because the budget knows all refusals.
    """

    def __init__(self, call: Call, first: Exchange, max_refusals: int | None, *, replayable: bool) -> None:
        self.last = first
        self.permit: AnyPermit | None = None  # of the next attempt
        self._call = call
        self._max_refusals = max_refusals
        self._replayable = replayable

    @property
    def policy(self) -> dict[str, Any]:
        """Arguments for tenacity."""
        return {
            "retry": retry_if_result(_is_refused),
            "stop": self._stops,
            "wait": _seconds_asked_for,
            "retry_error_callback": _exchange_of,
        }

    def call_again(self) -> Call:
        """The call, to be admitted again."""
        self._call.again = True
        return self._call

    def take_permit(self) -> AnyPermit | None:
        """The permit of the next attempt; None for the first one, which has been refused already."""
        permit, self.permit = self.permit, None
        return permit

    def counted(self) -> Exchange:
        """The newest exchange, after counting it if it is a refusal."""
        self._call.refusals += self.last.refusal is not None
        return self.last

    def _stops(self, retry_state: RetryCallState) -> bool:
        """Whether to stop: at a refusal that waiting cannot cure, or after `max_refusals`. Else the limiter decides."""
        exchange, most = _exchange_of(retry_state), self._max_refusals
        refusal = exchange.refusal
        assert refusal is not None
        if exchange.is_last or not self._replayable:
            return True
        if refusal.dimension == "tokens" and refusal.limit and self._call.tokens > OVERSIZE * refusal.limit:
            return True
        return most is not None and self._call.refusals > most


@contextlib.contextmanager
def unsent_on_error(permit: Permit) -> Iterator[None]:
    """Give the permit back if its request cannot be made."""
    try:
        yield
    except BaseException:
        permit.release(Outcome.UNSENT)
        raise


def response_of(exchange: Exchange) -> httpx.Response:
    """The response; a refusal is marked so that the SDK does not retry it, which would meet the same refusal."""
    if exchange.refusal is not None:
        exchange.response.headers["x-should-retry"] = "false"
    return exchange.response


def response_after(error: Exception, last: Exchange) -> httpx.Response:
    """The response for a call whose readmission failed with `error`. Raises `error` if the client was closed."""
    if isinstance(error, ClientClosed):
        raise error
    if isinstance(error, GivenUp) and error.to_sdk:
        return last.response
    return response_of(last)


def _seconds_asked_for(retry_state: RetryCallState) -> float:
    """The wait that the server asked for; 0 if it asked for none."""
    refusal = _exchange_of(retry_state).refusal
    assert refusal is not None
    return refusal.retry_after or 0.0


def _is_refused(exchange: Exchange) -> bool:
    return exchange.refusal is not None


def _exchange_of(retry_state: RetryCallState) -> Exchange:
    assert retry_state.outcome is not None
    exchange: Exchange = retry_state.outcome.result()
    return exchange
