"""The report: what was asked for and what was measured, as JSON and as a table."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import openai

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from throttled_openai._core.stats import WindowStats

    from ._figures import Figures, Moment, Percentiles
    from ._load import Load
    from ._step import Step
    from ._sweep import Recommendation

# Seconds. A loop that is later than this has a part in the latencies.
LATE: Final = 0.05
# Calls that fit into the time that counts one after the other, and no fewer: what is cut at its edges is little then.
_LONG: Final = 3


def _versions() -> dict[str, str]:
    """Whose measurement it is."""
    try:
        ours = version("throttled-openai")
    except PackageNotFoundError:  # run from a checkout
        ours = "(not installed)"
    return {"throttled-openai": ours, "openai": openai.__version__, "python": platform.python_version()}


@dataclass(frozen=True, slots=True)
class Part:
    """One step as it was when the report was made. `began_at`: seconds after the first step."""

    load: Load
    figures: Figures
    moments: Sequence[Moment]
    limits: Sequence[WindowStats]
    concurrency_limit: int | None
    late: float
    began_at: float

    @classmethod
    def of(cls, step: Step, first: Step) -> Part:
        return cls(
            step.load,
            step.figures(),
            step.timeline(),
            step.limits,
            step.concurrency_limit,
            step.late,
            step.began_at - first.began_at,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is shown. `settings`: plain values, without prompt text and keys."""

    settings: dict[str, Any]
    parts: Sequence[Part]
    recommendation: Recommendation | None = None
    interrupted: bool = False
    versions: dict[str, str] = field(default_factory=_versions)

    @property
    def swept(self) -> bool:
        return self.settings["sweep"] is not None

    @property
    def code(self) -> str | None:
        """The line of code for what is recommended."""
        if self.recommendation is None:
            return None
        options = [f"max_concurrency={self.recommendation.point.concurrency}"]
        rpm = self.rpm
        if rpm is not None:
            options.append(f"rpm={rpm:.0f}")
        return f"ThrottledAsyncOpenAI({', '.join(options)})"

    @property
    def rpm(self) -> float | None:
        """Requests a minute that the server announced, or we were told; None: no such limit is known."""
        rates = [window.limit for part in self.parts for window in part.limits
                 if window.dimension == "requests" and window.period == 60]  # fmt: skip
        return min(rates, default=None)

    @property
    def title(self) -> str:
        told = self.settings
        return f"{told['model']} at {told['base_url']}"

    @property
    def subtitle(self) -> str:
        told = self.settings
        kind = (
            "embeddings" if told["endpoint"] == "embeddings" else f"chat, {'streamed' if told['stream'] else 'whole'}"
        )
        spoken = [part.figures for part in self.parts if part.figures.mean_prompt_tokens is not None]
        if not spoken:
            return kind
        prompt, answer = spoken[-1].mean_prompt_tokens, spoken[-1].mean_output_tokens
        # Unfaithful where the server does not say: no usage, no prompt tokens.
        tokens = [f"{prompt:.0f} tokens of prompt" if prompt else "", f"{answer:.0f} of answer" if answer else ""]
        return ", ".join([kind, *filter(None, tokens)])

    @property
    def notes(self) -> list[str]:
        """What the numbers leave out, and what may be wrong with them."""
        return list(_notes(self))

    def as_json(self) -> str:
        """One object: settings, versions, a list of steps, the recommendation. Units are in the names."""
        found = self.recommendation
        whole = {
            "settings": self.settings,
            "versions": self.versions,
            "interrupted": self.interrupted,
            "steps": [_step(part) for part in self.parts],
            "recommendation": None
            if found is None
            else {"max_concurrency": found.point.concurrency, "rpm": self.rpm, "code": self.code, "reason": str(found)},
            "notes": self.notes,
        }
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"

    def as_text(self) -> str:
        """For a terminal."""
        lines = [
            self.title,
            self.subtitle,
            "",
            *(_sweep_table(self.parts) if self.swept else _single(self.parts[0])),
        ]
        lines += ["", *_limits(self.parts)]
        if self.swept:
            lines += ["", *self.conclusion]
        notes = self.notes
        return "\n".join([*lines, *([""] if notes else []), *notes])

    @property
    def conclusion(self) -> list[str]:
        """What follows from a sweep: a sentence, and a line of code."""
        if self.recommendation is not None:
            return [str(self.recommendation), f"In your code: {self.code}"]
        goals = self.settings["goals"]
        if self.interrupted:
            return ["Interrupted before there was anything to recommend."]
        if not any(part.figures.done for part in self.parts):
            return ["No call that began in the time that counts was answered, so there is nothing to recommend."]
        why = f" ({goals})" if goals else ""
        return [
            f"Nothing to recommend: every step missed the goals{why}, or more than 1% of its calls were in trouble."
        ]


