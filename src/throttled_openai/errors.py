"""The errors of admission. Each is the SDK's own kind, so existing `except` clauses go on working."""

from __future__ import annotations

from typing import Any

import openai

__all__ = ["AccountBlocked", "AdmissionError", "AdmissionTimeout", "QueueFull", "RequestTooLarge"]


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

    `response`: that refusal, with its `code` such as `insufficient_quota`. `retry_in`: seconds until
    one call will be sent to see whether the account has been settled.
    """

    def __init__(self, response: Any, *, model: str, retry_in: float) -> None:
        self.retry_in = retry_in
        try:
            body = response.json()
        except ValueError:
            body = None
        if isinstance(body, dict):
            body = body.get("error", body)
        code = body.get("code") if isinstance(body, dict) else None
        super().__init__(
            f"not sent: the server has just refused {model} for the account's billing "
            f"({code or response.status_code}); settle the account, a call is tried again in {retry_in:.0f} s",
            response=response,
            body=body,
        )
