"""The records of all runs as tables: a cell is one variant in one scenario, over the seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from . import rival as rivals
from . import scenario as scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Record = dict[str, Any]

OURS = "ThrottledAsyncOpenAI"
# Differences up to this count as equal.
SAME = 0.01
# An empty cell of a table.
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """The runs of one variant in one scenario. `records` is never empty."""

    records: tuple[Record, ...]

    @property
    def rival(self) -> str:
        """The name of the rival's file."""
        return self.records[0]["rival"]

    @property
    def variant(self) -> str:
        return self.records[0]["variant"]

    @property
    def ended(self) -> list[Record]:
        return [each for each in self.records if "broken" not in each]

    @property
    def lost(self) -> float | None:
        """Share of calls that were not done, over all seeds; None if no run ended."""
        calls = sum(each["calls"] for each in self.ended)
        return 1 - sum(each["done"] for each in self.ended) / calls if calls else None

    @property
    def over_ideal(self) -> float | None:
        """Median of makespan over ideal, if every call of every run was done."""
        whole = len(self.ended) == len(self.records) and all(each["over_ideal"] for each in self.ended)
        return self.middle("over_ideal") if whole else None

    @property
    def refusals(self) -> float | None:
        """Attempts that were refused, per hundred calls."""
        return self.middle(lambda each: 100 * each["refused"] / each["calls"])

    def values(self, figure: str | Callable[[Record], float | None]) -> list[float]:
        take = figure if callable(figure) else lambda each: each.get(figure)
        return [value for each in self.ended if (value := take(each)) is not None]

    def middle(self, figure: str | Callable[[Record], float | None]) -> float | None:
        values = self.values(figure)
        return median(values) if values else None

    def text(self, figure: str | Callable[[Record], float | None], places: int = 2) -> str:
        """The median, and the range if it differs after rounding."""
        values = self.values(figure)
        if not values:
            return NOTHING
        middle, least, most = (f"{value:,.{places}f}" for value in (median(values), min(values), max(values)))
        return middle if least == most else f"{middle} ({least} to {most})"

    def outcome(self) -> str:
        """Makespan over ideal, or the share of calls lost."""
        if self.over_ideal is not None:
            return f"{self.over_ideal:.2f}"
        if self.lost:
            return f"{share(self.lost)} lost"
        return "broken" if not self.ended else f"broken, {len(self.ended)} of {len(self.records)} ended"


def spoken(scenario: str) -> str:
    return scenario.replace("gpt_4o", "gpt-4o").replace("_", " ").replace("4o mini", "4o-mini")


def share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.0095 else f"{max(value, 0.001):.1%}"


