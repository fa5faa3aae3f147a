"""The figures: percentiles, rates and time bins from the times of many calls. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .bounds import Bounds
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
    """One duration over many calls, in seconds. `ordered`: all values, ascending, at least one."""

    ordered: tuple[float, ...]

    def at(self, percent: float) -> float:
        return percentile(self.ordered, percent / 100)

    @property
    def p50(self) -> float:
        return self.at(50)

    @property
    def p90(self) -> float:
        return self.at(90)

    @property
    def p99(self) -> float:
        return self.at(99)

    @property
    def max(self) -> float:
        return self.ordered[-1]

    @property
    def mean(self) -> float:
        # Rounding may not leave the interval.
        return min(max(math.fsum(self.ordered) / len(self.ordered), self.ordered[0]), self.ordered[-1])

    @property
    def deviation(self) -> float:
        """The standard deviation of these values, as `numpy.std` has it."""
        return statistics.pstdev(self.ordered)

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles | None:
        """None if there are no values."""
        ordered = tuple(sorted(value for value in values if value is not None))
        return cls(ordered) if ordered else None


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
    between_chunks: Percentiles | None
    """Of all gaps of all answers, so that long answers weigh more."""
    latency: Percentiles | None
    latency_from_due: Percentiles | None
    queued: Percentiles | None
    late: Percentiles | None
    """How late this process made the calls."""
    good: int | None = None
    """Calls that were answered within the bounds of `--goodput`; None: there are no bounds."""

    @property
    def counted(self) -> int:
        return self.done + self.failures + self.unfinished

    @property
    def failures(self) -> int:
        return sum(self.failed.values())

    @property
    def goodput(self) -> float | None:
        """Good calls per second."""
        return None if self.good is None else _per(self.good, self.seconds)

    @property
    def good_share(self) -> float | None:
        """Good calls as a share of all: failed and unfinished calls count against it."""
        return None if self.good is None else self.good / max(1, self.counted)

    @property
    def trouble(self) -> float:
        """Failed and unfinished calls, and refused attempts, as a share of calls."""
        return (self.failures + self.unfinished + self.refused_attempts) / max(1, self.counted)


def calls_in(calls: Iterable[TimedCall], window: MeasuredWindow) -> list[TimedCall]:
    """The calls that were due in the window: those that count."""
    return [call for call in calls if window.start <= call.due_at < window.end]


def figures(
    calls: Sequence[TimedCall], window: MeasuredWindow, bounds: Bounds | None = None, *, refused_attempts: int = 0
) -> Figures:
    """The figures of `calls`, warm-up included, in `window`. `bounds`: those of good calls."""
    counted = calls_in(calls, window)
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
        between_chunks=Percentiles.of(gap for call in done for gap in call.gaps),
        latency=Percentiles.of(call.latency for call in done),
        latency_from_due=Percentiles.of(call.from_due for call in done),
        queued=Percentiles.of(call.queued for call in done),
        late=Percentiles.of(call.late for call in counted),
        good=None if bounds is None else sum(map(bounds.hold, done)),
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
