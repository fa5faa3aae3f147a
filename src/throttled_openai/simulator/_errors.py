"""Error bodies in OpenAI's shape and words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from ._headers import go_duration, wait_milliseconds

if TYPE_CHECKING:
    from ._limiter import Refusal

ORGANIZATION: Final = "org-simulator"

_VISIT: Final = "Visit https://platform.openai.com/account/rate-limits to learn more."
_DIMENSIONS: Final = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


class BadRequestError(Exception):
    """The client's mistake; becomes a 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return json.dumps(error(message, kind, code, param)).encode()


def invalid(message: str, param: str | None = None, code: str | None = None) -> bytes:
    return error_body(message, "invalid_request_error", code, param)


def refusal_body(refusal: Refusal, model: str, *, retry_after: bool) -> bytes:
    """Write the text of a 429; `type` names the limit that was hit."""
    where = f"{model} in organization {ORGANIZATION} on {_DIMENSIONS[refusal.dimension]}"
    limit = f"Limit {refusal.limit:.0f}"
    if refusal.wait is None:
        message = (
            f"Request too large for {where}: {limit}, Requested {refusal.requested}. "
            f"The input or output tokens must be reduced in order to run successfully. {_VISIT}"
        )
    else:
        again = go_duration(wait_milliseconds(refusal.wait) / 1000)
        hint = f"Please try again in {again}. " if retry_after else ""
        message = (
            f"Rate limit reached for {where}: {limit}, Used {refusal.used}, "
            f"Requested {refusal.requested}. {hint}{_VISIT}"
        )
    return error_body(message, refusal.dimension, "rate_limit_exceeded")


def overload_body(status: int) -> bytes:
    """Refuse without numbers: what a server says that has capacity rather than rates."""
    if status == 429:
        return error_body("Too many concurrent requests", "requests", "concurrency_limit_exceeded")
    return error_body("The engine is currently overloaded, please try again later", "server_error")
