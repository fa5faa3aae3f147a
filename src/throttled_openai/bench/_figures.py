"""Figures: what the times of many calls come to. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._call import Call, Counted

# Bars of a chart over time, all equally wide: seconds at least where there are several, and no more than this many.
_BIN = 1.0
_MOST_BINS = 60


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `ordered` lies, between two neighbours in proportion.

    `ordered` is ascending and not empty. The same as `numpy.percentile`.
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    # Of what they are apart, so that it never leaves them by rounding.
    return low + min(high - low, (high - low) * (place - below))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one duration over many calls, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles | None:
        """None where there is no value."""
        ordered = sorted(value for value in values if value is not None)
        if not ordered:
            return None
        middle, late, last = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
        mean = min(max(math.fsum(ordered) / len(ordered), ordered[0]), ordered[-1])
        return cls(mean, middle, late, last, ordered[-1])


@dataclass(frozen=True, slots=True)
class Window:
    """The time that counts: instants of the event loop's clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


@dataclass(frozen=True, slots=True)
class Moment:
    """What came from a server in a short while that begins `at_seconds` after the step."""

    at_seconds: float
    calls_per_second: float
    output_tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured in one step.

    Calls that were due in the window count: `done`, `failed`, `unfinished`, and all percentiles.
    Rates are of what came in the window, whosever calls it answered: an answer that came partly
    outside of it counts for the part inside.
    """

    seconds: float
    done: int
    failed: dict[str, int]
    """By class of exception, the most frequent first."""
    unfinished: int
    """Calls given up at the end; had they ended, the percentiles would be higher."""
    refused_attempts: int
    calls_per_second: float
    input_tokens_per_second: float
    output_tokens_per_second: float
    output_tokens_per_second_per_call: float | None
    """One over the median time per output token: how fast one answer comes."""
    mean_in_flight: float
    """Calls with the server at a time, on average."""
    mean_prompt_tokens: float | None
    mean_output_tokens: float | None
    output_tokens_counted_by: Literal["usage", "chunks", "both"] | None
    """The server's words; or the chunks of its stream, where it has none, which may be several tokens each."""
    first_token: Percentiles | None
    per_output_token: Percentiles | None
    latency: Percentiles | None
    latency_from_due: Percentiles | None
    queued: Percentiles | None

    @property
    def counted(self) -> int:
        return self.done + self.failures + self.unfinished

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    @property
    def trouble(self) -> float:
        """Failed and unfinished calls, and refused attempts, as a share of calls."""
        return (self.failures + self.unfinished + self.refused_attempts) / max(1, self.counted)


def figures(calls: Sequence[Call], window: Window, *, refused_attempts: int = 0) -> Figures:
    """What `calls`, warm-up included, come to in `window`."""
    counted = [call for call in calls if window.start <= call.due_at < window.end]
    done = [call for call in counted if call.answered]
    failed = Counter(call.failure for call in counted if call.failure is not None)
    seconds = window.seconds
    came = [(call, call.came_within(window.start, window.end)) for call in calls if call.answered]
    spoken: set[Counted] = {call.counted for call in done if call.counted is not None}
    per_token = Percentiles.of(call.per_output_token for call in done)
    return Figures(
        seconds=seconds,
        done=len(done),
        failed=dict(failed.most_common()),
        unfinished=sum(not call.ended for call in counted),
        refused_attempts=refused_attempts,
        calls_per_second=_per(math.fsum(part for _, part in came), seconds),
        input_tokens_per_second=_per(math.fsum(part * call.prompt_tokens for call, part in came), seconds),
        output_tokens_per_second=_per(math.fsum(part * call.output_tokens for call, part in came), seconds),
        output_tokens_per_second_per_call=1 / per_token.p50 if per_token is not None and per_token.p50 > 0 else None,
        mean_in_flight=_per(math.fsum(call.seconds_within(window.start, window.end) for call in calls), seconds),
        mean_prompt_tokens=_mean(call.prompt_tokens for call in done if call.counted is not None),
        mean_output_tokens=_mean(call.output_tokens for call in done if call.counted is not None),
        output_tokens_counted_by="both" if len(spoken) > 1 else spoken.pop() if spoken else None,
        first_token=Percentiles.of(call.to_first_token for call in done),
        per_output_token=per_token,
        latency=Percentiles.of(call.latency for call in done),
        latency_from_due=Percentiles.of(call.from_due for call in done),
        queued=Percentiles.of(call.queued for call in done),
    )


def timeline(calls: Iterable[Call], start: float, end: float) -> list[Moment]:
    """What came from the server from moment to moment; each answer counts for its part in each."""
    if end <= start:
        return []
    count = min(_MOST_BINS, max(1, int((end - start) / _BIN + 1e-9)))
    width = (end - start) / count
    done, tokens = [0.0] * count, [0.0] * count
    for call in calls:
        if not call.answered or call.done_at is None:
            continue
        since = call.done_at if call.first_at is None else call.first_at
        # From the moment before on: what comes between two belongs to the earlier one.
        first = max(0, math.floor((since - start) / width) - 1)
        last = min(count - 1, math.floor((call.done_at - start) / width))
        for place in range(first, last + 1):
            part = call.came_within(start + place * width, start + (place + 1) * width)
            done[place] += part
            tokens[place] += part * call.output_tokens
    return [Moment(place * width, done[place] / width, tokens[place] / width) for place in range(count)]


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    several = list(values)
    return math.fsum(several) / len(several) if several else None
