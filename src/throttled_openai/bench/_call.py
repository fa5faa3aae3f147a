"""One call's times, and the hooks of the HTTP client that take them."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

# Who said how many tokens an answer has: the server, or we who counted the chunks of its stream.
Counted = Literal["usage", "chunks"]


@dataclass(slots=True, eq=False)
class Call:
    """One call. Instants are seconds of the event loop's clock; None: that did not happen.

    `due_at`: when it was to be made; `asked_at`: when our client was asked for it. They differ where
    this process was late. `sent_at`: when the attempt that was answered left, or else the last one.
    """

    due_at: float
    asked_at: float
    sent_at: float | None = None
    first_at: float | None = None
    """The first chunk with a part of the answer in it, reasoning and tool calls included."""
    done_at: float | None = None
    """The end of the answer: its last byte has come."""
    attempts: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    hidden_tokens: int = 0
    """Of these, the reasoning that the server keeps to itself: it comes before the first chunk."""
    counted: Counted | None = None
    failure: str | None = None
    leaves: Callable[[], None] | None = None
    """Called, once, when the first attempt leaves."""

    @property
    def ended(self) -> bool:
        return self.done_at is not None

    @property
    def answered(self) -> bool:
        return self.done_at is not None and self.failure is None

    @property
    def latency(self) -> float | None:
        """Seconds from the answered attempt's leaving to the end of its answer: the server's, and the network's."""
        return _between(self.sent_at, self.done_at)

    @property
    def to_first_token(self) -> float | None:
        """Seconds from the answered attempt's leaving to the first part of the answer."""
        return _between(self.sent_at, self.first_at)

    @property
    def per_output_token(self) -> float | None:
        """Seconds between two tokens, on average over the answer; None for fewer than two."""
        rest, shown = _between(self.first_at, self.done_at), self.output_tokens - self.hidden_tokens
        return rest / (shown - 1) if rest is not None and shown > 1 else None

    @property
    def queued(self) -> float | None:
        """Seconds in our client: from being asked to the answered attempt's leaving, refused ones included."""
        return _between(self.asked_at, self.sent_at)

    @property
    def from_due(self) -> float | None:
        """Seconds from when it was due to the end of its answer: what a user of the service waits."""
        return _between(self.due_at, self.done_at)

    def came_within(self, start: float, end: float) -> float:
        """What part of its answer came after `start` and until `end`, 0 to 1.

        A stream comes evenly from its first token to its end, a whole answer all at once. What passed
        before is no progress: on a busy server most of it is a place in line.
        """
        if self.done_at is None:
            return 0.0
        first_at = self.done_at if self.first_at is None else self.first_at
        if first_at >= self.done_at:
            return float(start < self.done_at <= end)
        return _overlap(first_at, self.done_at, start, end) / (self.done_at - first_at)

    def seconds_within(self, start: float, end: float) -> float:
        """How long it was with the server between these instants; one that never ended, until the end."""
        if self.sent_at is None:
            return 0.0
        return _overlap(self.sent_at, end if self.done_at is None else self.done_at, start, end)


def _overlap(since: float, until: float, start: float, end: float) -> float:
    return max(0.0, min(until, end) - max(since, start))


def _between(since: float | None, until: float | None) -> float | None:
    return None if since is None or until is None else until - since


# The call that the running task makes.
CURRENT: Final[ContextVar[Call | None]] = ContextVar("throttled_openai_bench_call", default=None)


async def _attempt_leaves(_request: Any) -> None:
    call = CURRENT.get()
    if call is None:
        return
    call.sent_at = asyncio.get_running_loop().time()
    call.attempts += 1
    if call.leaves is not None and call.attempts == 1:
        call.leaves()


def hooks() -> dict[str, list[Any]]:
    """Event hooks for the HTTP client: they run when an attempt was admitted, and before it needs a connection."""
    return {"request": [_attempt_leaves]}
