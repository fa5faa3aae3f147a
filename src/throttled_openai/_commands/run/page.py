"""The page: the report of a run as one self-contained HTML file, light or dark as its reader prefers."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Final

from throttled_openai._stats import spell

from .timechart import Series, TimeChart, compact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from throttled_openai._stats import BudgetStats
    from throttled_openai.batch._file import Summary
    from throttled_openai.batch._tally import Histogram, Sample, Tally

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb; --paper: #ffffff; --card: #f9fafb;
  --blue: #2563eb; --amber: #b45309; --red: #dc2626; --green: #047857; --grey: #9ca3af; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --paper: #111827; --card: #1f2937;
    --blue: #60a5fa; --amber: #fbbf24; --red: #f87171; --green: #34d399; --grey: #6b7280; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
  margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
.said { color: var(--soft); margin: 0 0 1.2em; }
.stopped { border-left: 4px solid var(--red); background: var(--card); padding: .7em 1.1em; margin: 1.2em 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(155px, 1fr)); gap: 12px; margin: 1.2em 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .7em 1em; }
.tile b { display: block; font-size: 1.6em; line-height: 1.25; } .tile span { color: var(--soft); font-size: .9em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 28px; }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .title { font-weight: 600; font-size: 14px; fill: var(--ink); }
svg .up { text-anchor: end; } svg .across { text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .area { fill-opacity: .16; } svg .line { fill: none; stroke-width: 1.5; }
.scrolls { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .9em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } th:first-child, td:first-child { text-align: left; padding-left: 0; }
footer { color: var(--soft); font-size: .9em; margin: 2.5em 0; }
"""

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
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(summary.output)}: run</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def share_of_limit(samples: Sequence[Sample]) -> float | None:
    """Requests done, as a share of what the limits allowed in the same time; None if no limit is known."""
    limited = [each for each in samples if each.limit is not None]
    allowed = sum((each.limit or 0.0) * each.seconds for each in limited)
    return sum(each.done * each.seconds for each in limited) / allowed if allowed else None


def _tiles(summary: Summary, samples: Sequence[Sample]) -> str:
    served = summary.done - summary.failed
    share = share_of_limit(samples)
    tiles = [
        (f"{served:,}", "served"),
        (f"{summary.failed + summary.failed_before:,}", "failed"),
        (f"{60 * summary.done / max(summary.seconds, 0.001):,.0f}", "requests per minute"),
        ("" if share is None else f"{share:.1%}", "of the limit"),
        (compact(summary.input_tokens), "tokens in"),
        (compact(summary.output_tokens), "tokens out"),
        (f"{summary.refusals:,}", "refusals on the way"),
        ("" if summary.cost is None else f"{summary.cost:,.2f}", "cost"),
        (f"{summary.left:,}" if summary.left else "", "left"),
    ]
    shown = (f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles if value)
    return f'<div class="tiles">{"".join(shown)}</div>'


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
