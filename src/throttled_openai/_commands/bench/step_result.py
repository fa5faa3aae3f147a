"""The result of one step, as it was when the report was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from throttled_openai._stats import WindowStats

    from .figures import Figures, Percentiles, TimeBin
    from .load import Load
    from .step import Step


@dataclass(frozen=True, slots=True)
class StepResult:
    """`began_at`: seconds after the first step began."""

    load: Load
    figures: Figures
    moments: Sequence[TimeBin]
    limits: Sequence[WindowStats]
    concurrency_limit: int | None
    loop_lag: float
    began_at: float
    percents: Sequence[float] = ()
    """The percentiles that were asked for."""

    @classmethod
    def of(cls, step: Step, first: Step, percents: Sequence[float] = ()) -> StepResult:
        return cls(
            step.load,
            step.figures(),
            step.timeline(),
            step.limits,
            step.concurrency_limit,
            step.loop_lag,
            step.began_at - first.began_at,
            percents,
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values; units are in the names."""
        load, found = self.load, self.figures
        return {
            "load": {
                "rate_calls_per_second": load.rate,
                "concurrency": load.concurrency,
                "calls": load.calls,
                "duration_seconds": load.duration,
                "warm_up_seconds": load.warm_up,
                "warm_up_calls": load.warm_up_calls,
                "began_at_seconds": self.began_at,
            },
            "seconds": found.seconds,
            "done": found.done,
            "failed": found.failed,
            "unfinished": found.unfinished,
            "refused_attempts": found.refused_attempts,
            "goodput_calls_per_second": found.goodput,
            "good_share": found.good_share,
            "calls_per_second": found.calls_per_second,
            "input_tokens_per_second": found.input_tokens_per_second,
            "output_tokens_per_second": found.output_tokens_per_second,
            "output_tokens_per_second_per_call": found.output_tokens_per_second_per_call,
            "output_tokens_counted_by": found.output_tokens_counted_by,
            "mean_in_flight": found.mean_in_flight,
            "mean_prompt_tokens": found.mean_prompt_tokens,
            "mean_output_tokens": found.mean_output_tokens,
            "time_to_first_token_seconds": _seconds(found.first_token, self.percents),
            "time_per_output_token_seconds": _seconds(found.per_output_token, self.percents),
            "inter_token_latency_seconds": _seconds(found.between_chunks, self.percents),
            "latency_seconds": _seconds(found.latency, self.percents),
            "latency_from_due_seconds": _seconds(found.latency_from_due, self.percents)
            if load.rate is not None
            else None,
            "queue_wait_seconds": _seconds(found.queued, self.percents),
            "limits": [
                {
                    "dimension": window.dimension,
                    "limit": window.limit,
                    "period_seconds": window.period,
                    "announced": window.announced,
                }
                for window in self.limits
            ],
            "concurrency_limit": self.concurrency_limit,
            "event_loop_late_p99_seconds": self.loop_lag,
            "timeline": [asdict(moment) for moment in self.moments],
        }


def _seconds(found: Percentiles | None, percents: Sequence[float]) -> dict[str, float] | None:
    if found is None:
        return None
    asked = {f"p{percent:g}": found.at(percent) for percent in sorted({50.0, 90.0, 99.0, *percents})}
    return {"mean": found.mean, **asked, "max": found.max}
