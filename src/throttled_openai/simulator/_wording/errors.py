"""Error bodies in OpenAI's shape and words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from .._quotas.quota import DAY, MINUTE
from .headers import go_duration, wait_milliseconds

if TYPE_CHECKING:
    from .._quotas.model_limits import QuotaRefusal

ORGANIZATION: Final = "org-simulator"

_VISIT: Final = "Visit https://platform.openai.com/account/rate-limits to learn more."
_UNEXPLAINED: Final = "Rate limit reached, please slow down."
_DIMENSIONS: Final = {
    ("requests", MINUTE): "requests per min (RPM)",
    ("requests", DAY): "requests per day (RPD)",
    ("tokens", MINUTE): "tokens per min (TPM)",
    ("tokens", DAY): "tokens per day (TPD)",
}


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> bytes:
    return json.dumps(error(message, kind, code, param)).encode()


def invalid_request_body(message: str, param: str | None = None, code: str | None = None) -> bytes:
    return error_body(message, "invalid_request_error", code, param)


def refusal_body(refusal: QuotaRefusal, model: str, limit_name: str, *, retry_after: bool) -> bytes:
    """The body of a 429. Its `type` is the dimension; shared limits have a `limit_name` other than `model`."""
    shared = "" if limit_name == model else f" (for limit {limit_name})"
    what = _DIMENSIONS[refusal.dimension, refusal.period]
    where = f"{model}{shared} in organization {ORGANIZATION} on {what}"
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


def unexplained_body() -> bytes:
    """A refusal that gives no numbers and names no limit."""
    return error_body(_UNEXPLAINED, "rate_limit_error", "rate_limit_exceeded")


def overload_body(status: int, *, explain: bool, code: str | None = None) -> bytes:
    """The refusal of a server that is out of capacity; it has no numbers."""
    if status == 429 and not explain and code is None:
        return unexplained_body()
    if status == 429:
        return error_body("Too many concurrent requests", "requests", code or "concurrency_limit_exceeded")
    return error_body("The engine is currently overloaded, please try again later", "server_error", code)


def slow_down_body() -> bytes:
    """The refusal of a sudden increase in requests."""
    message = (
        "Slow Down: a sudden increase in your request rate is impacting service reliability. Please reduce your "
        "request rate to its original level, maintain a consistent rate for at least 15 minutes, and then "
        "gradually increase it."
    )
    return error_body(message, "server_error", "slow_down")
