"""Time charts: lines over the time of a run, as SVG in the colours of the page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from throttled_openai._commands.axis import tick_label, ticks
from throttled_openai._stats import spell

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH: Final = 560
_HEIGHT: Final = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 34, 28
_LETTER: Final = 7
# Possible distances between ticks on the time axis, in seconds.
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400, 172_800, 604_800)
_TICKS: Final = 6


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `points`: seconds with a value, or None for a gap. `style`: `area`, `line` or `dashed`."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: str
    style: str = "line"


@dataclass(frozen=True, slots=True)
class TimeChart:
    title: str
    series: Sequence[Series]
    seconds: float

    def __str__(self) -> str:
        """An `svg` element, or the empty string if there is nothing to draw."""
        drawn = [each for each in self.series if any(value is not None for _, value in each.points)]
        if not any(value for each in drawn for _, value in each.points):
            return ""
        top = max(value for each in drawn for _, value in each.points if value is not None)
        levels = ticks(top)
        parts = [*self._grid(levels)]
        for each in drawn:
            parts += self._line(each, levels[-1])
        parts += _legend(drawn)
        title = escape(self.title)
        return (
            f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
            f'<text class="title" x="0" y="14">{title}</text>{"".join(parts)}</svg></figure>'
        )

    def _grid(self, levels: Sequence[float]) -> list[str]:
        parts = []
        for level in levels:
            y = _y(level, levels[-1])
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="up" x="{_LEFT - 8}" y="{y + 4:.1f}">{compact(level)}</text>')
        step = next((each for each in _STEPS if self.seconds / each <= _TICKS), _STEPS[-1])
        at = 0
        while at <= self.seconds:
            parts.append(f'<text class="across" x="{self._x(at):.1f}" y="{_HEIGHT - 8}">{_clock(at)}</text>')
            at += step
        return parts

    def _x(self, seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / max(self.seconds, 1e-9)

    def _line(self, series: Series, top: float) -> list[str]:
        parts = []
        for run in _runs(series.points):
            path = " ".join(f"{self._x(x):.1f},{_y(y, top):.1f}" for x, y in run)
            if series.style == "area":
                ends = f"{self._x(run[0][0]):.1f},{_y(0, top):.1f} {path} {self._x(run[-1][0]):.1f},{_y(0, top):.1f}"
                parts.append(f'<polygon class="area" style="fill:var({series.colour})" points="{ends}"/>')
            dashed = ' stroke-dasharray="6 4"' if series.style == "dashed" else ""
            if len(run) == 1:
                x, y = self._x(run[0][0]), _y(run[0][1], top)
                parts.append(f'<circle style="fill:var({series.colour})" cx="{x:.1f}" cy="{y:.1f}" r="2"/>')
            parts.append(f'<polyline class="line" style="stroke:var({series.colour})"{dashed} points="{path}"/>')
        return parts


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The parts of the line between gaps."""
    runs: list[list[tuple[float, float]]] = []
    last: list[tuple[float, float]] = []
    for x, y in points:
        if y is None:
            last = []
            continue
        if not last:
            runs.append(last)
        last.append((x, y))
    return runs


def _y(value: float, top: float) -> float:
    floor = _HEIGHT - _BOTTOM
    return floor - (floor - _TOP) * value / (top or 1.0)


def _legend(drawn: Sequence[Series]) -> list[str]:
    parts = []
    at = float(_WIDTH - _RIGHT)
    for each in reversed([each for each in drawn if each.name]):
        at -= _LETTER * len(each.name) + 24
        parts.append(f'<rect style="fill:var({each.colour})" x="{at:.0f}" y="7" width="12" height="4"/>')
        parts.append(f'<text x="{at + 16:.0f}" y="14">{escape(each.name)}</text>')
    return parts


def compact(value: float) -> str:
    """A number for an axis or a tile: 1.5M, 12,345."""
    for size, name in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g}{name}"
    return tick_label(value)


def _clock(seconds: float) -> str:
    """A label of the time axis: `30 s`, `2 min`, `1 h 30 min`."""
    if seconds == 0:
        return "0"
    return f"{seconds:g} s" if seconds < 60 else spell(seconds)
