"""The notes of a report: what its numbers leave out, and what may be wrong with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .step_result import StepResult

# Seconds. An event loop that lags more than this distorts the latencies.
LONG_LAG: Final = 0.05
# Calls that must fit into the measured time one after the other; then what is cut off at its edges is little.
_CALLS_IN_TURN: Final = 3


def notes_on(steps: Sequence[StepResult], chosen: int | None, *, interrupted: bool) -> Iterator[str]:
    """`chosen`: the recommended concurrency, if there is one."""
    if interrupted:
        yield "Interrupted: these are the results until then, without answers still under way."
    for name, count in _failures(steps).items():
        yield f"{count:,} calls failed with {name}."
    unfinished = sum(step.figures.unfinished for step in steps)
    if unfinished:
        yield f"{unfinished:,} calls were not finished: the true percentiles are higher."
    if any(step.figures.output_tokens_counted_by in {"chunks", "both"} for step in steps):
        yield "The server reports no usage with streams: output tokens are chunks, each of which may be several tokens."
    if any(step.figures.done < 100 for step in steps if chosen in {None, step.load.concurrency}):
        yield "With fewer than 100 calls, p99 is nearly the slowest call: measure more with --duration or --calls."
    median, seconds = max(
        ((step.figures.latency.p50, step.figures.seconds) for step in steps if step.figures.latency is not None),
        default=(0.0, math.inf),
    )
    if _CALLS_IN_TURN * median > seconds:
        yield (
            f"Calls took up to {median:.1f} s (median of a step), much of the {seconds:.1f} s measured: calls and "
            "tokens per second are rough; a longer --duration makes them exact."
        )
    lag = max((step.loop_lag for step in steps), default=0.0)
    if lag > LONG_LAG:
        yield (
            f"This process was busy: its event loop lagged up to {lag:.2f} s (p99), which is part of the latencies and "
            "may have limited the throughput."
        )


def _failures(steps: Iterable[StepResult]) -> dict[str, int]:
    together: dict[str, int] = {}
    for step in steps:
        for name, count in step.figures.failed.items():
            together[name] = together.get(name, 0) + count
    return together
