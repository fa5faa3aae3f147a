"""What the server decided to send, and when. Carriers (memory, TCP) act it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._fault import FaultKind
    from ._headers import Headers


@dataclass(slots=True, eq=False)
class Reply:
    """One response in the making. Its carrier ends it with `Simulator.finish`, whatever happens.

    `delay` is the time until the head, `pause` the time before each piece of a stream's body;
    both are seconds. `fault` tells the carrier how to misbehave; for a stream that is cut, the
    connection drops after the last piece.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    delay: float = 0.0
    pause: float = 0.0
    stream: bool = False
    fault: FaultKind | None = None
    in_flight: bool = field(default=False, kw_only=True)
