"""How a provider words its limits: OpenAI's way, from which the others differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ._errors import refusal_body
from ._headers import Headers, rate_headers, retry_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._limiter import Limiter, Refusal, Unit
    from ._quota import Quota


class Dialect:
    """Headers of every metered answer and refusal, and the words of a refusal."""

    def announce(self, limiter: Limiter, now: float) -> Headers:
        return rate_headers(limiter, now)

    def wait(self, seconds: float, now: float) -> Headers:
        """When to come back."""
        del now
        return retry_headers(seconds)

    def status(self, refusal: Refusal) -> int:
        del refusal
        return 429

    def body(self, refusal: Refusal, model: str, limiter: str, now: float, *, hint: bool) -> bytes:
        """Say which limit is in the way; `hint`: and when to come back. `limiter` is whose limit it is."""
        del now
        return refusal_body(refusal, model, limiter, retry_after=hint)


def quotas_of(limiter: Limiter) -> Iterator[tuple[Unit, Quota]]:
    """The limits that are announced, as far as there are any."""
    if limiter.requests is not None:
        yield "requests", limiter.requests
    if limiter.tokens is not None:
        yield "tokens", limiter.tokens


def to_body(body: Any) -> bytes:
    return json.dumps(body).encode()
