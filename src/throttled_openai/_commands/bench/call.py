"""One timed call, and the hooks of the HTTP client that take its times."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

# Where an answer's number of tokens comes from: the server's usage, or our count of the stream's chunks.
Counted = Literal["usage", "chunks"]


@dataclass(slots=True, eq=False)
class TimedCall:
    """One call. Instants are seconds of the event loop's clock; None: that did not happen.

    `due_at`: when it was scheduled; `asked_at`: when it was made. They differ if this process was late.
    `sent_at`: when the answered attempt was sent, or else the last one.
    """

    due_at: float
    asked_at: float
    sent_at: float | None = None
    first_at: float | None = None
    """Arrival of the first chunk with a part of the answer; reasoning and tool calls count."""
    done_at: float | None = None
    """Arrival of the answer's last byte."""
    attempts: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    hidden_tokens: int = 0
    """The part of these that is reasoning which the server does not send; it precedes the first chunk."""
    counted: Counted | None = None
    failure: str | None = None
    gaps: list[float] = field(default_factory=list)
    """ITL: seconds between two chunks of the answer with a part of it, the first chunk's excepted."""
    on_sent: Callable[[], None] | None = None
    """Called once, when the first attempt is sent."""

    @property
    def ended(self) -> bool:
        return self.done_at is not None

    @property
    def answered(self) -> bool:
        return self.done_at is not None and self.failure is None

    @property
    def latency(self) -> float | None:
        """Seconds from sending the answered attempt to the end of its answer: the server's time and the network's."""
        return _between(self.sent_at, self.done_at)

    @property
    def to_first_token(self) -> float | None:
        """TTFT: seconds from sending the answered attempt to the first part of its answer."""
        return _between(self.sent_at, self.first_at)

    @property
    def per_output_token(self) -> float | None:
        """TPOT: mean seconds between two tokens of the answer; None for fewer than two."""
        rest, shown = _between(self.first_at, self.done_at), self.shown_tokens
        return rest / (shown - 1) if rest is not None and shown > 1 else None

    @property
    def shown_tokens(self) -> int:
        """The output tokens that the server sent."""
        return self.output_tokens - self.hidden_tokens

    @property
    def late(self) -> float:
        """Seconds between the scheduled time and the call: what this process was late."""
        return self.asked_at - self.due_at

    @property
    def queued(self) -> float | None:
        """Seconds in our client: from the call to sending the answered attempt, including refused attempts."""
        return _between(self.asked_at, self.sent_at)

    @property
    def from_due(self) -> float | None:
        """Seconds from the scheduled time to the end of the answer: what a user of the service waits."""
        return _between(self.due_at, self.done_at)

    def share_within(self, start: float, end: float) -> float:
        """The share of its answer, 0 to 1, that arrived after `start` and until `end`.

        A stream is taken to arrive evenly from its first token to its end, and an unstreamed answer all
        at once. The time before the first token does not count: on a busy server it is mostly queueing.
        """
        if self.done_at is None:
            return 0.0
        first_at = self.done_at if self.first_at is None else self.first_at
        if first_at >= self.done_at:
            return float(start < self.done_at <= end)
        return _overlap(first_at, self.done_at, start, end) / (self.done_at - first_at)

    def seconds_within(self, start: float, end: float) -> float:
        """Seconds it was with the server between these instants. A call that never ended counts until `end`."""
        if self.sent_at is None:
            return 0.0
        return _overlap(self.sent_at, end if self.done_at is None else self.done_at, start, end)


def _overlap(since: float, until: float, start: float, end: float) -> float:
    return max(0.0, min(until, end) - max(since, start))


def _between(since: float | None, until: float | None) -> float | None:
    return None if since is None or until is None else until - since


# The call that the running task is making.
CURRENT: Final[ContextVar[TimedCall | None]] = ContextVar("throttled_openai_bench_call", default=None)


async def _attempt_sent(_request: Any) -> None:
    call = CURRENT.get()
    if call is None:
        return
    call.sent_at = asyncio.get_running_loop().time()
    call.attempts += 1
    if call.on_sent is not None and call.attempts == 1:
        call.on_sent()


def hooks() -> dict[str, list[Any]]:
    """Event hooks for the HTTP client. They run after an attempt is admitted and before it needs a connection."""
    return {"request": [_attempt_sent]}
