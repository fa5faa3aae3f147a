"""Sources: where `top` reads its figures, and makes its changes."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from throttled_openai._clients.live import PATIENCE, directory
from throttled_openai._stats import stats_from

if TYPE_CHECKING:
    from pathlib import Path

    from throttled_openai._stats import BudgetStats

_PART: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Shown:
    """One budget as it is shown. `throttle`: the one it belongs to, for changes."""

    throttle: str
    stats: BudgetStats


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The figures of one instant. `title`: what they are of. `seconds`: how long that has run."""

    title: str
    seconds: float
    budgets: tuple[Shown, ...]
    error: str | None = None


class Source(Protocol):
    """A running program, or anything else that has budgets."""

    def read(self) -> Snapshot:
        """The figures now. Raises `OSError` if there are none any more."""
        ...

    def change(self, shown: Shown, what: str, **values: float | None) -> Snapshot:
        """Change a budget: `pause`, `resume`, or `adjust` with `rpm` or `tpm`; the figures after that."""
        ...


class ProcessSource:
    """A process of this user that has opened its live view."""

    def __init__(self, path: Path) -> None:
        self.process = int(path.stem)
        self._path = path

    def read(self) -> Snapshot:
        return self._ask({})

    def change(self, shown: Shown, what: str, **values: float | None) -> Snapshot:
        return self._ask({"do": what, "throttle": shown.throttle, "budget": shown.stats.name, **values})

    def _ask(self, question: dict[str, Any]) -> Snapshot:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2 * PATIENCE)
            connection.connect(str(self._path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            parts = []
            while part := connection.recv(_PART):
                parts.append(part)
        found = json.loads(b"".join(parts) or b"{}")
        if "throttles" not in found:
            raise ConnectionError(f"process {self.process} did not answer")
        return Snapshot(
            title=f"{found['program']} (process {found['process']})",
            seconds=found["seconds"],
            budgets=tuple(
                Shown(number, budget)
                for number, stats in found["throttles"].items()
                for budget in stats_from(stats).budgets
            ),
            error=found["error"],
        )


def processes() -> list[ProcessSource]:
    """The processes of this user that can be looked at. Sockets that ended processes left behind are removed."""
    found = []
    for path in sorted(directory().glob("*.sock")):
        source = ProcessSource(path) if path.stem.isdecimal() else None
        if source is not None:
            try:
                source.read()
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except (OSError, ValueError):
                continue
            else:
                found.append(source)
    return found
