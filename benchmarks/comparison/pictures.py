"""The pictures of a report, each as PNG and SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from . import scenario as scenarios
from .tables import OURS, Cell, Results, spoken

mpl.use("agg")

import matplotlib.pyplot as plt  # the backend is chosen first

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .scenario import Scenario

BLUE, LIGHT, GREY, RED, AMBER, INK = "#1764ab", "#8fbbe0", "#b4b9bf", "#cf3a34", "#e9a23b", "#24292f"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#c9ced4",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "figure.dpi": 110,
    # The same runs make the same files.
    "svg.hashsalt": "throttled-openai",
    "svg.fonttype": "none",
}
# The variants whose throughput is drawn over time, and the scenarios.
OVER_TIME = (OURS, "AsyncOpenAI(max_retries=10) + gather", "Semaphore(10)", "aiolimiter", "tenacity")
LIMITED = ("requests", "changing")
# Rates are cut off at this multiple of the limit.
CUT = 2
# Longer bars are cut off, unless all are longer; each bar has its number.
LONGEST_BAR = 3.0


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw the pictures that the records allow. Returns a caption for each, by name."""
    drawings: dict[str, tuple[Callable[[Results], Figure | None], str]] = {
        "bars": (bars, "Time of each, divided by the best possible time."),
        "throughput": (throughput, "Calls done and attempts refused over time, against the limit."),
        "concurrency": (concurrency, "The concurrency limit as it approaches what the server can handle."),
        "refusals": (refusals, "The outcome of the calls: done at once, refused and done later, lost."),
    }
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with mpl.rc_context(STYLE):
        for name, (drawing, says) in drawings.items():
            figure = drawing(results)
            if figure is not None:
                for kind in ("png", "svg"):
                    metadata = {"Date": None} if kind == "svg" else {}
                    figure.savefig(folder / f"{name}.{kind}", bbox_inches="tight", metadata=metadata)
                plt.close(figure)
                drawn[name] = says
    return drawn


def bars(results: Results) -> Figure | None:
    """One panel per scenario, one bar per rival: its best variant, or the calls lost if none did all."""
    names = results.scenarios("virtual") + results.scenarios("real")
    if not names:
        return None
    across = min(4, len(names))
    down = math.ceil(len(names) / across)
    rivals = list(dict.fromkeys(cell.rival for cell in ordered(results)))
    figure, grid = plt.subplots(
        down, across, figsize=(3.1 * across + 1.2, down * (0.62 + 0.19 * len(rivals))), squeeze=False, sharey=True
    )
    for number, axes in enumerate(grid.flat):
        if number >= len(names):
            axes.set_axis_off()
            continue
        scenario = names[number]
        values = [cell.over_ideal for cell in ordered(results, scenario) if cell.over_ideal]
        longest = LONGEST_BAR if min(values, default=1) < LONGEST_BAR else max(values)
        for row, rival in enumerate(rivals):
            mine = [cell for cell in ordered(results, scenario) if cell.rival == rival]
            bar(axes, row, mine, longest, ours=rival == "ours")
        axes.set_title(spoken(scenario))
        axes.set_xlim(0, 1.12 * longest)
        axes.axvline(1, color=INK, linewidth=0.8)
        ticks = [1, 2, 3] if longest == LONGEST_BAR else [1, math.ceil(longest)]
        axes.set_xticks(ticks, map(str, ticks))
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(rivals)), [shown(rival) for rival in rivals])
        axes.set_ylim(len(rivals) - 0.4, -0.6)
    heading(figure, "Time over the ideal, each rival with the best settings found; red: calls were lost")
    figure.tight_layout()
    return figure


