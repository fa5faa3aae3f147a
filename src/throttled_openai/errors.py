"""The errors of calls that were not sent. Each derives from an error of the SDK, so `except` clauses keep working."""

from __future__ import annotations

import sys
from typing import Any, Final

import openai

from ._numbers import literal, number
from ._protocol.error_body import parse_json

__all__ = [
    "AccountBlocked",
    "AccountPaused",
    "AdmissionError",
    "AdmissionTimeout",
    "ClientClosed",
    "QueueFull",
    "RequestTooLarge",
    "ServerPaused",
]

# Characters of a server's code that an error shows; real codes are a few words.
_LONGEST_CODE: Final = 100


class AdmissionError(openai.APIConnectionError):
    """The call was not sent, because the throttle did not admit it.

    `request` has the method and the address only; the body did not exist yet.
    """

    def __init__(self, message: str, *, request: Any = None) -> None:
        # APIConnectionError's own signature differs from version to version; APIError's does not.
        openai.APIError.__init__(self, message, request=request, body=None)


class AdmissionTimeout(AdmissionError, openai.APITimeoutError):
    """The call waited its whole `max_wait` without being admitted.

    `waited`: seconds. `ahead`: an upper bound on the number of calls queued ahead of it in the same budget.
    """

    def __init__(self, *, max_wait: float, waited: float, ahead: int, reason: str) -> None:
        self.max_wait, self.waited, self.ahead = max_wait, waited, ahead
        super().__init__(
            f"not admitted within max_wait={literal(max_wait)} s: {ahead} calls ahead, {reason}; "
            "raise max_wait or send less"
        )


class QueueFull(AdmissionError):
    """The queue already held as many calls as `max_queued` allows.

    `waiting`: calls of the same budget in the queue. `retry_after`: seconds until these have been admitted, as far
    as the rate is known; your own service can send it as a `Retry-After` header.
    """

    def __init__(self, *, max_queued: int, waiting: int, retry_after: float) -> None:
        self.max_queued, self.waiting, self.retry_after = max_queued, waiting, retry_after
        super().__init__(
            f"{waiting} calls are waiting and max_queued={max_queued}; "
            f"try again in {retry_after:.1f} s, raise max_queued or send less"
        )


class RequestTooLarge(AdmissionError):
    """The call costs more tokens than the limit that the server announced can ever admit."""

    def __init__(self, *, tokens: int, limit: float, model: str) -> None:
        self.tokens, self.limit = tokens, limit
        super().__init__(
            f"request is estimated at {number(tokens)} tokens but {model} admits at most {number(limit)}; "
            "shorten the input or split it into several calls"
        )


class AccountBlocked(openai.RateLimitError):
    """The server has just refused another call for billing, so this call was not sent.

    `status_code` and `code`, such as `insufficient_quota`, are those of that refusal. Of the refused call, the error
    has only the method and the address. `retry_in`: seconds until one call is sent to find out whether the account
    has been settled.
    """

    def __init__(self, *, model: str, status: int, body: dict[str, Any], retry_in: float, request: Any) -> None:
        """`body` is shared by all errors of one refusal; `request` is `redacted`, as it belongs to another call."""
        self.retry_in = retry_in
        family = sys.modules[type(request).__module__.partition(".")[0]]
        super().__init__(
            f"not sent: the server has just refused a call of {model} for billing "
            f"({body['code'] or status}); settle the account; one call tries again in {retry_in:.0f} s",
            response=family.Response(status, request=request),
            body=body,
        )


class AccountPaused(AccountBlocked):
    """The server asked for a wait longer than calls wait without `max_wait=`, so this call was not sent.

    `ends_in`: seconds left of that wait. `retry_in`: seconds until one call is sent to find out whether the server
    meant it.
    """

    def __init__(
        self,
        *,
        model: str,
        status: int,
        body: dict[str, Any],
        retry_in: float,
        request: Any,
        ends_in: float,
        wait: str,
    ) -> None:
        self.retry_in, self.ends_in = retry_in, ends_in
        family = sys.modules[type(request).__module__.partition(".")[0]]
        openai.RateLimitError.__init__(
            self,
            f"not sent: the server has asked to send nothing more to {model} for {wait}; "
            f"one call tries again in {retry_in:.0f} s; to let calls wait that long, set max_wait=",
            response=family.Response(status, request=request),
            body=body,
        )


class ServerPaused(AccountPaused, openai.InternalServerError):  # pyright: ignore[reportIncompatibleVariableOverride]
    """An `AccountPaused` after a 503 or 529, which the SDK raises as `InternalServerError`."""


def refused_by(response: Any, code: str | None = None) -> dict[str, Any]:
    """Arguments of `AccountBlocked` from the response to another call: status, body, redacted request. Never raises.

    `code`: the code to use where the body was a stream, which cannot be read a second time.
    """
    try:
        content, request = response.content, response.request
    except RuntimeError:  # an unread stream, or a response without a request
        content, request = b"", getattr(response, "_request", None)
    body = parse_json(content)
    error = body.get("error", body) if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else code
    if request is None:
        request = sys.modules[type(response).__module__.partition(".")[0]].Request("POST", "http://unknown")
    return {
        "status": response.status_code,
        "body": {"code": code[:_LONGEST_CODE] if isinstance(code, str) else None},
        "request": redacted(request),
    }


def redacted(request: Any) -> Any:
    """A copy of `request` for an error, with method and address only.

    Headers, query and password may be secrets, and the body is the prompt.
    """
    return type(request)(request.method, request.url.copy_with(query=None, userinfo=b""))


class ClientClosed(AdmissionError):
    """The client was closed while the call was waiting."""

    def __init__(self) -> None:
        super().__init__("not sent: the client was closed while the call waited for its turn")
