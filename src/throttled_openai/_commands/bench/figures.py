"""The figures: percentiles, rates and time bins from the times of many calls. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .call import Counted, TimedCall

# Time bins, all equally wide: at least this many seconds each if there are several, and at most this many bins.
_BIN_SECONDS = 1.0
_MOST_BINS = 60


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `ordered` lies, interpolated linearly as `numpy.percentile` does.

    `ordered` is ascending and not empty.
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    # The `min` keeps rounding from leaving the interval.
    return low + min(high - low, (high - low) * (place - below))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of one duration over many calls, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles | None:
        """None if there are no values."""
        ordered = sorted(value for value in values if value is not None)
        if not ordered:
            return None
        middle, late, last = (percentile(ordered, share) for share in (0.5, 0.9, 0.99))
        mean = min(max(math.fsum(ordered) / len(ordered), ordered[0]), ordered[-1])
        return cls(mean, middle, late, last, ordered[-1])


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """The measured time, without warm-up: two instants of the event loop's clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


@dataclass(frozen=True, slots=True)
class TimeBin:
    """The rates in one short interval, which begins `at_seconds` after the step."""

    at_seconds: float
    calls_per_second: float
    output_tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one step.

    `done`, `failed`, `unfinished` and all percentiles are of the calls that were due in the measured
    window. Rates are of the answers that arrived in the window, warm-up calls' included; an answer that
    arrived partly outside of it counts for the part inside.
    """

    seconds: float
    done: int
    failed: dict[str, int]
    """Count by exception class, the most frequent first."""
    unfinished: int
    """Calls abandoned at the end of the step; with them the percentiles would be higher."""
    refused_attempts: int
    calls_per_second: float
    input_tokens_per_second: float
    output_tokens_per_second: float
    output_tokens_per_second_per_call: float | None
    """One over the median time per output token: the speed of one answer."""
    mean_in_flight: float
    """The mean number of calls with the server at the same time."""
    mean_prompt_tokens: float | None
    mean_output_tokens: float | None
    output_tokens_counted_by: Literal["usage", "chunks", "both"] | None
    """`usage`: as the server reports. `chunks`: chunks of the stream, each of which may be several tokens."""
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


def figures(calls: Sequence[TimedCall], window: MeasuredWindow, *, refused_attempts: int = 0) -> Figures:
    """The figures of `calls`, warm-up included, in `window`."""
    counted = [call for call in calls if window.start <= call.due_at < window.end]
    done = [call for call in counted if call.answered]
    failed = Counter(call.failure for call in counted if call.failure is not None)
    seconds = window.seconds
    arrived = [(call, call.share_within(window.start, window.end)) for call in calls if call.answered]
    sources: set[Counted] = {call.counted for call in done if call.counted is not None}
    per_token = Percentiles.of(call.per_output_token for call in done)
    return Figures(
        seconds=seconds,
        done=len(done),
        failed=dict(failed.most_common()),
        unfinished=sum(not call.ended for call in counted),
        refused_attempts=refused_attempts,
        calls_per_second=_per(math.fsum(part for _, part in arrived), seconds),
        input_tokens_per_second=_per(math.fsum(part * call.prompt_tokens for call, part in arrived), seconds),
        output_tokens_per_second=_per(math.fsum(part * call.output_tokens for call, part in arrived), seconds),
        output_tokens_per_second_per_call=1 / per_token.p50 if per_token is not None and per_token.p50 > 0 else None,
        mean_in_flight=_per(math.fsum(call.seconds_within(window.start, window.end) for call in calls), seconds),
        mean_prompt_tokens=_mean(call.prompt_tokens for call in done if call.counted is not None),
        mean_output_tokens=_mean(call.output_tokens for call in done if call.counted is not None),
        output_tokens_counted_by="both" if len(sources) > 1 else sources.pop() if sources else None,
        first_token=Percentiles.of(call.to_first_token for call in done),
        per_output_token=per_token,
        latency=Percentiles.of(call.latency for call in done),
        latency_from_due=Percentiles.of(call.from_due for call in done),
        queued=Percentiles.of(call.queued for call in done),
    )


def timeline(calls: Iterable[TimedCall], start: float, end: float) -> list[TimeBin]:
    """The rates over time; each answer counts in every bin for the part that arrived in it."""
    if end <= start:
        return []
    count = min(_MOST_BINS, max(1, int((end - start) / _BIN_SECONDS + 1e-9)))
    width = (end - start) / count
    done, tokens = [0.0] * count, [0.0] * count
    for call in calls:
        if not call.answered or call.done_at is None:
            continue
        since = call.done_at if call.first_at is None else call.first_at
        # One bin earlier too: what arrives exactly between two bins belongs to the earlier one.
        first = max(0, math.floor((since - start) / width) - 1)
        last = min(count - 1, math.floor((call.done_at - start) / width))
        for place in range(first, last + 1):
            part = call.share_within(start + place * width, start + (place + 1) * width)
            done[place] += part
            tokens[place] += part * call.output_tokens
    return [TimeBin(place * width, done[place] / width, tokens[place] / width) for place in range(count)]


def _per(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    several = list(values)
    return math.fsum(several) / len(several) if several else None


def number(value: float) -> str:
    """For people: about three digits, with thousands separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
