"""The tally of a run: its counts so far, and samples over time, in bounded memory.

It only counts; `_status` interprets the numbers.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from throttled_openai._protocol.usage import Usage
    from throttled_openai._stats import BudgetStats, Stats

# Samples kept. When there are twice as many, each two are merged into one for twice the time.
_MOST_SAMPLES: Final = 480
# Seconds over which the current rate is measured.
_NOW: Final = 15.0
# Bounds of the histograms, in seconds: from a millisecond to a day, each 8 % above the one before.
_BOUNDS: Final = [0.001 * 1.08**step for step in range(240)]


class Histogram:
    """A histogram of durations, accurate to 8 %."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.count = 0
        self.most = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(_BOUNDS, seconds)] += 1
        self.count += 1
        self.most = max(self.most, seconds)

    def quantile(self, share: float) -> float:
        """The duration below which `share` of the values lie; 0 if there are none."""
        rest = share * self.count
        for bound, count in zip([*_BOUNDS, self.most], self._counts, strict=True):
            rest -= count
            if count and rest <= 0:
                return min(bound, self.most)
        return self.most


@dataclass(slots=True)
class Sample:
    """An interval of the run. `at`: its middle, in seconds from the start. Rates are per second.

    `limit`: calls per second that the known limits allow. `room`: calls that may be in flight.
    """

    at: float
    seconds: float
    done: float
    tokens: float
    refused: float
    in_flight: float
    room: float
    waiting: float
    latency: float | None
    waited: float | None
    limit: float | None


class Now(NamedTuple):
    """The current rates, for a line of progress."""

    calls_per_minute: float
    tokens_per_minute: float


@dataclass(slots=True)
class Tally:
    """The counts of a run. `total`: records of the input; None if not known. `blank`: records without a request.

    `before`: requests finished by earlier runs, `failed_before` of them without success.
    """

    total: int | None = None
    before: int = 0
    failed_before: int = 0
    blank: int = 0
    done: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    unpriced: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    waiting: Histogram = field(default_factory=Histogram)
    samples: list[Sample] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _width: int = 1
    _group: list[Sample] = field(default_factory=list)
    _last: tuple[float, int, int, int] = (0.0, 0, 0, 0)
    _latencies: list[float] = field(default_factory=lambda: [0, 0.0, 0.0])
    _recent: deque[tuple[float, int, int]] = field(default_factory=lambda: deque([(0.0, 0, 0)]))

    @property
    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.began

    @property
    def ok(self) -> int:
        return self.done - self.failed

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def left(self) -> int | None:
        """Records not done yet; None if not known."""
        return None if self.total is None else max(0, self.total - self.before - self.blank - self.done)

    def counts(self) -> dict[str, Any]:
        """The figures that a status and a summary share, by the names of their fields."""
        names = "total", "before", "done", "failed", "seconds", "input_tokens", "output_tokens"
        return {name: getattr(self, name) for name in names}

    def failure(self, what: str) -> None:
        self.failed += 1
        self.done += 1
        if what in self.errors or len(self.errors) < 100:
            self.errors[what] += 1

    def success(self) -> None:
        self.done += 1

    def answered(self, took: float, waited: float, usage: Usage | None) -> None:
        """Count an answer of any status."""
        self.latency.add(took)
        self.waiting.add(waited)
        sums = self._latencies
        sums[0] += 1
        sums[1] += took
        sums[2] += waited
        if usage is not None:
            self.input_tokens += usage.input
            self.output_tokens += usage.output

    def now(self) -> Now:
        """The rates over the last seconds."""
        at, done, tokens = self._recent[0]
        seconds = max(self.seconds - at, 0.001)
        return Now(60 * (self.done - done) / seconds, 60 * (self.tokens - tokens) / seconds)

    def sample(self, stats: Stats) -> None:
        """Take a sample; called about once a second."""
        now = self.seconds
        at, done, tokens, refused = self._last
        seconds = now - at
        if seconds <= 0:
            return
        count, took, waited = self._latencies
        self._latencies = [0, 0.0, 0.0]
        self._last = now, self.done, self.tokens, stats.refused
        self._recent.append((now, self.done, self.tokens))
        while len(self._recent) > 2 and self._recent[1][0] <= now - _NOW:
            self._recent.popleft()
        self._group.append(
            Sample(
                at=at + seconds / 2,
                seconds=seconds,
                done=(self.done - done) / seconds,
                tokens=(self.tokens - tokens) / seconds,
                refused=(stats.refused - refused) / seconds,
                in_flight=stats.in_flight,
                room=sum(budget.concurrency_limit for budget in stats.budgets),
                waiting=stats.waiting,
                latency=took / count if count else None,
                waited=waited / count if count else None,
                limit=limit_of(stats.budgets),
            )
        )
        if len(self._group) == self._width:
            self.samples.append(_merged(self._group))
            self._group = []
        if len(self.samples) >= 2 * _MOST_SAMPLES:
            pairs = zip(self.samples[::2], self.samples[1::2], strict=False)
            self.samples = [_merged(list(pair)) for pair in pairs]
            self._width *= 2

    def all_samples(self) -> list[Sample]:
        """All samples, including those not merged yet."""
        return [*self.samples, _merged(self._group)] if self._group else list(self.samples)


def limit_of(budgets: tuple[BudgetStats, ...]) -> float | None:
    """Calls per second that the limits of all models in use allow together; None if one has no known limit."""
    rates = [rate_of(budget) for budget in budgets if budget.admitted or budget.waiting]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known and len(known) == len(rates) else None


def rate_of(budget: BudgetStats) -> float | None:
    """Calls per second that the limits of one budget allow; None if it has no known limit."""
    rates = []
    for window in budget.windows:
        per_call = 1.0 if window.dimension == "requests" else budget.tokens_per_call
        if per_call > 0:
            rates.append(window.limit / window.period / per_call)
    return min(rates, default=None)


def _merged(samples: list[Sample]) -> Sample:
    """One sample for several consecutive ones."""
    if len(samples) == 1:
        return samples[0]
    whole = sum(each.seconds for each in samples)

    def mean(name: str) -> float | None:
        known = [(getattr(each, name), each.seconds) for each in samples if getattr(each, name) is not None]
        return sum(value * seconds for value, seconds in known) / sum(s for _, s in known) if known else None

    names = "done", "tokens", "refused", "in_flight", "room", "waiting"
    begins = samples[0].at - samples[0].seconds / 2
    return Sample(
        at=begins + whole / 2,
        seconds=whole,
        latency=mean("latency"),
        waited=mean("waited"),
        limit=mean("limit"),
        **{name: mean(name) or 0.0 for name in names},
    )