def bar(axes: Axes, row: int, cells: list[Cell], longest: float, *, ours: bool) -> None:
    """The fastest variant that did all calls, or else the one that lost fewest."""

    def word(text: str, colour: str) -> None:
        axes.text(0.02 * longest, row, text, va="center", fontsize=8, color=colour)

    whole = [cell for cell in cells if cell.over_ideal is not None]
    if whole:
        best = min(whole, key=lambda cell: cell.over_ideal or math.inf)
        value = best.over_ideal or math.inf
        axes.barh(row, min(value, longest), height=0.72, color=BLUE if ours else GREY)
        axes.text(min(value, longest) + 0.02 * longest, row, f"{value:.2f}", va="center", fontsize=8)
    elif lost := [cell.lost for cell in cells if cell.lost is not None]:
        word(f"{min(lost):.0%} lost" if min(lost) >= 0.01 else "some lost", RED)
    else:
        word("broken" if cells else "not run", RED if cells else GREY)


def throughput(results: Results) -> Figure | None:
    """Small multiples: one row per rival, one column per scenario."""
    names = [name for name in LIMITED if results.cell(name, OURS)]
    rows = [variant for variant in OVER_TIME if any(results.cell(name, variant) for name in names)]
    if not names:
        return None
    figure, grid = plt.subplots(
        len(rows),
        len(names),
        figsize=(5.2 * len(names), 1.4 * len(rows) + 0.8),
        squeeze=False,
        sharey=True,
        sharex="col",
    )
    for column, name in enumerate(names):
        scenario = scenarios.read(name)
        cells = [cell for variant in rows if (cell := results.cell(name, variant)) and cell.ended]
        end = 1.05 * max(cell.ended[0]["makespan"] for cell in cells if cell.lost == 0)
        for row, variant in enumerate(rows):
            axes = grid[row][column]
            cell = results.cell(name, variant)
            if column == 0:
                axes.set_title(variant)
                axes.set_ylabel("per minute")
            if cell and cell.ended:
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
                place = {"transform": axes.transAxes, "ha": "right", "va": "top"}
                axes.text(0.995, 0.97, lasted(cell), fontsize=8.5, bbox=box, **place)
                rates(axes, cell.ended[0], scenario, end)
            axes.set_xlim(0, end)
            axes.set_ylim(0, scenario.server["rpm"] * CUT * 1.05)
        grid[-1][column].set_xlabel(f"seconds ({scenario.says.split(';')[0]})")
    handles = grid[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper right", ncols=3, frameon=False, fontsize=9)
    heading(figure, "Calls done and attempts refused, against the limit")
    figure.tight_layout()
    return figure


def lasted(cell: Cell) -> str:
    refused = f"{(cell.refusals or 0) / 100:.2f} refusals a call"
    return f"{cell.outcome()}, {refused}" if cell.over_ideal is None else f"{cell.outcome()} x ideal, {refused}"


def rates(axes: Axes, record: Any, scenario: Scenario, end: float) -> None:
    series = record["series"]
    width = end / 40
    instants = [index * end / 160 for index in range(161)]
    for figure, colour, label in (("done", BLUE, "done"), ("refused", RED, f"refused (cut off at {CUT} x the limit)")):
        at, counts = [*series["at"], end * 2], [*series[figure], series[figure][-1]]

        def until(instant: float, at: Sequence[float] = at, counts: Sequence[float] = counts) -> float:
            return between(at, counts, instant)

        pace = [(until(instant) - until(instant - width)) / width * 60 for instant in instants]
        most = scenario.server["rpm"] * CUT
        axes.plot(instants, [min(value, most) for value in pace], color=colour, linewidth=1.4, label=label)
        if figure == "done":
            axes.fill_between(instants, [min(value, most) for value in pace], color=LIGHT, alpha=0.5, linewidth=0)
    steps = [(0.0, scenario.server["rpm"])]
    steps += [(at, change["rpm"]) for at, change in scenario.changes if "rpm" in change]
    steps.append((end, steps[-1][1]))
    axes.step(*zip(*steps, strict=True), where="post", color=INK, linewidth=1, linestyle="--", label="limit")


def between(at: Sequence[float], values: Sequence[float], instant: float) -> float:
    """The value at an instant, by linear interpolation."""
    if instant <= at[0]:
        return values[0]
    for index in range(1, len(at)):
        if instant <= at[index]:
            before, span = at[index - 1], at[index] - at[index - 1]
            part = (instant - before) / span if span else 1.0
            return values[index - 1] + part * (values[index] - values[index - 1])
    return values[-1]


def concurrency(results: Results) -> Figure | None:
    """The gauges over time, in the scenarios with a limit on calls in flight."""
    chosen = []
    for name in results.scenarios("virtual") + results.scenarios("real"):
        server = scenarios.read(name).server
        level = server.get("max_in_flight") or server.get("slots")
        cell = results.cell(name, OURS)
        if level and cell and cell.ended and cell.ended[0]["series"]["gauge"]:
            chosen.append((name, level))
    if not chosen:
        return None
    figure, grid = plt.subplots(1, len(chosen), figsize=(4.6 * len(chosen), 3.2), squeeze=False)
    for axes, (name, level) in zip(grid[0], chosen, strict=True):
        for cell in ordered(results, name):
            for number, record in enumerate(cell.ended):
                series = record["series"]
                if series["gauge"] and not cell.variant.endswith(", told nothing"):
                    ours = cell.rival == "ours"
                    label = None if number else cell.variant
                    axes.step(
                        series["gauge_at"], series["gauge"], where="post", color=BLUE if ours else GREY, label=label
                    )
        axes.axhline(level, color=INK, linewidth=1, linestyle="--", label=f"what the server bears: {level}")
        axes.set_title(spoken(name))
        axes.set_xlabel("seconds")
        axes.set_ylim(0, None)
        axes.legend(frameon=False, fontsize=8)
    grid[0][0].set_ylabel("calls in flight, at most")
    heading(figure, "The concurrency limit finds its level; each line is a seed")
    figure.tight_layout()
    return figure


def refusals(results: Results) -> Figure | None:
    """The calls of a scenario: done at the first attempt, refused and done later, failed."""
    names = [name for name in ("requests", "tokens", "overload") if results.cell(name, OURS)]
    if not names:
        return None
    variants = [variant for variant in results.variants(names) if not variant.endswith((", told nothing", ", tuned"))]
    figure, grid = plt.subplots(
        1, len(names), figsize=(4.2 * len(names) + 1, 0.27 * len(variants) + 1.4), squeeze=False, sharey=True
    )
    parts: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
        ("done, never refused", BLUE, lambda each: each["done"] - each["refused_once_and_done"]),
        ("done, after refusals", AMBER, lambda each: each["refused_once_and_done"]),
        ("lost", RED, lambda each: each["failed"] + each["unfinished"]),
    )
    for axes, name in zip(grid[0], names, strict=True):
        for row, variant in enumerate(variants):
            cell = results.cell(name, variant)
            if cell is None or not cell.ended:
                continue
            left = 0.0
            for label, colour, take in parts:
                width = 100 * (cell.middle(take) or 0.0) / cell.ended[0]["calls"]
                axes.barh(row, width, left=left, height=0.74, color=colour, label=None if row else label)
                left += width
            axes.text(102, row, f"{cell.refusals or 0:,.0f}", va="center", fontsize=8)
        axes.set_title(f"{spoken(name)}")
        axes.set_xlim(0, 118)
        axes.set_xticks([0, 50, 100], ["0", "50", "100 %"])
        axes.set_yticks(range(len(variants)), variants)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(variants) - 0.4, -0.6)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, bbox_to_anchor=(0.5, -0.05)
    )
    heading(figure, "What became of the calls; at the right: attempts refused per 100 calls")
    figure.tight_layout()
    return figure


def ordered(results: Results, scenario: str | None = None) -> list[Cell]:
    """All cells, or those of one scenario, in the order of the tables."""
    variants = {variant: number for number, variant in enumerate(results.variants())}
    cells = [cell for (name, _), cell in results.cells.items() if scenario in {None, name}]
    return sorted(cells, key=lambda cell: variants[cell.variant])


def shown(rival: str) -> str:
    """A rival's name on an axis, from the name of its file."""
    return {"ours": "throttled-openai", "plain": "gather"}.get(rival, rival.removeprefix("with_").replace("_", "-"))


def heading(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
