"""A rival: the constants of its file, read without running it, because its libraries are in its own environment."""

from __future__ import annotations

import ast
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "rivals"

Choice = dict[str, Any]


@dataclass(frozen=True)
class Rival:
    """One file. `variants`: names of rows and their settings; `grid`: values to tune, by setting.

    `python`: the version it needs, such as ">=3.12"; None: the one that runs the comparison.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    variants: dict[str, Choice]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    speeds: tuple[str, ...] = ("virtual", "real")
    ours: bool = False
    python: str | None = None

    def choices(self) -> list[Choice]:
        """Every combination of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def read(name: str) -> Rival:
    """Read the file of a rival. Raises `KeyError` if a constant is missing."""
    constants: dict[str, Any] = {}
    for statement in ast.parse((FOLDER / f"{name}.py").read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            title = statement.targets[0].id
            if title in {"PACKAGE", "REQUIREMENTS", "VARIANTS", "GRID", "SPEEDS", "OURS", "PYTHON"}:
                constants[title] = ast.literal_eval(statement.value)
    return Rival(
        name,
        constants["PACKAGE"],
        constants["REQUIREMENTS"],
        constants["VARIANTS"],
        constants.get("GRID", {}),
        constants.get("SPEEDS", ("virtual", "real")),
        constants.get("OURS", False),
        constants.get("PYTHON"),
    )


def names() -> list[str]:
    """All rivals, ours first."""
    return sorted((path.stem for path in FOLDER.glob("*.py")), key=lambda name: (name != "ours", name))
