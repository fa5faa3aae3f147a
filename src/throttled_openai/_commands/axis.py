"""The axis: round numbers for the charts of reports, and how they are written."""

from __future__ import annotations

import math
from typing import Final

_TICKS: Final = 5


def ticks(top: float) -> list[float]:
    """About five round numbers from 0 to `top` or just above it."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / _TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    return [round(place * step, 12) for place in range(math.ceil(top / step - 1e-9) + 1)]


def tick_label(value: float) -> str:
    """Three digits, with thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
