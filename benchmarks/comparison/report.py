"""The command `report`: pictures, one HTML page with all tables, and the tables of the READMEs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from . import book, environment, runs
from .page import page
from .pictures import draw
from .tables import Results, Table, settings_text

PROJECT = environment.PROJECT
FOLDER = runs.RESULTS.parent / "report"
PICTURES = PROJECT / "benchmarks" / "pictures"
# This command replaces the text between these marks in a README.
START, END = "<!-- comparison -->", "<!-- /comparison -->"
# Columns of the main table.
MAIN = ("requests", "tokens", "announced", "unknown", "overload", "neighbour", "streaming", "gpt_4o_tier_1")
# Its rows: the variants of each, as documented and with the best settings found for each server.
ROWS = {
    "ThrottledAsyncOpenAI": ("ThrottledAsyncOpenAI",),
    "AsyncOpenAI + gather": ("AsyncOpenAI + gather",),
    "Semaphore(10)": ("Semaphore(10)", "Semaphore(10), tuned"),
    "aiolimiter": ("aiolimiter", "aiolimiter, tuned"),
    "tenacity": ("tenacity", "tenacity, tuned"),
    "inspect-ai": ("inspect-ai", "inspect-ai, tuned"),
}
PUBLISHED = ("bars", "throughput")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compare.py report", description=__doc__)
    parser.add_argument("--results", type=Path, default=runs.RESULTS, help="records (benchmarks/results/runs.jsonl)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="output folder (benchmarks/results/report)")
    parser.add_argument("--publish", action="store_true", help="also update README.md and benchmarks/README.md")
    options = parser.parse_args(argv)
    try:
        results = Results(book.read(options.results))
    except ValueError as error:
        print(f"compare.py report: {options.results}: {error}", file=sys.stderr)
        return 1
    folder: Path = options.folder
    drawn = draw(results, folder)
    overviews = [table for table in overviews_of(results) if table.rows]
    (folder / "index.html").write_text(page(results, overviews, drawn, folder), "utf-8")
    (folder / "tables.md").write_text(everything(results, overviews), "utf-8")
    print(f"{folder / 'index.html'}: {len(drawn)} pictures, {len(results.cells)} rows of figures")
    if options.publish:
        publish(results, overviews, folder)
    return 0


def overviews_of(results: Results) -> list[Table]:
    titles = {"virtual": "In virtual time", "real": "On real sockets"}
    return [
        results.overview(names, f"{title}: time over the ideal, or calls lost")
        for speed, title in titles.items()
        if (names := results.scenarios(speed))
    ]


def publish(results: Results, overviews: list[Table], folder: Path) -> None:
    table = results.summary([name for name in MAIN if name in results.scenarios("virtual")], ROWS)
    insert(PROJECT / "README.md", table.markdown())
    insert(PROJECT / "benchmarks" / "README.md", everything(results, overviews))
    PICTURES.mkdir(exist_ok=True)
    for name in PUBLISHED:
        shutil.copy(folder / f"{name}.svg", PICTURES)


def everything(results: Results, overviews: list[Table]) -> str:
    parts = []
    for table in overviews:
        parts += [f"### {table.title}", table.markdown()]
    real = results.scenarios("real")
    for name in real:
        table = results.details(name)
        parts += [f"### {table.title}", table.markdown()]
    parts += ["### Where another was sooner, or we lost calls", losses(results)]
    chosen = [f"- {at}: {who}: {settings_text(settings)}" for (at, who), settings in sorted(results.chosen().items())]
    parts += ["<details><summary>The best settings found</summary>", "\n".join(chosen), "</details>"]
    absent = [f"- {package} cannot be installed here: {why}" for package, why in results.absent().items()]
    return "\n\n".join(part for part in [*parts, "\n".join(absent), " ".join(results.provenance())] if part)


def losses(results: Results) -> str:
    return "\n".join(f"- {each}" for each in results.losses()) or "Nowhere."


def insert(path: Path, text: str) -> None:
    """Replace the text between the marks of a file. Raises `ValueError` if they are missing."""
    before, start, rest = path.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{path} has no {START} … {END}")
    path.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", "utf-8")
