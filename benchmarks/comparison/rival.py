"""What a rival's file says of itself, read without running it: its libraries are in its own environment."""

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
    """One file. `variants`: names of rows and their settings; `grid`: choices to tune, by setting.

    `python`: which it needs, such as ">=3.12"; None: the one that makes the comparison.
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
    """Raises `KeyError` where something is missing."""
    said: dict[str, Any] = {}
    for statement in ast.parse((FOLDER / f"{name}.py").read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            title = statement.targets[0].id
            if title in {"PACKAGE", "REQUIREMENTS", "VARIANTS", "GRID", "SPEEDS", "OURS", "PYTHON"}:
                said[title] = ast.literal_eval(statement.value)
    return Rival(
        name,
        said["PACKAGE"],
        said["REQUIREMENTS"],
        said["VARIANTS"],
        said.get("GRID", {}),
        said.get("SPEEDS", ("virtual", "real")),
        said.get("OURS", False),
        said.get("PYTHON"),
    )


def names() -> list[str]:
    """Ours first."""
    return sorted((path.stem for path in FOLDER.glob("*.py")), key=lambda name: (name != "ours", name))
