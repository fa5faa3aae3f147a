"""The dialect of a provider: its headers and refusals. The base class is OpenAI's; others override what differs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .errors import refusal_body
from .headers import Headers, rate_headers, retry_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._quotas.model_limits import ModelLimits, QuotaRefusal, Unit
    from .._quotas.quota import Quota


class Dialect:
    """The headers of every metered answer and refusal, and the body of a refusal."""

    def announce(self, limits: ModelLimits, now: float) -> Headers:
        return rate_headers(limits, now)

    def retry_after(self, seconds: float, now: float) -> Headers:
        """Headers that say when to retry."""
        del now
        return retry_headers(seconds)

    def status(self, refusal: QuotaRefusal) -> int:
        del refusal
        return 429

    def body(self, refusal: QuotaRefusal, model: str, limit_name: str, now: float, *, hint: bool) -> bytes:
        """The body of a refusal by the limits called `limit_name`. `hint`: say when to retry."""
        del now
        return refusal_body(refusal, model, limit_name, retry_after=hint)


def announced_quotas(limits: ModelLimits) -> Iterator[tuple[Unit, Quota]]:
    if limits.requests is not None:
        yield "requests", limits.requests
    if limits.tokens is not None:
        yield "tokens", limits.tokens


def to_body(body: Any) -> bytes:
    return json.dumps(body).encode()
