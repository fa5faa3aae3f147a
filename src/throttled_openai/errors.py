"""The errors of admission. Each is the SDK's own kind, so existing `except` clauses go on working."""

from __future__ import annotations

import sys
from typing import Any, Final

import openai

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

# Characters of a server's code that an error shows; those of real ones are a few words.
_LONGEST_CODE: Final = 100


class AdmissionError(openai.APIConnectionError):
    """The call was never sent: the throttle did not admit it.

    `request` names the method and address only; the body did not exist yet.
    """

    def __init__(self, message: str, *, request: Any = None) -> None:
        # APIConnectionError's own signature differs from version to version; APIError's does not.
        openai.APIError.__init__(self, message, request=request, body=None)


class AdmissionTimeout(AdmissionError, openai.APITimeoutError):
    """The call waited its whole `max_wait` without being admitted.

    `waited`: seconds. `ahead`: at most so many calls of the same budget were to go before it.
    """

    def __init__(self, *, max_wait: float, waited: float, ahead: int, reason: str) -> None:
        self.max_wait, self.waited, self.ahead = max_wait, waited, ahead
        super().__init__(
            f"not admitted within max_wait={max_wait:g} s: {ahead} calls ahead, {reason}; raise max_wait or send less"
        )


class QueueFull(AdmissionError):
    """As many calls were waiting as `max_queued` allows.

    `waiting`: calls of the same budget in the queue. `retry_after`: seconds until those have been
    admitted, as far as the rate is known (for a `Retry-After` header of your own service).
    """

    def __init__(self, *, max_queued: int, waiting: int, retry_after: float) -> None:
        self.max_queued, self.waiting, self.retry_after = max_queued, waiting, retry_after
        super().__init__(
            f"{waiting} calls are waiting and max_queued={max_queued}; "
            f"try again in {retry_after:.1f} s, raise max_queued or send less"
        )


class RequestTooLarge(AdmissionError):
    """The call costs more tokens than the server's announced limit could ever admit."""

    def __init__(self, *, tokens: int, limit: float, model: str) -> None:
        self.tokens, self.limit = tokens, limit
        super().__init__(
            f"request is estimated at {tokens} tokens but {model} admits at most {limit:g}; "
            "shorten the input or split it into several calls"
        )


class AccountBlocked(openai.RateLimitError):
    """The server refused another call for the account's billing just now, so this one was not sent.

    `status_code` and `code`, such as `insufficient_quota`, are those of that refusal; of its call there
    is no more than method and address. `retry_in`: seconds until one call will be sent to see whether
    the account has been settled.
    """

    def __init__(self, *, model: str, status: int, body: dict[str, Any], retry_in: float, request: Any) -> None:
        """`body`: the code, for all such errors of one refusal.

        `request` is to be bare: without headers and body, which are another call's key and prompt.
        """
        self.retry_in = retry_in
        family = sys.modules[type(request).__module__.partition(".")[0]]
        super().__init__(
            f"not sent: the server has just refused {model} for the account's billing "
            f"({body['code'] or status}); settle the account, a call is tried again in {retry_in:.0f} s",
            response=family.Response(status, request=request),
            body=body,
        )


class AccountPaused(AccountBlocked):
    """The server asked another call to wait for longer than calls do unasked, so this one was not sent.

    `ends_in`: seconds of that wait that are left. `retry_in`: seconds until one call will be sent to see
    whether the server meant it.
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
        spelt: str,
    ) -> None:
        self.retry_in, self.ends_in = retry_in, ends_in
        family = sys.modules[type(request).__module__.partition(".")[0]]
        openai.RateLimitError.__init__(
            self,
            f"not sent: the server has asked to send nothing more to {model} for {spelt}; "
            f"a call is tried again in {retry_in:.0f} s, and with max_wait= calls wait that long",
            response=family.Response(status, request=request),
            body=body,
        )


class ServerPaused(AccountPaused, openai.InternalServerError):
    """The same where the server asked for that with a 503 or 529, which the SDK raises as `InternalServerError`."""


def refused_by(response: Any, code: str | None = None) -> dict[str, Any]:
    """What `AccountBlocked` tells of the response to another call: status, code, and its bare request. Never raises.

    `code`: what is known of it where the body is a stream, which cannot be read a second time.
    """
    try:
        content, request = response.content, response.request
    except RuntimeError:  # a stream that nobody has read, or a response of no request
        content, request = b"", getattr(response, "_request", None)
    body = parse_json(content)
    error = body.get("error", body) if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else code
    if request is None:
        request = sys.modules[type(response).__module__.partition(".")[0]].Request("POST", "http://unknown")
    return {
        "status": response.status_code,
        "body": {"code": code[:_LONGEST_CODE] if isinstance(code, str) else None},
        "request": bare(request),
    }


def bare(request: Any) -> Any:
    """Its method and address, for an error: headers, query and a password may be secrets, the body is the prompt."""
    return type(request)(request.method, request.url.copy_with(query=None, userinfo=b""))


class ClientClosed(AdmissionError):
    """The client was closed while the call waited."""

    def __init__(self) -> None:
        super().__init__("not sent: the client was closed while the call waited for its turn")