@dataclass(frozen=True)
class Table:
    """`rows` of text; the first cell of each is its name. `best`: (row, column) of the cells shown bold."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        lines = ["| " + " | ".join(self.columns) + " |", "|---" + "|---:" * (len(self.columns) - 1) + "|"]
        for number, row in enumerate(self.rows):
            cells = [f"**{text}**" if (number, at) in self.best else text for at, text in enumerate(row)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


@dataclass
class Results:
    """All records, by scenario and variant.

    Raises `ValueError` if there are none, or if their scales differ.
    """

    records: list[Record]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        grouped: dict[tuple[str, str], dict[int, Record]] = {}
        for each in self.records:
            if "variant" in each:  # of a repeated run the last record counts
                grouped.setdefault((each["scenario"], each["variant"]), {})[each["seed"]] = each
        if not grouped:
            raise ValueError("there are no runs to report; python benchmarks/compare.py run makes some")
        if len({each["scale"] for runs in grouped.values() for each in runs.values()}) > 1:
            raise ValueError("there are runs of more than one scale; keep them in different files")
        self.cells = {key: Cell(tuple(runs.values())) for key, runs in grouped.items()}

    def variants(self, among: Iterable[str] | None = None) -> list[str]:
        """Ours, then each rival's documented variants and its tuned one, in the order of their files."""
        files = {name: (number, [*rivals.read(name).variants]) for number, name in enumerate(rivals.names())}
        shown = None if among is None else set(among)
        found: dict[str, tuple[int, int, str]] = {}
        for (scenario, variant), cell in self.cells.items():
            if shown is None or scenario in shown:
                number, documented = files.get(cell.rival, (len(files), []))
                place = documented.index(variant) if variant in documented else len(documented)
                found[variant] = (number, place, variant)
        return sorted(found, key=found.__getitem__)

    def scenarios(self, speed: str) -> list[str]:
        """The scenarios of a speed that have runs, by name."""
        run = {scenario for scenario, _ in self.cells}
        return [name for name in scenarios.names() if name in run and speed in scenarios.read(name).speeds]

    def cell(self, scenario: str, variant: str) -> Cell | None:
        return self.cells.get((scenario, variant))

    def absent(self) -> dict[str, str]:
        """Why each package could not be installed."""
        made = {cell.rival for cell in self.cells.values()}
        return {
            each["package"]: each["not_installed"]
            for each in self.records
            if "not_installed" in each and each["rival"] not in made
        }

    def chosen(self) -> dict[tuple[str, str], Record]:
        """The settings of tuned variants, by scenario and variant."""
        tuned = {key: cell for key, cell in self.cells.items() if key[1].endswith(", tuned")}
        return {key: cell.records[0]["settings"] for key, cell in tuned.items()}

    def overview(self, among: Sequence[str], title: str) -> Table:
        """Rows are variants, columns scenarios: the outcome, and refusals over all of them."""
        rows, best = [], set()
        named = self.variants(among)
        for variant in named:
            cells = [self.cell(name, variant) for name in among]
            refused = [cell.refusals for cell in cells if cell is not None and cell.refusals is not None]
            outcomes = [cell.outcome() if cell else NOTHING for cell in cells]
            rows.append([variant, *outcomes, f"{sum(refused) / len(refused):,.0f}" if refused else NOTHING])
        for column, name in enumerate(among, 1):
            times = {row: cell.over_ideal for row, variant in enumerate(named) if (cell := self.cell(name, variant))}
            whole = {row: value for row, value in times.items() if value is not None}
            least = min(whole.values(), default=0.0)
            best |= {(row, column) for row, value in whole.items() if value <= least + SAME}
        rows += [[package, *["cannot be installed"] * len(among), NOTHING] for package in self.absent()]
        columns = ["", *map(spoken, among), "refused per 100 calls"]
        return Table(title, columns, rows, frozenset(best))

    def summary(self, among: Sequence[str], rows: Mapping[str, tuple[str, ...]]) -> Table:
        """Rows by name, each of the variants beside each other: a rival as documented, and with its best settings."""
        made = [
            [name, *(" / ".join(cell.outcome() for each in variants if (cell := self.cell(scenario, each)))
                     or NOTHING for scenario in among)]
            for name, variants in rows.items()
            if any(self.cell(scenario, each) for scenario in among for each in variants)
        ]  # fmt: skip
        return Table("", ["", *map(spoken, among)], made)

    def details(self, scenario: str) -> Table:
        """One scenario with every figure."""
        rows = []
        for variant in self.variants([scenario]):
            cell = self.cells[scenario, variant]
            broken = next((each["broken"] for each in cell.records if "broken" in each), None)
            if not cell.ended:
                rows.append([variant, f"broken: {broken}", *[NOTHING] * (len(FIGURES) - 1)])
            else:
                rows.append([variant, *(cell.text(take, places) for _, take, places in FIGURES)])
        used = [at for at in range(len(FIGURES)) if any(row[at + 1] != NOTHING for row in rows)]
        columns = ["", *(FIGURES[at][0] for at in used)]
        says = scenarios.read(scenario).says
        return Table(f"{spoken(scenario)}: {says}", columns, [[row[0], *(row[at + 1] for at in used)] for row in rows])

    def losses(self) -> list[str]:
        """One sentence for each scenario in which a rival was faster than ours, or ours lost calls."""
        sentences = []
        for scenario in self.scenarios("virtual") + self.scenarios("real"):
            ours = self.cell(scenario, OURS)
            if ours is None:
                continue
            if ours.over_ideal is None:
                sentences.append(f"{spoken(scenario)}: ours, {ours.outcome()}.")
                continue
            sooner = [
                (cell.over_ideal, variant)
                for variant in self.variants([scenario])
                if (cell := self.cells[scenario, variant]).over_ideal is not None
                and cell.rival != "ours"
                and cell.over_ideal < ours.over_ideal - SAME
            ]
            if sooner:
                least, variant = min(sooner)
                more = f" (and {len(sooner) - 1} more)" if len(sooner) > 1 else ""
                settings = self.chosen().get((scenario, variant))
                with_these = f" ({settings_text(settings)})" if settings else ""
                sentences.append(
                    f"{spoken(scenario)}: {variant}{with_these} {least:.2f}, we {ours.over_ideal:.2f}{more}."
                )
        return sentences

    def provenance(self) -> list[str]:
        """Versions, commits, machines and seeds of the runs, a sentence each."""
        runs = [each for cell in self.cells.values() for each in cell.ended]
        versions: dict[str, set[str]] = {}
        for each in runs:
            for package, version in each.get("versions", {}).items():
                versions.setdefault(package, set()).add(version)
        packages = [
            f"{name} {' and '.join(sorted(those))}" for name, those in sorted(versions.items()) if name != "python"
        ]
        shares = {each["scale"] for each in runs} - {1.0}
        return [
            *(f"Only {share(each)} of each scenario's calls." for each in shares),
            f"{len(runs):,} runs, seeds {', '.join(map(str, sorted({each['seed'] for each in runs})))}.",
            "Versions: Python {}, {}.".format(" and ".join(sorted(versions.get("python", {"?"}))), ", ".join(packages)),
            f"Commit {', '.join(sorted({each.get('commit', 'unknown') for each in runs}))}.",
            f"Machine: {'; '.join(sorted({each.get('machine', 'unknown') for each in runs}))}.",
        ]


def settings_text(settings: Record) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "as documented"


# Heading, figure of a record, decimal places.
FIGURES: tuple[tuple[str, str | Callable[[Record], float | None], int], ...] = (
    ("done", "done", 0),
    ("lost", lambda each: each["failed"] + each["unfinished"], 0),
    ("refused", "refused", 0),
    ("x ideal", "over_ideal", 3),
    ("goodput / limit", "goodput", 3),
    ("wait p50, s", "wait_p50", 2),
    ("wait p99, s", "wait_p99", 2),
    ("latency p50, s", "latency_p50", 2),
    ("latency p99, s", "latency_p99", 2),
    ("wait large / small", "unfairness", 2),
    ("most in flight", "peak_in_flight", 0),
    ("CPU per call, ms", "cpu_ms_per_call", 2),
    ("memory per call, KB", "memory_kb_per_call", 1),
    ("connections", "connections", 0),
)
