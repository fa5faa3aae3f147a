"""The sweep: which concurrency to measure next, and which to recommend. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .figures import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .figures import Figures

# The least share of the best throughput that is recommended, and the least growth that makes a doubling worthwhile.
ENOUGH: Final = 0.95
GROWTH: Final = 1.07
# If doubling the concurrency doubles the latency, the added calls only queue.
_QUEUEING: Final = 2.0
# The most failed and unfinished calls and refused attempts, as a share of calls, that a recommendation may have.
_TROUBLE: Final = 0.01
# Two concurrencies with at most this ratio are not divided further.
_CLOSE: Final = 1.25


@dataclass(frozen=True, slots=True)
class Goals:
    """The highest acceptable 99th percentiles, in seconds. None: no goal."""

    first_token: float | None = None
    latency: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.first_token is not None:
            parts.append(f"p99 of the first token at most {self.first_token:g} s")
        if self.latency is not None:
            parts.append(f"p99 latency at most {self.latency:g} s")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Point:
    """The results at one concurrency. Durations are seconds; throughput is calls per second."""

    concurrency: int
    throughput: float
    latency_p50: float
    latency_p99: float
    first_token_p99: float | None = None
    trouble: float = 0.0
    """Failed and unfinished calls, and refused attempts, as a share of calls."""

    @classmethod
    def of(cls, concurrency: int, figures: Figures) -> Point | None:
        """None if no call was answered."""
        if figures.latency is None:
            return None
        return cls(
            concurrency,
            figures.calls_per_second,
            figures.latency.p50,
            figures.latency.p99,
            None if figures.first_token is None else figures.first_token.p99,
            figures.trouble,
        )

    def meets(self, goals: Goals) -> bool:
        if goals.latency is not None and self.latency_p99 > goals.latency:
            return False
        return goals.first_token is None or self.first_token_p99 is None or self.first_token_p99 <= goals.first_token

    def good(self, goals: Goals) -> bool:
        """True if it may be recommended."""
        return self.trouble <= _TROUBLE and self.meets(goals)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`point` is recommended; `best` is the fastest of those that meet the goals without trouble."""

    point: Point
    best: Point
    goals: Goals

    @property
    def share(self) -> float:
        return self.point.throughput / self.best.throughput if self.best.throughput else 1.0

    def __str__(self) -> str:
        point = self.point
        within = " within the goals" if str(self.goals) else ""
        fast = f"the most that was reached{within}"
        if point is not self.best:
            best = f"{number(self.best.throughput)} with {self.best.concurrency:,} in flight"
            fast = f"{self.share:.0%} of the most{within} ({best})"
        first = "" if point.first_token_p99 is None else f", {point.first_token_p99:.2f} s to the first token"
        met = f" (goal: {self.goals})" if str(self.goals) else ""
        return (
            f"{point.concurrency:,} in flight: {number(point.throughput)} calls/s, {fast}, with a p99 latency of "
            f"{point.latency_p99:.2f} s{first}{met}."
        )


def recommend(points: Sequence[Point], goals: Goals) -> Recommendation | None:
    """The lowest concurrency with nearly the best throughput among those that meet the goals without trouble."""
    good = [point for point in points if point.good(goals)]
    if not good:
        return None
    best = max(good, key=lambda point: point.throughput)
    enough = [point for point in good if point.throughput >= ENOUGH * best.throughput]
    return Recommendation(min(enough, key=lambda point: point.concurrency), best, goals)


def following(points: Sequence[Point], goals: Goals, most: int) -> int | None:
    """The concurrency to measure next, up to `most`; None: enough is known.

    It doubles until throughput stops growing, then bisects around the recommended concurrency.
    """
    if not points:
        return 1
    by_concurrency = sorted(points, key=lambda point: point.concurrency)
    top = by_concurrency[-1]
    below = by_concurrency[-2] if len(points) > 1 else None
    if points[-1] is top and top.concurrency < most and _pays(top, below, goals):
        return min(most, 2 * top.concurrency)
    found = recommend(points, goals)
    if found is None:
        return None
    place = by_concurrency.index(found.point)
    lower = by_concurrency[place - 1] if place else None
    upper = by_concurrency[place + 1] if place + 1 < len(by_concurrency) else None
    if lower is not None and _apart(lower, found.point):
        return (lower.concurrency + found.point.concurrency) // 2
    # The next one breaks the goals: find where between the two that begins.
    if upper is not None and not upper.good(goals) and _apart(found.point, upper):
        return (found.point.concurrency + upper.concurrency) // 2
    return None


def _pays(point: Point, below: Point | None, goals: Goals) -> bool:
    """True if doubling the concurrency is worth a try."""
    if not point.good(goals):
        return False
    return below is None or (
        point.throughput >= GROWTH * below.throughput and point.latency_p50 < _QUEUEING * below.latency_p50
    )


def _apart(lower: Point, upper: Point) -> bool:
    return upper.concurrency > _CLOSE * lower.concurrency and upper.concurrency - lower.concurrency > 1