def _step(part: Part) -> dict[str, Any]:
    load, found = part.load, part.figures
    return {
        "load": {
            "rate_calls_per_second": load.rate,
            "concurrency": load.concurrency,
            "calls": load.calls,
            "duration_seconds": load.duration,
            "warm_up_seconds": load.warm_up,
            "warm_up_calls": load.warm_up_calls,
            "began_at_seconds": part.began_at,
        },
        "seconds": found.seconds,
        "done": found.done,
        "failed": found.failed,
        "unfinished": found.unfinished,
        "refused_attempts": found.refused_attempts,
        "calls_per_second": found.calls_per_second,
        "input_tokens_per_second": found.input_tokens_per_second,
        "output_tokens_per_second": found.output_tokens_per_second,
        "output_tokens_per_second_per_call": found.output_tokens_per_second_per_call,
        "output_tokens_counted_by": found.output_tokens_counted_by,
        "mean_in_flight": found.mean_in_flight,
        "mean_prompt_tokens": found.mean_prompt_tokens,
        "mean_output_tokens": found.mean_output_tokens,
        "time_to_first_token_seconds": _seconds(found.first_token),
        "time_per_output_token_seconds": _seconds(found.per_output_token),
        "latency_seconds": _seconds(found.latency),
        "latency_from_due_seconds": _seconds(found.latency_from_due) if load.rate is not None else None,
        "queue_wait_seconds": _seconds(found.queued),
        "limits": [
            {
                "dimension": window.dimension,
                "limit": window.limit,
                "period_seconds": window.period,
                "announced": window.announced,
            }
            for window in part.limits
        ],
        "concurrency_limit": part.concurrency_limit,
        "event_loop_late_p99_seconds": part.late,
        "timeline": [asdict(moment) for moment in part.moments],
    }


def _seconds(percentiles: Percentiles | None) -> dict[str, float] | None:
    return None if percentiles is None else asdict(percentiles)


# The tables


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned: the first column to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))]).rstrip()
        for name, *cells in rows
    ]


# Columns of `sweep_rows`, and what stands above so many of them.
COLUMNS: Final = (
    "in flight", "done", "failed", "refused", "calls/s", "tokens/s", "each", "p50", "p99", "p50", "p90", "p99",
)  # fmt: skip
GROUPS: Final = (("", 7), ("first token, s", 2), ("latency, s", 3))
_SECONDS_WIDTH: Final = 6


def sweep_rows(parts: Iterable[Part]) -> list[tuple[str, ...]]:
    """One row of cells for each step; seconds have no unit."""
    return [_sweep_row(part) for part in sorted(parts, key=lambda part: part.load.concurrency or 0)]


def _sweep_row(part: Part) -> tuple[str, ...]:
    found = part.figures
    return (
        f"{part.load.concurrency:,}",
        f"{found.done:,}",
        f"{found.failures:,}",
        f"{found.refused_attempts:,}",
        number(found.calls_per_second),
        number(found.output_tokens_per_second or found.input_tokens_per_second),
        _rounded(found.output_tokens_per_second_per_call),
        *(_short(found.first_token, name) for name in ("p50", "p99")),
        *(_short(found.latency, name) for name in ("p50", "p90", "p99")),
    )


def _sweep_table(parts: Iterable[Part]) -> list[str]:
    rows = table([COLUMNS, *sweep_rows(parts)])
    above, end = "", len(rows[0])
    for name, count in reversed(GROUPS[1:]):
        above = name.rjust(count * _SECONDS_WIDTH + 2 * (count - 1)) + above
        above = "  " + above
    return [above.rjust(end), *rows]


