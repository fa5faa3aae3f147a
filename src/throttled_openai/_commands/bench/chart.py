"""Charts of lines, drawn as SVG without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from throttled_openai._commands.axis import tick_label, ticks

# Units of the drawing (pixels on a wide page): a chart over half the page, or all of it.
_HALF: Final = 560
_WHOLE: Final = 1150
_HEIGHT: Final = 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 34, 44
# Width of one letter, to leave out labels that would overlap.
_LETTER: Final = 7

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `colour`: a CSS colour. `filled`: fill the area below it."""

    name: str
    points: Points
    colour: str
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over one x axis, with a y axis from 0.

    `doubling`: a logarithmic x axis with a tick at each value. `marked`: an x value to highlight.
    `ceiling`: a y value to stay below. `places`: x values with a label. `wide`: as wide as the page.
    """

    title: str
    across: str
    lines: Sequence[Line]
    doubling: bool = False
    marked: float | None = None
    ceiling: float | None = None
    places: Sequence[tuple[float, str]] = ()
    wide: bool = False

    @property
    def width(self) -> int:
        return _WHOLE if self.wide else _HALF

    @property
    def right(self) -> int:
        """The right end of the x axis."""
        return self.width - _RIGHT

    def __str__(self) -> str:
        """An `svg` element, or the empty string if there is nothing to draw."""
        drawn = [line for line in self.lines if line.points]
        if not drawn:
            return ""
        scale = _Scale(self, [point for line in drawn for point in line.points])
        parts = [*scale.grid(), *scale.marks()]
        for line in drawn:
            parts += _drawn(line, scale)
        parts += _legend([line for line in drawn if line.name], self.right)
        title = escape(self.title)
        return (
            f'<svg viewBox="0 0 {self.width} {_HEIGHT}" role="img" aria-label="{title}">'
            f'<text class="title" x="0" y="14">{title}</text>{"".join(parts)}</svg>'
        )


class _Scale:
    """Converts values to positions in the drawing."""

    def __init__(self, chart: Chart, points: Points) -> None:
        self._chart = chart
        self._xs = sorted({x for x, _ in points})
        tops = [y for _, y in points] + ([] if chart.ceiling is None else [chart.ceiling])
        self._ys = ticks(max(tops))
        self._low, self._high = self._place(self._xs[0]), self._place(self._xs[-1])

    @property
    def right(self) -> float:
        return self._chart.right

    def _place(self, value: float) -> float:
        return math.log2(value) if self._chart.doubling else value

    def x(self, value: float) -> float:
        wide = self._chart.right - _LEFT
        if self._high <= self._low:
            return _LEFT + wide / 2
        return _LEFT + wide * (self._place(value) - self._low) / (self._high - self._low)

    def y(self, value: float) -> float:
        return self.floor - (self.floor - _TOP) * value / self._ys[-1]

    @property
    def floor(self) -> float:
        return _HEIGHT - _BOTTOM

    def grid(self) -> list[str]:
        parts = []
        for value in self._ys:
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{self._chart.right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text class="up" x="{_LEFT - 8}" y="{at + 4:.1f}">{tick_label(value)}</text>')
        free = -math.inf
        linear = [tick for tick in ticks(self._xs[-1]) if self._xs[0] <= tick <= self._xs[-1]]
        for value in self._xs if self._chart.doubling else linear:
            at, half = self.x(value), _LETTER * len(tick_label(value)) / 2
            if at - half < free:
                continue
            free = at + half + _LETTER
            parts.append(f'<text class="across" x="{at:.1f}" y="{self.floor + 18}">{tick_label(value)}</text>')
        middle = (_LEFT + self._chart.right) / 2
        parts.append(f'<text class="across name" x="{middle}" y="{_HEIGHT - 6}">{escape(self._chart.across)}</text>')
        return parts

    def marks(self) -> list[str]:
        chart, parts = self._chart, []
        if chart.ceiling is not None:
            at = self.y(chart.ceiling)
            parts.append(f'<line class="goal" x1="{_LEFT}" x2="{chart.right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text class="goal" x="{_LEFT + 4}" y="{at - 4:.1f}">p99 goal</text>')
        if chart.marked is not None:
            at = self.x(chart.marked)
            parts.append(f'<line class="marked" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{self.floor}"/>')
        free = -math.inf
        for value, name in chart.places:
            at = self.x(value)
            parts.append(f'<line class="place" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{self.floor}"/>')
            if at >= free:
                free = at + _LETTER * (len(name) + 1)
                parts.append(f'<text class="place" x="{at + 3:.1f}" y="{_TOP + 10}">{escape(name)}</text>')
        return parts


def _drawn(line: Line, scale: _Scale) -> list[str]:
    places = [(scale.x(x), scale.y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = []
    if line.filled:
        (first, _), (last, _) = places[0], places[-1]
        area = f"{first:.1f},{scale.floor} {path} {last:.1f},{scale.floor}"
        parts.append(f'<polygon style="fill:{line.colour}" fill-opacity="0.15" points="{area}"/>')
    parts.append(f'<polyline fill="none" style="stroke:{line.colour}" stroke-width="2" points="{path}"/>')
    if not line.filled:
        for (x, y), (across, up) in zip(places, line.points, strict=True):
            label = escape(f"{line.name} {tick_label(up)} at {tick_label(across)}".strip())
            parts.append(
                f'<g class="spot"><circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{line.colour}"/>'
                f'<circle class="near" cx="{x:.1f}" cy="{y:.1f}" r="12"/>{_value(scale, x, y, label)}</g>'
            )
    else:
        ends = [(one[0] + next_one[0]) / 2 for one, next_one in pairwise(places)]
        for left, right, (x, y), (across, up) in zip(
            [places[0][0], *ends], [*ends, places[-1][0]], places, line.points, strict=True
        ):
            label = escape(f"{tick_label(up)} at {tick_label(round(across, 1))} s")
            parts.append(
                f'<g class="spot"><rect class="near" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
                f'height="{scale.floor - _TOP}"/>{_value(scale, x, y, label)}</g>'
            )
    return parts


def _value(scale: _Scale, x: float, y: float, label: str) -> str:
    """A label that shows while the pointer is near, inside of the drawing."""
    half = _LETTER * len(label) / 2
    at = min(max(x, half), scale.right - half)
    return f'<text class="value" x="{at:.1f}" y="{max(y - 10, _TOP + 4):.1f}">{label}</text>'


def _legend(lines: Sequence[Line], right: float) -> list[str]:
    parts = []
    at = right
    for line in reversed(lines):
        at -= (_LETTER + 2) * len(line.name) + 24
        parts.append(f'<rect x="{at:.0f}" y="7" width="12" height="4" style="fill:{line.colour}"/>')
        parts.append(f'<text class="legend" x="{at + 16:.0f}" y="14">{escape(line.name)}</text>')
    return parts
