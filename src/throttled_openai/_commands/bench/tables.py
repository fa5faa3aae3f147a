"""The tables of a report, as rows of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai._commands.terminal import aligned

from .figures import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .figures import Percentiles
    from .step_result import StepResult

# The columns of `sweep_rows`, and the headings above groups of columns.
COLUMNS: Final = (
    "in flight", "done", "failed", "refused", "calls/s", "tokens/s", "each", "p50", "p99", "p50", "p90", "p99",
)  # fmt: skip
GROUPS: Final = (("", 7), ("first token, s", 2), ("latency, s", 3))
_SECONDS_WIDTH: Final = 6
# The percentiles that are shown unless others are asked for.
PERCENTS: Final = (50.0, 90.0, 99.0)


def sweep_rows(steps: Iterable[StepResult]) -> list[tuple[str, ...]]:
    """One row of cells for each step; durations are in seconds."""
    return [_sweep_row(step) for step in sorted(steps, key=lambda step: step.load.concurrency or 0)]


def _sweep_row(step: StepResult) -> tuple[str, ...]:
    found = step.figures
    return (
        f"{step.load.concurrency:,}",
        f"{found.done:,}",
        f"{found.failures:,}",
        f"{found.refused_attempts:,}",
        number(found.calls_per_second),
        number(found.output_tokens_per_second or found.input_tokens_per_second),
        _rounded(found.output_tokens_per_second_per_call),
        *(_short(found.first_token, name) for name in ("p50", "p99")),
        *(_short(found.latency, name) for name in ("p50", "p90", "p99")),
    )


def sweep_table(steps: Iterable[StepResult]) -> list[str]:
    rows = aligned([COLUMNS, *sweep_rows(steps)])
    above, end = "", len(rows[0])
    for name, count in reversed(GROUPS[1:]):
        above = name.rjust(count * _SECONDS_WIDTH + 2 * (count - 1)) + above
        above = "  " + above
    return [above.rjust(end), *rows]


def figure_rows(step: StepResult) -> list[tuple[str, str]]:
    """Names and values of the figures that are one number."""
    found = step.figures
    lost = "".join(f"; {count:,} {name}" for name, count in found.failed.items())
    rows = [
        ("calls", f"{found.done:,} done, {found.failures:,} failed, {found.unfinished:,} unfinished{lost}"),
        ("refused attempts", f"{found.refused_attempts:,}"),
        ("calls per second", number(found.calls_per_second)),
        ("input tokens per second", number(found.input_tokens_per_second)),
    ]
    if found.goodput is not None and found.good_share is not None:
        good = f"{number(found.goodput)} calls/s, {found.good_share:.1%} of all calls"
        rows.insert(3, ("goodput", good))
    if found.mean_output_tokens:
        each = found.output_tokens_per_second_per_call
        speed = "" if each is None else f", {number(each)} in each answer"
        rows.append(("output tokens per second", f"{number(found.output_tokens_per_second)}{speed}"))
    rows.append(("in flight on average", number(found.mean_in_flight)))
    return rows


def duration_rows(step: StepResult) -> list[tuple[str, ...]]:
    """Names, percentiles and maximum of the durations, in seconds; the headings are `duration_columns`."""
    found = step.figures
    named = [
        ("time to first token", found.first_token),
        ("time per output token", found.per_output_token),
        ("between two chunks", found.between_chunks),
        ("latency", found.latency),
        *([("latency from when due", found.latency_from_due)] if step.load.rate is not None else []),
        ("wait in our queue before", found.queued),
    ]
    return [
        (name, *(_digits(of.at(percent)) for percent in step.percents or PERCENTS), _digits(of.max))
        for name, of in named
        if of is not None
    ]


def duration_columns(step: StepResult) -> tuple[str, ...]:
    return (*(f"p{percent:g}" for percent in step.percents or PERCENTS), "max")


def single_table(step: StepResult) -> list[str]:
    durations = duration_rows(step)
    numbers = figure_rows(step)
    width = max(len(name) for name, *_ in [*numbers, *durations])
    lines = [
        f"{step.load}, {step.figures.seconds:.1f} s",
        "",
        *(f"{name:<{width}}  {value}" for name, value in numbers),
    ]
    if durations:
        lines += ["", *aligned([("seconds".ljust(width), *duration_columns(step)), *durations])]
    return lines


def limit_lines(steps: Sequence[StepResult]) -> list[str]:
    last = steps[-1]
    known = limits_of(steps)
    lines = [f"limits: {known or 'none known'}"]
    if last.load.concurrency is None and last.concurrency_limit is not None:
        lines.append(f"concurrency limit of our client at the end: {last.concurrency_limit:,}")
    return lines


def goodput_lines(steps: Sequence[StepResult]) -> list[str]:
    """The goodput of each step of a sweep."""
    ordered = sorted(steps, key=lambda step: step.load.concurrency or 0)
    return [
        f"goodput with {step.load}: {number(goodput)} calls/s, {step.figures.good_share:.1%} of all calls"
        for step in ordered
        if (goodput := step.figures.goodput) is not None
    ]


def limits_of(steps: Sequence[StepResult]) -> str:
    """The rate limits that were known at the end, and where they come from."""
    return ", ".join(f"{window} ({'announced' if window.announced else 'given'})" for window in steps[-1].limits)


def _short(percentiles: Percentiles | None, name: str) -> str:
    return "-".rjust(_SECONDS_WIDTH) if percentiles is None else _digits(getattr(percentiles, name))


def _digits(seconds: float) -> str:
    """0.0123, 0.123, 1.234, 12.3: enough digits to compare, and wide enough for a heading."""
    digits = f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"
    return digits.rjust(_SECONDS_WIDTH)


def _rounded(value: float | None) -> str:
    return "-" if value is None else number(value)
