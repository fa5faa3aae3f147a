"""The results: how each client did, as a table, footnotes and a conclusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from throttled_openai._commands.terminal import aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contender import Contender

# The burst of the simulated account, in seconds of its limit: OpenAI documents that 60,000 requests per minute may be
# enforced as 1,000 per second.
BURST: Final = 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """How one contender did. `refused`: responses with status 429. `ideal`: seconds; None: not known."""

    contender: Contender
    calls: int
    done: int
    refused: int
    seconds: float
    ideal: float | None = None
    failures: tuple[tuple[str, int], ...] = ()
    """Exception classes and how many calls ended with each, the most frequent first."""

    @property
    def failed(self) -> int:
        return sum(count for _, count in self.failures)

    @property
    def unfinished(self) -> int:
        return self.calls - self.done - self.failed

    @property
    def share(self) -> float | None:
        """Ideal time / time. None if calls are missing: a client that gives up is done early."""
        if self.ideal is None or self.done < self.calls or not self.seconds:
            return None
        return self.ideal / self.seconds


def ideal(calls: int, rate: float, latency: float) -> float:
    """The least seconds that `calls` need at `rate` per second, after a burst of `BURST` seconds.

    `latency` is the server's latency of the last answer. A run can be slightly faster if that call was not
    the last one sent, and much faster on an account that allows a larger burst.
    """
    return max(0.0, calls - BURST * rate) / rate + latency


def table(results: Sequence[Result]) -> str:
    rows = [("", "done", "failed", "429s", "seconds", "of ideal"), *map(_row, results)]
    return "\n".join(aligned(rows))


def _row(result: Result) -> tuple[str, ...]:
    share = "-" if result.share is None else f"{result.share:.0%}"
    counts = (f"{count:,}" for count in (result.done, result.failed, result.refused))
    return result.contender.name, *counts, f"{result.seconds:.1f}", share


def footnotes(results: Sequence[Result]) -> str:
    """What the numbers do not show: lost calls, interrupted runs, the definition of the ideal."""
    notes = []
    for result in results:
        if result.failures:
            (error, count), *_ = result.failures
            notes.append(
                f"-: {result.contender.name} lost {result.failed:,} calls, most often to {error} ({count:,} times)."
            )
        if result.unfinished:
            notes.append(f"-: {result.contender.name} was interrupted; {result.unfinished:,} calls were not finished.")
    shares = [result.share for result in results if result.share is not None]
    if shares:
        notes.append("of ideal: the shortest time the limit allows, a second's worth of it at once, / seconds.")
    if max(shares, default=0.0) > 1.0:
        notes.append("Above 100%: the server let more than a second's worth through at once.")
    return "\n".join(notes)


def conclusion(results: Sequence[Result]) -> str:
    """Two sentences that sum up the table of a complete race."""
    *plain, throttled = results
    first = "; ".join(f"{result.contender.description}, {_outcome(result)}" for result in plain)
    second = f"{throttled.contender.description} got the same calls all at once, and {_outcome(throttled)}"
    if throttled.share is not None and throttled.share <= 1.0:
        second += f": {throttled.share:.0%} of the speed the limit allows"
    return f"{first}.\n{second}."


def _outcome(result: Result) -> str:
    if result.failed:
        return f"{result.failed:,} of {result.calls:,} calls were lost"
    refusals = {0: "without a 429", 1: "with one 429"}.get(result.refused, f"with {result.refused:,} 429s")
    return f"all came through in {result.seconds:.1f} s {refusals}"
