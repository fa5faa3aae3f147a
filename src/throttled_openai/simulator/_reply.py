"""What the server decided to send, and when. Carriers (memory, TCP) act it out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._answers import to_bytes
from ._errors import error_body
from ._headers import retry_headers

if TYPE_CHECKING:
    from ._fault import Fault, FaultKind
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


def reply_of(status: int, body: bytes, headers: Headers | None = None) -> Reply:
    """Answer at once."""
    return Reply(status, headers if headers is not None else [], (body,))


def found_reply(body: dict[str, Any]) -> Reply:
    return reply_of(200, to_bytes(body))


def struck_reply(fault: Fault, headers: Headers, latency: float) -> Reply:
    """Reply with a fault in place of an answer."""
    # A 429 or 5xx that the limits did not cause comes from elsewhere (billing, a gateway), bare.
    if fault.status == 429 or fault.status >= 500:
        headers = []
    if fault.retry_after is not None:
        headers += retry_headers(fault.retry_after)
    body = error_body(fault.words, fault.error_type, fault.code)
    delay = math.inf if fault.kind == "hang" else latency
    return Reply(fault.status, headers, (body,), delay, fault=fault.kind)
