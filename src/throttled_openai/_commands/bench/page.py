"""The report as one HTML page without external files."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._commands.html import document, tiles

from .chart import Chart, Line
from .tables import COLUMNS, GROUPS, duration_columns, duration_rows, figure_rows, limits_of, sweep_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .figures import Figures, Percentiles, TimeBin
    from .report import Report
    from .step_result import StepResult

_BLUE, _AMBER, _RED = "var(--blue)", "var(--amber)", "var(--red)"

_STYLE: Final = """
.found { background: var(--card); border-left: 4px solid var(--blue); padding: .8em 1.2em; margin: 1.2em 0; }
.found p { margin: 0; font-size: 1.05em; } .found code { display: block; margin-top: .5em; font-size: 1.05em; }
.wide svg { margin-top: 28px; }
svg .name { fill: var(--soft); }
svg .place { stroke: var(--grey); stroke-dasharray: 2 3; }
svg text.place { stroke: none; fill: var(--soft); }
svg .marked { stroke: var(--blue); stroke-width: 18; stroke-opacity: .15; }
svg .goal { stroke: var(--green); stroke-dasharray: 6 4; } svg text.goal { stroke: none; fill: var(--green); }
svg .value { visibility: hidden; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; fill: var(--ink);
  text-anchor: middle; }
svg .near { fill: transparent; stroke: none; } svg .spot:hover .value { visibility: visible; }
tr.chosen td { background: var(--card); font-weight: 600; }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""

_MEANING: Final = (
    (
        "latency",
        "from sending the answered attempt to the last byte of its answer: the server's time and the network's",
    ),
    ("first token", "from sending the answered attempt to the first part of its answer (TTFT)"),
    (
        "time per output token",
        "from the first token to the end, divided by the number of tokens after the first (TPOT)",
    ),
    ("between two chunks", "from a part of an answer to its next part (ITL), of all answers"),
    (
        "goodput",
        "calls answered within the bounds; failed and unfinished calls count as not, as do the answers that came later",
    ),
    ("tokens/s, each", "of all answers together, and of one answer (median)"),
    ("calls/s", "answers that arrived in the measured time; a stream across its edge counts for the part inside"),
    ("refused", "attempts that the server refused; the client retried them"),
    ("wait in our queue before", "from the call to sending the answered attempt; not part of latency"),
    ("latency from when due", "from the call's scheduled time to the end of its answer: what users wait"),
)


def page(report: Report) -> str:
    """One HTML document, without scripts and links."""
    chosen = report.recommendation.point.concurrency if report.recommendation is not None else None
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="said">{escape(report.subtitle)}; {escape(report.date)}, from {escape(report.host)}</p>',
        f'<p class="said"><code>{escape(report.command)}</code></p>' if report.command else "",
        _recommendation(report) if report.swept else "",
        _tiles(_shown(report, chosen)),
        _sweep_charts(report, chosen) if report.swept else "",
        _time_charts(report),
        "<h2>Figures</h2>",
        _sweep_table(report, chosen) if report.swept else _single_tables(report.steps[0]),
        f"<p>Limits: {escape(limits_of(report.steps) or 'none known')}</p>",
        _list(report.notes),
        "<h2>Settings</h2>",
        _pairs((name.replace("_", " "), _as_text(value)) for name, value in report.settings.items() if _is_set(value)),
        "<h2>Definitions</h2>",
        _pairs(_MEANING),
        f"<footer>{escape(', '.join(f'{name} {number}' for name, number in report.versions.items()))}</footer>",
    ]
    body = "\n".join(filter(None, parts))
    return document(f"{report.settings['model']}: bench", body, _STYLE)


def _recommendation(report: Report) -> str:
    sentence, *code = report.conclusion
    line = f"<code>{escape(report.code)}</code>" if code and report.code is not None else ""
    return f'<div class="found"><p>{escape(sentence)}</p>{line}</div>'


def _shown(report: Report, chosen: int | None) -> StepResult:
    """The step whose figures represent all: the recommended one, or the fastest."""
    for step in report.steps:
        if chosen is not None and step.load.concurrency == chosen:
            return step
    return max(report.steps, key=lambda step: step.figures.calls_per_second)


