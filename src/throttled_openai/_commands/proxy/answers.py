"""Answers of the proxy's own, in the form of OpenAI's errors. Each says what went wrong and whether to try again.

The SDKs try again after 408, 409, 429 and 5xx, at most twice, and heed `retry-after` and `x-should-retry`.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final, NamedTuple

from throttled_openai.errors import AccountBlocked, AdmissionTimeout, ClientClosed, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    from .upstream import Pairs

# Seconds until another process may serve in the place of one that stops.
_RESTART: Final = 1


class Answer(NamedTuple):
    """`code`: for programs; also in the log."""

    status: int
    code: str
    message: str
    kind: str = "proxy_error"
    retry_after: float | None = None
    again: bool = True

    @property
    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self, body: bytes) -> Pairs:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after))))
        if not self.again:
            headers.append((b"x-should-retry", b"false"))
        return headers


LOOP: Final = Answer(508, "proxy_loop", "the upstream server of this proxy is the proxy itself; correct --upstream")
NO_TUNNEL: Final = Answer(
    501, "not_a_forward_proxy", "this proxy takes the place of the API: use its address as the base URL", again=False
)
NO_WEBSOCKETS: Final = Answer(
    501, "no_websockets", "WebSockets do not pass this proxy: connect to the server directly", again=False
)
STOPPING: Final = Answer(503, "proxy_stopping", "not sent: the proxy is stopping", retry_after=_RESTART)
NOT_FOUND: Final = Answer(404, "not_found", "the proxy itself serves GET /-/stats", again=False)


def answer_to(error: Exception, upstream: str) -> Answer:
    """The answer to a call that `error` ended before the upstream server answered."""
    match error:
        case AccountBlocked():  # as the server refused the call before it; waiting does not cure that
            code = error.code or "account_blocked"
            return Answer(error.status_code, code, error.message, code, error.retry_in, again=False)
        case QueueFull():
            return Answer(429, "queue_full", error.message, "rate_limit_error", error.retry_after)
        case AdmissionTimeout():  # it has waited as long as it may
            return Answer(429, "admission_timeout", error.message, "rate_limit_error", again=False)
        case RequestTooLarge():
            return Answer(400, "request_too_large", error.message, "invalid_request_error", again=False)
        case ClientClosed():
            return STOPPING
    return _answer_to_failure(error, upstream)


def _answer_to_failure(error: Exception, upstream: str) -> Answer:
    kinds = {kind.__name__ for kind in type(error).__mro__}  # of httpx or httpx2
    told = f"no answer from {upstream}: {type(error).__name__}{f': {error}' if str(error) else ''}"
    if "TimeoutException" in kinds:
        return Answer(504, "upstream_timeout", told)
    if "TransportError" in kinds:
        return Answer(502, "upstream_unreachable", told)
    if "InvalidURL" in kinds:
        return Answer(400, "invalid_path", "the path is no path of a URL", "invalid_request_error", again=False)
    return Answer(500, "proxy_failure", f"the proxy failed with {type(error).__name__}")
