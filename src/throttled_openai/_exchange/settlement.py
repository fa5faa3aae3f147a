"""The exchange: what one response, or its failure, means for its permit; what both HTTP seams decide with."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openai import APIError
from tenacity import RetryCallState, retry_if_result
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from throttled_openai._admission.permit import GivenUp, Outcome
from throttled_openai._limits import OVERSIZE
from throttled_openai._protocol.error_body import NOT_JSON
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.refusals import Refusal, read_refusal, read_stream_error
from throttled_openai.errors import ClientClosed

if TYPE_CHECKING:
    import httpx

    from throttled_openai._admission.permit import Call, Permit
    from throttled_openai._admission.throttle import Throttle

# Where a response carries its permit, for the usage that is known once the body is parsed.
PERMIT: Final = "throttled_openai.permit"
# Where a request says that it has a permit, for a throttled HTTP client below a throttled one of the SDK.
ADMITTED: Final = "throttled_openai.admitted"

# What may say "not now": billing, Groq's too-large, rate limits, overload, Anthropic's overload.
MAY_REFUSE: Final = frozenset({402, 413, 429, 503, 529})
# The server, or something on the way to it, did not keep up.
_OVERLOADED: Final = frozenset({408, 503, 504, 520, 521, 522, 523, 524, 529})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP exchange and, where the server turned it away, why."""

    response: httpx.Response
    refusal: Refusal | None

    @property
    def is_last(self) -> bool:
        """Whether sending the request again is pointless, or the server asks not to."""
        refusal, response = self.refusal, self.response
        return refusal is None or not refusal.again or refusal.kind == "too_large" or response.status_code == 402


def begin(permit: Permit, response: Any, content: bytes | None) -> Refusal | None:
    """Learn from a response that has come; returns why the server turned it away, if it did.

    `content`: its body, if its status is one of `MAY_REFUSE`. `permit.streaming`, from here on, says
    whether it has a stream, which settles the permit when it is closed.
    """
    refusal = None if content is None else _refusal(response, content)
    if refusal is None:
        permit.observe(read_limits(response.headers))
    if response.status_code < 300 and not response.is_closed:
        permit.started()
    return refusal


def end(permit: Permit, response: Any, refusal: Refusal | None) -> Exchange:
    """Settle the permit, unless there is a stream to do that."""
    response.extensions[PERMIT] = permit
    status = response.status_code
    if refusal is not None:
        permit.settle(Outcome.REFUSED, refusal, response)
    elif status in _OVERLOADED:
        permit.settle(Outcome.OVERLOADED)
    elif status >= 300:
        permit.settle(Outcome.IGNORED)
    elif not permit.streaming:
        permit.settle(Outcome.SUCCESS)
    return Exchange(response, refusal)


def _refusal(response: Any, content: bytes) -> Refusal | None:
    refusal = read_refusal(response.status_code, response.headers, content, wall_now=time.time())
    if refusal is None or refusal.kind != "overload" or response.status_code == 429:
        return refusal
    # A 503 of the provider says so in JSON. Any other is a broken gateway, and however long it asks to
    # stay away, that is a fault: faults are for the SDK's own retries, which wait as asked.
    try:
        json.loads(content)
    except NOT_JSON:
        return None
    return refusal


def refusal_read(response: Any) -> Refusal | None:
    """The refusal that came as an event of a stream, if one did: status 200 had been sent by then.

    The SDK raises what an error event says, and closes the stream on its way out. The exception is
    what we can see of it: the bytes are compressed, and the SDK's parser is not ours.
    """
    error = sys.exc_info()[1]
    if response is None or not isinstance(error, APIError) or error.request is not response.request:
        return None
    return read_stream_error(error.body)


def outcome_of_error(error: BaseException) -> Outcome:
    """What a failed exchange says about the server's capacity."""
    for family in _families():
        if isinstance(error, (family.TimeoutException, family.ConnectError)):
            return Outcome.OVERLOADED
    return Outcome.IGNORED


def may_be_readmitted(exchange: Exchange, throttle: Throttle) -> bool:
    """Whether there is a refusal, and the throttle is to deal with it rather than the SDK."""
    refusal = exchange.refusal
    return refusal is not None and (refusal.kind == "too_large" or throttle.max_refusals != 0)


def readmission_policy(call: Call, request: httpx.Request, throttle: Throttle) -> dict[str, Any]:
    """Arguments for tenacity."""
    return {
        "retry": retry_if_result(_is_refused),
        "stop": _StopRefused(call, throttle.max_refusals, replayable=is_replayable(request)),
        "wait": _WaitForBudget(),
        "retry_error_callback": _last_exchange,
    }


def response_of(exchange: Exchange) -> httpx.Response:
    """The response; a refusal is marked for the SDK not to try again, which would meet the same."""
    if exchange.refusal is not None:
        exchange.response.headers["x-should-retry"] = "false"
    return exchange.response


def response_after(error: Exception, last: Exchange) -> httpx.Response:
    """The response of a call that is not admitted again, for that reason. Raises it where the client was closed."""
    if isinstance(error, ClientClosed):
        raise error
    if isinstance(error, GivenUp) and error.to_sdk:
        return last.response
    return response_of(last)


class _StopRefused(stop_base):
    """Stops at a refusal that waiting cannot cure, or after more than the user wants. Else the lane decides."""

    def __init__(self, call: Call, max_refusals: int | None, *, replayable: bool) -> None:
        self._call = call
        self._max_refusals = max_refusals
        self._replayable = replayable

    def __call__(self, retry_state: RetryCallState) -> bool:
        exchange, most = _last_exchange(retry_state), self._max_refusals
        refusal = exchange.refusal
        assert refusal is not None
        if exchange.is_last or not self._replayable:
            return True
        if refusal.dimension == "tokens" and refusal.limit and self._call.tokens > OVERSIZE * refusal.limit:
            return True
        return most is not None and self._call.refusals > most


class _WaitForBudget(wait_base):
    """What the server asked for, in seconds; 0 where it did not say."""

    def __call__(self, retry_state: RetryCallState) -> float:
        refusal = _last_exchange(retry_state).refusal
        assert refusal is not None
        return refusal.retry_after or 0.0


def _is_refused(exchange: Exchange) -> bool:
    return exchange.refusal is not None


def _last_exchange(retry_state: RetryCallState) -> Exchange:
    assert retry_state.outcome is not None
    exchange: Exchange = retry_state.outcome.result()
    return exchange


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


def family_of(response: object) -> Any:
    """The module, httpx or httpx2, whose response this is."""
    return next(family for family in _families() if isinstance(response, family.Response))


def _families() -> list[Any]:
    # Either may be missing: SDK 2 comes with httpx, SDK 3 with httpx2.
    return [module for name in ("httpx2", "httpx") if (module := sys.modules.get(name)) is not None]