def _tiles(step: StepResult) -> str:
    found = step.figures
    shown = [
        (f"{found.calls_per_second:.3g}", f"calls per second ({step.load})"),
        (f"{found.output_tokens_per_second or found.input_tokens_per_second:,.0f}", "tokens per second"),
        (_two(found.first_token), "to the first token, p50 / p99"),
        (_two(found.latency), "latency, p50 / p99"),
        ("" if found.good_share is None else f"{found.good_share:.1%}", "of all calls within the bounds (goodput)"),
        (f"{found.failures + found.refused_attempts:,}", f"failed or refused, of {found.counted:,}"),
    ]
    return tiles(shown)


def _two(percentiles: Percentiles | None) -> str:
    return "" if percentiles is None else f"{percentiles.p50:.2f} / {percentiles.p99:.2f} s"


# Charts


def _sweep_charts(report: Report, chosen: int | None) -> str:
    steps = sorted(report.steps, key=lambda step: step.load.concurrency or 0)
    settings, marked = report.settings, None if chosen is None else float(chosen)

    def over(take: Callable[[Figures], float | None]) -> list[tuple[float, float]]:
        values = [(float(step.load.concurrency or 1), take(step.figures)) for step in steps]
        return [(across, value) for across, value in values if value is not None]

    def durations(title: str, take: Callable[[Figures], Percentiles | None], ceiling: float | None = None) -> Chart:
        def line(name: str, colour: str) -> Line:
            return Line(name, over(lambda figures: getattr(take(figures), name, None)), colour)

        lines = [line("p50", _BLUE), line("p90", _AMBER), line("p99", _RED)]
        return Chart(title, "calls in flight", lines, doubling=True, marked=marked, ceiling=ceiling)

    speed = [Line("", over(lambda figures: figures.calls_per_second), _BLUE)]
    charts = [
        Chart(
            "Calls per second" if marked is None else "Calls per second (band: recommended)",
            "calls in flight",
            speed,
            doubling=True,
            marked=marked,
        ),
        durations("Latency, seconds", lambda figures: figures.latency, settings["latency_goal_seconds"]),
        durations(
            "Time to first token, seconds", lambda figures: figures.first_token, settings["first_token_goal_seconds"]
        ),
        durations("Time per output token, seconds", lambda figures: figures.per_output_token),
        durations("Time between two chunks, seconds", lambda figures: figures.between_chunks),
        Chart(
            "Goodput, % of all calls",
            "calls in flight",
            [Line("", over(lambda figures: None if figures.good_share is None else 100 * figures.good_share), _BLUE)],
            doubling=True,
            marked=marked,
        ),
    ]
    return f'<div class="charts">{"".join(map(str, charts))}</div>'


def _time_charts(report: Report) -> str:
    across = "seconds; dashed: a step begins, and its calls in flight" if report.swept else "seconds"
    charts = [_over_time("Calls per second over time", report, across, lambda moment: moment.calls_per_second)]
    if not report.swept and any(step.figures.output_tokens_per_second for step in report.steps):
        title = "Output tokens per second over time"
        charts.append(_over_time(title, report, across, lambda moment: moment.output_tokens_per_second))
    return f'<div class="wide">{"".join(map(str, charts))}</div>'


def _over_time(title: str, report: Report, across: str, take: Callable[[TimeBin], float]) -> Chart:
    steps = sorted(report.steps, key=lambda step: step.began_at)
    lines = [
        Line("", [(step.began_at + moment.at_seconds, take(moment)) for moment in step.moments], _BLUE, filled=True)
        for step in steps
    ]
    places = [(step.began_at, f"{step.load.concurrency}") for step in steps] if report.swept else []
    return Chart(title, across, lines, places=places, wide=True)


# Tables


def _sweep_table(report: Report, chosen: int | None) -> str:
    groups = "".join(f'<th colspan="{count}">{escape(name)}</th>' for name, count in GROUPS)
    names = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    head = f"<tr>{groups}</tr><tr>{names}</tr>"
    ordered = sorted(report.steps, key=lambda step: step.load.concurrency or 0)
    rows = []
    for step, cells in zip(ordered, sweep_rows(ordered), strict=True):
        mark = ' class="chosen"' if step.load.concurrency == chosen else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    return f'<div class="scrolls"><table>{head}{"".join(rows)}</table></div>'


def _single_tables(step: StepResult) -> str:
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in ('seconds', *duration_columns(step)))}</tr>"
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in duration_rows(step))
    return f'{_pairs(figure_rows(step))}<p></p><div class="scrolls"><table>{head}{rows}</table></div>'


def _pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in pairs)
    return f'<div class="scrolls"><table class="plain">{"".join(rows)}</table></div>'


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _is_set(value: object) -> bool:
    return value is not None and value not in ([], {})


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
