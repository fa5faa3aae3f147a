"""Numbers as messages show them: never with an exponent."""

from __future__ import annotations


def number(value: float) -> str:
    """`1,000,000`, `0.85`, `12.5`: three digits of what is below a hundred."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    decimals = 2 if abs(value) >= 1 else 4
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def literal(value: float) -> str:
    """As it would be written in code: `2000000`, `0.5`."""
    return repr(int(value)) if value == int(value) else repr(float(value))
