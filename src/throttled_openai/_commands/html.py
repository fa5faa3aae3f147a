"""What the HTML reports of the commands share: the style, light or dark as the reader prefers, and the tiles."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #4b5563; --line: #e5e7eb; --paper: #ffffff; --card: #f9fafb;
  --blue: #2563eb; --amber: #b45309; --red: #dc2626; --green: #047857; --grey: #9ca3af; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --paper: #111827; --card: #1f2937;
    --blue: #60a5fa; --amber: #fbbf24; --red: #f87171; --green: #34d399; --grey: #6b7280; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px;
  margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
.said { overflow-wrap: anywhere; color: var(--soft); margin: 0 0 1.2em; }
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
code { overflow-wrap: anywhere; }
/* On a phone a chart is drawn at two thirds of its size, so its letters are larger; a wide one scrolls. */
@media (max-width: 600px) {
  body { padding: 0 1em; margin: 1em auto; }
  svg text { font-size: 16px; } svg .title { font-size: 18px; }
  .wide { overflow-x: auto; } .wide svg { min-width: 820px; }
}
"""


def document(title: str, body: str, style: str = "") -> str:
    """One HTML document without scripts and links. `style`: more CSS. `body` is HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Values with their names; a pair without a value is left out."""
    shown = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in pairs if value
    )
    return f'<div class="tiles">{"".join(shown)}</div>'
