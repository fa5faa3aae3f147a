"""The reply to one request: what to send and when. A carrier (memory or TCP) performs it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .._wording.errors import error_body
from .._wording.headers import retry_headers
from .bodies import body_of, to_bytes
from .events import broken_off, events
from .media import media

if TYPE_CHECKING:
    from .._fault import Fault, FaultKind
    from .._quotas.charge import Charge
    from .._quotas.model_limits import ModelLimits
    from .._wording.headers import Headers
    from .bodies import Answer

# Share of the latency before a stream's head; the rest is spread over its events.
_TO_FIRST_EVENT: Final = 0.3


@dataclass(slots=True, eq=False)
class Reply:
    """One response to perform. Its carrier must end it with `Server.finish`, however it ends.

    `delay` is the seconds until the head, counted from the start in a slot; `pause` is the seconds before
    each piece of a stream's body. `fault` is the misbehaviour that the carrier performs; a stream that
    is cut drops the connection after its last piece.
    """

    status: int
    headers: Headers
    pieces: tuple[bytes, ...]
    delay: float = 0.0
    pause: float = 0.0
    stream: bool = False
    fault: FaultKind | None = None
    content_type: str = "application/json"
    # What an access log says of it.
    note: str = field(default="", kw_only=True)
    in_flight: bool = field(default=False, kw_only=True)
    queued: bool = field(default=False, kw_only=True)
    # The limits to settle when it ends, and the charge.
    bill: tuple[ModelLimits, Charge] | None = field(default=None, kw_only=True)
    _slot: asyncio.Future[None] | None = field(default=None, init=False)

    async def wait_for_slot(self) -> None:
        """Wait in the backend's queue until a slot is free."""
        if self.queued:
            self._slot = asyncio.get_running_loop().create_future()
            await self._slot

    def start(self, slower: float) -> None:
        """Leave the queue and take `slower` times as long as planned."""
        self.queued = False
        self.delay *= slower
        self.pause *= slower
        if self._slot is not None and not self._slot.done():
            self._slot.set_result(None)


def reply_of(status: int, body: bytes, headers: Headers | None = None) -> Reply:
    """A reply without delay."""
    return Reply(status, headers if headers is not None else [], (body,))


def json_reply(body: dict[str, Any]) -> Reply:
    return reply_of(200, to_bytes(body))


def answer_reply(answer: Answer, fault: Fault | None, headers: Headers, latency: float) -> Reply:
    """The reply that carries `answer`, or what `fault` turns it into."""
    if fault is not None and not fault.kind.startswith("stream"):
        return fault_reply(fault, headers, latency)
    if not answer.request.stream:
        if answer.request.endpoint.startswith(("images/", "audio/")):
            kind, body = media(answer)
            return Reply(200, headers, (body,), delay=latency, content_type=kind)
        return Reply(200, headers, (body_of(answer),), delay=latency)
    pieces = events(answer)
    pause = (1 - _TO_FIRST_EVENT) * latency / len(pieces)
    if fault is not None and fault.kind == "stream_error":
        pieces = broken_off(answer, pieces, fault)
    elif fault is not None:
        pieces = pieces[: len(pieces) // 2]
    performed = None if fault is None else fault.kind
    return Reply(200, headers, pieces, _TO_FIRST_EVENT * latency, pause, stream=True, fault=performed)


def fault_reply(fault: Fault, headers: Headers, latency: float) -> Reply:
    """The reply that a fault sends in place of an answer."""
    # A 429 or 5xx that the limits did not cause comes from billing or a gateway, without rate limit headers.
    if fault.status == 429 or fault.status >= 500:
        headers = []
    if fault.retry_after is not None:
        headers += retry_headers(fault.retry_after)
    body = error_body(fault.text, fault.error_type, fault.code)
    delay = math.inf if fault.kind == "hang" else latency
    return Reply(fault.status, headers, (body,), delay, fault=fault.kind)
