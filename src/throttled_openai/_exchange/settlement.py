"""How one response or failure settles its permit. Shared by the async and the blocking sender."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openai import APIError

from throttled_openai._admission.call import Outcome
from throttled_openai._protocol.error_body import NOT_JSON
from throttled_openai._protocol.headers import read_limits
from throttled_openai._protocol.refusals import Refusal, read_refusal, read_stream_error

if TYPE_CHECKING:
    import httpx

    from throttled_openai._admission.permit import Permit

# Extension of a response that holds its permit, for the usage that is known once the body is parsed.
PERMIT: Final = "throttled_openai.permit"
# Extension of a request that has a permit, for a throttled HTTP client below a throttled SDK client.
ADMITTED: Final = "throttled_openai.admitted"

# Statuses that may say "not now": billing, Groq's too-large, rate limits, overload, Anthropic's overload.
MAY_REFUSE: Final = frozenset({402, 413, 429, 503, 529})
# The server, or a proxy in front of it, did not keep up.
_OVERLOADED: Final = frozenset({408, 503, 504, 520, 521, 522, 523, 524, 529})


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP exchange and, if the server refused it, why."""

    response: httpx.Response
    refusal: Refusal | None

    @property
    def is_last(self) -> bool:
        """Whether sending the request again is pointless, or the server asked not to."""
        refusal, response = self.refusal, self.response
        return refusal is None or not refusal.may_retry or refusal.kind == "too_large" or response.status_code == 402


def observe_response(permit: Permit, response: Any, content: bytes | None) -> Refusal | None:
    """Learn from a received response; returns the refusal, if it is one.

    `content`: its body, if its status is one of `MAY_REFUSE`. From here on `permit.streaming` says
    whether the response has a stream, which settles the permit when it is closed.
    """
    refusal = None if content is None else _refusal(response, content)
    if refusal is None:
        permit.observe(read_limits(response.headers))
    if response.status_code < 300 and not response.is_closed:
        permit.started()
    return refusal


def settle_response(permit: Permit, response: Any, refusal: Refusal | None) -> Exchange:
    """Settle the permit, unless a stream will."""
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
    # A provider's 503 has a JSON body. Any other comes from a broken gateway, and is a fault even if it names
    # a time to wait: faults are left to the SDK's own retries, which wait as asked.
    try:
        json.loads(content)
    except NOT_JSON:
        return None
    return refusal


def refusal_read(response: Any) -> Refusal | None:
    """The refusal that came as an event of a stream, after status 200, if one did.

    The SDK raises the error event as an exception, and closes the stream on its way out. The exception is
    all that we see of it: the bytes are compressed, and the SDK parses them itself.
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


def is_replayable(request: httpx.Request) -> bool:
    """Whether the body can be sent a second time: it is in memory, or made of files that can be rewound."""
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
    """The module, httpx or httpx2, that the response belongs to."""
    return next(family for family in _families() if isinstance(response, family.Response))


def _families() -> list[Any]:
    # Either may be missing: SDK 2 comes with httpx, SDK 3 with httpx2.
    return [module for name in ("httpx2", "httpx") if (module := sys.modules.get(name)) is not None]
