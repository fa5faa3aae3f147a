"""What the server decided to send, and when. Carriers (memory, TCP) act it out."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ._answers import body_of, to_bytes
from ._errors import error_body
from ._events import broken_off, events
from ._headers import retry_headers

if TYPE_CHECKING:
    from ._answers import Answer
    from ._charge import Charge
    from ._fault import Fault, FaultKind
    from ._headers import Headers
    from ._limiter import Limiter

# Share of an answer's latency until a stream's head; the rest passes between its events.
_TO_FIRST_EVENT: Final = 0.3


@dataclass(slots=True, eq=False)
class Reply:
    """One response in the making. Its carrier ends it with `Simulator.finish`, whatever happens.

    `delay` is the time until the head, `pause` the time before each piece of a stream's body;
    both are seconds and count from its `turn`. `fault` tells the carrier how to misbehave; for a
    stream that is cut, the connection drops after the last piece.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    delay: float = 0.0
    pause: float = 0.0
    stream: bool = False
    fault: FaultKind | None = None
    in_flight: bool = field(default=False, kw_only=True)
    queued: bool = field(default=False, kw_only=True)
    # Whose tokens it is charged to as it ends.
    bill: tuple[Limiter, Charge] | None = field(default=None, kw_only=True)
    _called: asyncio.Future[None] | None = field(default=None, init=False)

    async def turn(self) -> None:
        """Wait in the server's line until there is a place."""
        if self.queued:
            self._called = asyncio.get_running_loop().create_future()
            await self._called

    def start(self, slower: float) -> None:
        """Begin, `slower` times as slow as planned."""
        self.queued = False
        self.delay *= slower
        self.pause *= slower
        if self._called is not None and not self._called.done():
            self._called.set_result(None)


def reply_of(status: int, body: bytes, headers: Headers | None = None) -> Reply:
    """Answer at once."""
    return Reply(status, headers if headers is not None else [], (body,))


def found_reply(body: dict[str, Any]) -> Reply:
    return reply_of(200, to_bytes(body))


def answer_reply(answer: Answer, fault: Fault | None, headers: Headers, latency: float) -> Reply:
    """Reply with an answer, or with what `fault` makes of it."""
    if fault is not None and not fault.kind.startswith("stream"):
        return struck_reply(fault, headers, latency)
    if not answer.call.stream:
        return Reply(200, headers, (body_of(answer),), delay=latency)
    pieces = events(answer)
    pause = (1 - _TO_FIRST_EVENT) * latency / len(pieces)
    if fault is not None and fault.kind == "stream_error":
        pieces = broken_off(answer, pieces, fault)
    elif fault is not None:
        pieces = pieces[: len(pieces) // 2]
    kind = None if fault is None else fault.kind
    return Reply(200, headers, pieces, _TO_FIRST_EVENT * latency, pause, stream=True, fault=kind)


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