def figure_rows(part: Part) -> list[tuple[str, str]]:
    """Names and values of what is one number."""
    found = part.figures
    lost = "".join(f"; {count:,} {name}" for name, count in found.failed.items())
    rows = [
        ("calls", f"{found.done:,} done, {found.failures:,} failed, {found.unfinished:,} unfinished{lost}"),
        ("refused attempts", f"{found.refused_attempts:,}"),
        ("calls per second", number(found.calls_per_second)),
        ("input tokens per second", number(found.input_tokens_per_second)),
    ]
    if found.mean_output_tokens:
        each = found.output_tokens_per_second_per_call
        speed = "" if each is None else f", {number(each)} in each answer"
        rows.append(("output tokens per second", f"{number(found.output_tokens_per_second)}{speed}"))
    rows.append(("in flight on average", number(found.mean_in_flight)))
    return rows


def duration_rows(part: Part) -> list[tuple[str, ...]]:
    """Names and p50, p90, p99, most of what is a duration; in seconds."""
    found = part.figures
    named = [
        ("time to first token", found.first_token),
        ("time per output token", found.per_output_token),
        ("latency", found.latency),
        *([("latency from when due", found.latency_from_due)] if part.load.rate is not None else []),
        ("wait in our queue before", found.queued),
    ]
    return [
        (name, *(_short(of, share) for share in ("p50", "p90", "p99", "max"))) for name, of in named if of is not None
    ]


def _single(part: Part) -> list[str]:
    durations = duration_rows(part)
    numbers = figure_rows(part)
    width = max(len(name) for name, *_ in [*numbers, *durations])
    lines = [
        f"{part.load}, {part.figures.seconds:.1f} s",
        "",
        *(f"{name:<{width}}  {value}" for name, value in numbers),
    ]
    if durations:
        lines += ["", *table([("seconds".ljust(width), "p50", "p90", "p99", "max"), *durations])]
    return lines


def _limits(parts: Sequence[Part]) -> list[str]:
    last = parts[-1]
    known = limits_of(parts)
    lines = [f"limits: {known or 'none known'}"]
    if last.load.concurrency is None and last.concurrency_limit is not None:
        lines.append(f"concurrency limit of our client at the end: {last.concurrency_limit:,}")
    return lines


def limits_of(parts: Sequence[Part]) -> str:
    """The rate limits that were known in the end, and from whom."""
    return ", ".join(f"{window} ({'announced' if window.announced else 'given'})" for window in parts[-1].limits)


def _notes(report: Report) -> Iterable[str]:
    parts = report.parts
    if report.interrupted:
        yield "Interrupted: what was measured until then; answers under way are missing."
    for name, count in _failures(parts).items():
        yield f"{count:,} calls failed with {name}."
    unfinished = sum(part.figures.unfinished for part in parts)
    if unfinished:
        yield f"{unfinished:,} calls were not finished: the true percentiles are higher."
    if any(part.figures.output_tokens_counted_by in {"chunks", "both"} for part in parts):
        yield "The server reports no usage with streams: output tokens are chunks, which may be several tokens each."
    chosen = None if report.recommendation is None else report.recommendation.point.concurrency
    if any(part.figures.done < 100 for part in parts if chosen in {None, part.load.concurrency}):
        yield "With fewer than 100 calls p99 is little else than the slowest one: --duration or --calls makes more."
    median, seconds = max(
        ((part.figures.latency.p50, part.figures.seconds) for part in parts if part.figures.latency is not None),
        default=(0.0, math.inf),
    )
    if _LONG * median > seconds:
        yield (
            f"Calls took up to {median:.1f} s (median of a step), much of the {seconds:.1f} s that count: calls and "
            "tokens per second are rough; a longer --duration makes them exact."
        )
    late = max((part.late for part in parts), default=0.0)
    if late > LATE:
        yield (
            f"This process was busy: its event loop was up to {late:.2f} s late (p99), which is in the latencies, and "
            "may have been what held the throughput."
        )


def _failures(parts: Iterable[Part]) -> dict[str, int]:
    together: dict[str, int] = {}
    for part in parts:
        for name, count in part.figures.failed.items():
            together[name] = together.get(name, 0) + count
    return together


def _short(percentiles: Percentiles | None, name: str) -> str:
    return "-".rjust(_SECONDS_WIDTH) if percentiles is None else _digits(getattr(percentiles, name))


def _digits(seconds: float) -> str:
    """0.0123, 0.123, 1.234, 12.3: enough digits to compare, and wide enough for a heading."""
    digits = f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"
    return digits.rjust(_SECONDS_WIDTH)


def _rounded(value: float | None) -> str:
    return "-" if value is None else number(value)


def number(value: float) -> str:
    """For people: three digits or so, and thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
