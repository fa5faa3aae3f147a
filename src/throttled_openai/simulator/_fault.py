"""Faults that the server is configured to have, in addition to the refusals by its limits."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

FaultKind = Literal["status", "disconnect", "hang", "stream_error", "stream_cut"]
StreamErrorShape = Literal["wrapped", "flat", "failed"]

_TEXTS = {
    400: "The request was rejected.",
    401: "Incorrect API key provided.",
    402: "Insufficient balance.",
    403: "You are not allowed to use this model.",
    413: "The request is too large.",
    429: "Rate limit reached, please try again later.",
    503: "The engine is currently overloaded, please try again later",
    529: "Overloaded",
}
_QUOTA_TEXT = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this "
    "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
)
_SERVER_ERROR = "The server had an error while processing your request. Sorry about that!"

# A 429 with one of these codes is about billing, and its `type` says so.
_BILLING = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure of some attempts. An attempt that was admitted has been charged and takes its latency.

    - `status`: an error response with this `status`, `code`, `message`, and `retry_after` seconds. With
      `late=False` it comes before the limits are checked, at once and without a charge. That is the
      default for billing codes such as `insufficient_quota`; other codes are `late` by default
    - `disconnect`: the connection is closed without a response
    - `hang`: there is never a response
    - `stream_error`: status 200 and a stream that ends in an error event, `after` this number of other
      events; its text includes `retry_after`. In streams of `responses` the event has one of three shapes:
      `wrapped`, `{"type": "error", "error": {"code": ...}}`; `flat`, `{"type": "error", "code": ...}`;
      `failed`, a `response.failed` with `response.error.code`. In other streams it is `wrapped`
    - `stream_cut`: the connection drops in the middle of a stream

    It applies with probability `share` to attempts numbered `first` to `last` (all metered attempts count,
    from 0) and, if `model` is given, only to those of that model.
    """

    kind: FaultKind = "status"
    status: int = 500
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    share: float = 1.0
    first: int = 0
    last: int | None = None
    model: str | None = None
    late: bool | None = None
    shape: StreamErrorShape = "wrapped"
    after: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"fault kind must be one of {', '.join(get_args(FaultKind))}, got {self.kind!r}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"a fault's status must be from 400 to 599, got {self.status}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"a fault's share must be from 0 to 1, got {self.share}")
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise ValueError(f"a fault needs 0 <= first <= last, got first={self.first}, last={self.last}")
        if self.shape not in get_args(StreamErrorShape):
            shapes = ", ".join(get_args(StreamErrorShape))
            raise ValueError(f"a fault's shape must be one of {shapes}, got {self.shape!r}")
        if self.after < 0:
            raise ValueError(f"a fault's error comes after 0 or more events, got {self.after}")
        if self.late is False and self.kind != "status":
            raise ValueError(f"only a status can come early: a {self.kind} is always late")
        if self.retry_after is not None and not 0 <= self.retry_after < math.inf:
            raise ValueError(f"a fault's retry_after must be 0 or more seconds, got {self.retry_after}")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `KIND[:key=value,...]`, as on the command line: `status:status=503,share=0.01`."""
        kind, _, rest = text.partition(":")
        values: dict[str, object] = {"kind": kind}
        for pair in re.split(r",(?=\w+=)", rest) if rest else ():
            key, equals, value = pair.partition("=")
            if key not in _READ or not equals:
                raise ValueError(f"a fault has {', '.join(_READ)}; cannot read {pair!r}")
            values[key] = _READ[key](value)
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """The text that `parse` reads."""
        pairs = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "kind" and getattr(self, field.name) != field.default
        ]
        return f"{self.kind}:{','.join(pairs)}" if pairs else self.kind

    def applies_to(self, number: int, model: str, *, stream: bool) -> bool:
        """Whether attempt `number` may have this fault; the server draws for `share`."""
        if self.kind.startswith("stream") and not stream:
            return False
        if self.model is not None and self.model != model:
            return False
        return self.first <= number and (self.last is None or number <= self.last)

    @property
    def before_limits(self) -> bool:
        late = self.code not in _BILLING if self.late is None else self.late
        return self.kind == "status" and not late

    @property
    def text(self) -> str:
        if self.message is None and self.code == "insufficient_quota":
            return _QUOTA_TEXT
        status = 429 if self.kind == "stream_error" else self.status
        return self.message or _TEXTS.get(status, _SERVER_ERROR)

    @property
    def error_type(self) -> str:
        if self.code in _BILLING:
            return "insufficient_quota"
        if self.status == 529:
            return "overloaded_error"
        if self.status == 429:
            return "requests"
        return "server_error" if self.status >= 500 else "invalid_request_error"


def _read_switch(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


_READ: dict[str, Callable[[str], object]] = {
    "status": int,
    "code": str,
    "message": str,
    "retry_after": float,
    "share": float,
    "first": int,
    "last": int,
    "model": str,
    "late": _read_switch,
    "shape": str,
    "after": int,
}
