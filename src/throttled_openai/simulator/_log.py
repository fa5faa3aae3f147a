"""What the server remembers of its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._fault import FaultKind

Dimension = Literal["requests", "tokens", "concurrency", "growth"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One metered request, as it was decided on arrival.

    `at` is seconds on the loop's clock; `status` is 0 where no response is sent; `tokens` is what
    it costs, now or at its end, charged or refused; `dimension` is the limit that refused it;
    `call` is its `X-Client-Request-Id`, if it has one, for clients that want to know their own.
    """

    at: float
    model: str
    endpoint: str
    status: int
    tokens: int
    retry_count: int
    dimension: Dimension | None = None
    fault: FaultKind | None = None
    call: str | None = None


@dataclass(slots=True)
class Counters:
    """attempts = succeeded + refused + failed + abandoned + in flight, at any instant.

    Failed: struck by a fault. Abandoned: the client left before its answer was complete. Those in
    the backend's line are in flight too.
    """

    attempts: int = 0
    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    abandoned: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    queued: int = 0
    peak_queued: int = 0
    open_streams: int = 0
    connections: int = 0
    connections_made: int = 0
