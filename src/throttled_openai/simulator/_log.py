"""The log: the record of each attempt, and the counters of all attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._fault import FaultKind

Dimension = Literal["requests", "tokens", "concurrency", "growth"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One metered request and the decision made on its arrival.

    `at` is seconds on the loop's clock. `status` is 0 if no response is sent. `tokens` is its full cost,
    whether it was charged or refused. `dimension` is the limit that refused it. `call` is its
    `X-Client-Request-Id`, by which clients find their own attempts.
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
    """At any instant, attempts = succeeded + refused + failed + abandoned + in flight.

    Failed: ended by a fault. Abandoned: the client left before its answer was complete. Attempts in
    the backend's queue are in flight.
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
