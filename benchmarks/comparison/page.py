"""The report as one HTML page without external files: all pictures and tables, no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .tables import settings_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .tables import Results, Table

LOOK = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption, .small { color: #6a737d; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.ours td { background: #1764ab22; } td.best { font-weight: 700; }
details { margin: .5rem 0; } summary { cursor: pointer; }
"""


def page(results: Results, overviews: Sequence[Table], pictures: Mapping[str, str], folder: Path) -> str:
    """The page; the pictures' SVG files are read from `folder`."""
    drawn = "".join(
        f"<figure>{_svg(folder / f'{name}.svg')}<figcaption>{escape(says)}</figcaption></figure>"
        for name, says in pictures.items()
    )
    overview = "".join(f"<h2>{escape(table.title)}</h2>{_table(table)}" for table in overviews)
    names = [*dict.fromkeys(results.scenarios("virtual") + results.scenarios("real"))]
    details = "".join(_details(results.details(name)) for name in names)
    settings = "".join(
        f"<li>{escape(scenario)}: {escape(variant)}: {escape(settings_text(chosen))}</li>"
        for (scenario, variant), chosen in sorted(results.chosen().items())
    )
    absent = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in results.absent().items())
    parts = [
        "<h1>throttled-openai and its rivals, on the same work</h1>",
        f"<p class=small>{escape(' '.join(results.provenance()))}</p>",
        drawn,
        overview,
        _section("Where another was sooner, or we lost calls", _list(results.losses()) or "<p>Nowhere.</p>"),
        _section("Every figure, median and range over the seeds", details),
        _section("The best settings found", f"<details><summary>All</summary><ul>{settings}</ul></details>"),
        _section("Not installed", f"<ul>{absent}</ul>") if absent else "",
    ]
    title = "throttled-openai and its rivals"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{LOOK}</style></head><body>{"".join(parts)}</body></html>'
    )


def _section(title: str, inside: str) -> str:
    return f"<h2>{escape(title)}</h2>{inside}"


def _details(table: Table) -> str:
    return f"<details><summary>{escape(table.title)}</summary>{_table(table)}</details>"


def _list(sentences: Sequence[str]) -> str:
    return "".join(("<ul>", *(f"<li>{escape(each)}</li>" for each in sentences), "</ul>")) if sentences else ""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(
            f"<td{' class=best' if (number, at) in table.best else ''}>{escape(text)}</td>"
            for at, text in enumerate(row)
        )
        ours = " class=ours" if row[0].startswith("Throttled") else ""
        rows.append(f"<tr{ours}>{cells}</tr>")
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _svg(path: Path) -> str:
    """The `svg` element of a file, without the XML declaration before it."""
    text = path.read_text("utf-8")
    return text[text.index("<svg") :]
