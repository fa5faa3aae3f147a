"""Types of command-line arguments: numbers, with errors that say what is accepted."""

from __future__ import annotations

import argparse
import math
from typing import Final, TypeVar

Number = TypeVar("Number", int, float)
_KINDS: Final[dict[type, str]] = {int: "whole number", float: "number"}


def number(text: str, kind: type[Number]) -> Number:
    """`text` as an `int` or a `float`."""
    try:
        return kind(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"must be a {_KINDS[kind]}, got {text!r}") from problem


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text, float)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def count(text: str) -> int:
    """A whole number of at least 1."""
    return at_least(1, text)


def count_or_0(text: str) -> int:
    """A whole number of at least 0."""
    return at_least(0, text)


def port(text: str) -> int:
    """A port to listen on; 0 is any free one."""
    value = number(text, int)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {value}")
    return value


def at_least(least: int, text: str) -> int:
    """A whole number of at least `least`."""
    value = number(text, int)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
    return value
