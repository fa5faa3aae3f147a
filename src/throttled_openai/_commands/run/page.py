"""The page: the report of a run as one self-contained HTML file, light or dark as its reader prefers."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Final

from throttled_openai._commands.html import document, tiles
from throttled_openai._stats import spell

from .timechart import Series, TimeChart, compact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from throttled_openai._stats import BudgetStats
    from throttled_openai.batch._file import Summary
    from throttled_openai.batch._tally import Histogram, Sample, Tally

_MEANING: Final = (
    "Latency: from the admission of the last attempt to its answer. Waiting: in the queue of this process, before "
    "admission. Limit: the requests per minute that the limits of requests and tokens allow; a full bucket allows more "
    "at first. Made by throttled-openai run."
)


def page(summary: Summary, tally: Tally, budgets: Sequence[BudgetStats]) -> str:
    """One HTML document, without scripts and links."""
    samples = tally.all_samples()
    stopped = "" if summary.stopped is None else f'<p class="stopped">Stopped: {escape(summary.stopped)}</p>'
    total = "" if summary.total is None else f" of {summary.total:,}"
    said = f"{summary.before + summary.done:,}{total} records done, in {spell(summary.seconds)}"
    said += f"; {time.strftime('%Y-%m-%d %H:%M')}"
    parts = [
        f"<h1>{escape(summary.output)}</h1>",
        f'<p class="said">{said}</p>',
        stopped,
        _tiles(summary, samples),
        f'<div class="charts">{"".join(map(str, _charts(samples, summary.seconds)))}</div>',
        "<h2>Durations</h2>",
        _table(
            ("seconds", "p50", "p90", "p99", "most"),
            [_durations("latency", tally.latency), _durations("waiting for its turn", tally.waiting)],
        ),
        "<h2>Models</h2>",
        _table(
            ("model", "attempts", "served", "refused", "tokens each", "limits"),
            [
                (
                    each.name,
                    f"{each.admitted:,}",
                    f"{each.succeeded:,}",
                    f"{each.refused:,}",
                    f"{each.tokens_per_call:,.0f}",
                    ", ".join(map(str, each.windows)) or "none known",
                )
                for each in budgets
            ],
        ),
        _failures(summary),
        f"<footer>{_MEANING}</footer>",
    ]
    body = "\n".join(filter(None, parts))
    return document(f"{summary.output}: run", body)


def share_of_limit(samples: Sequence[Sample]) -> float | None:
    """Requests done, as a share of what the limits allowed in the same time; None if no limit is known."""
    limited = [each for each in samples if each.limit is not None]
    allowed = sum((each.limit or 0.0) * each.seconds for each in limited)
    return sum(each.done * each.seconds for each in limited) / allowed if allowed else None


def _tiles(summary: Summary, samples: Sequence[Sample]) -> str:
    served = summary.done - summary.failed
    share = share_of_limit(samples)
    return tiles([
        (f"{served:,}", "served"),
        (f"{summary.failed + summary.failed_before:,}", "failed"),
        (f"{60 * summary.done / max(summary.seconds, 0.001):,.0f}", "requests per minute"),
        ("" if share is None else f"{share:.1%}", "of the limit"),
        (compact(summary.input_tokens), "tokens in"),
        (compact(summary.output_tokens), "tokens out"),
        (f"{summary.refusals:,}", "refusals on the way"),
        ("" if summary.cost is None else f"{summary.cost:,.2f}", "cost"),
        (f"{summary.left:,}" if summary.left else "", "left"),
    ])  # fmt: skip


def _charts(samples: Sequence[Sample], seconds: float) -> list[TimeChart]:
    def over(take: Callable[[Sample], float | None]) -> list[tuple[float, float | None]]:
        return [(each.at, take(each)) for each in samples]

    def minutely(value: float | None) -> float | None:
        return None if value is None else 60 * value

    return [
        TimeChart(
            "Requests per minute",
            [
                Series("served or failed", over(lambda each: 60 * each.done), "--blue", "area"),
                Series("limit", over(lambda each: minutely(each.limit)), "--green", "dashed"),
            ],
            seconds,
        ),
        TimeChart(
            "Room: requests in flight",
            [
                Series("in flight", over(lambda each: each.in_flight), "--blue", "area"),
                Series("allowed", over(lambda each: each.room), "--amber", "dashed"),
            ],
            seconds,
        ),
        TimeChart("Latency, seconds (mean)", [Series("", over(lambda each: each.latency), "--blue")], seconds),
        TimeChart(
            "Waiting for admission, seconds (mean)", [Series("", over(lambda each: each.waited), "--amber")], seconds
        ),
        TimeChart("Tokens per minute", [Series("", over(lambda each: 60 * each.tokens), "--blue", "area")], seconds),
        TimeChart("Refusals per minute", [Series("", over(lambda each: 60 * each.refused), "--red", "area")], seconds),
    ]


def _durations(name: str, found: Histogram) -> tuple[str, ...]:
    return (name, *(f"{found.quantile(share):.3g}" for share in (0.5, 0.9, 0.99)), f"{found.most:.3g}")


def _failures(summary: Summary) -> str:
    if not summary.errors:
        return ""
    rows = sorted(
        ((what, f"{count:,}") for what, count in summary.errors.items()), key=lambda row: row[1], reverse=True
    )
    return f"<h2>Failures</h2>{_table(('what', 'requests'), rows)}"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scrolls"><table><tr>{head}</tr>{body}</table></div>'
