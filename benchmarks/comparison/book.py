"""The book: the records of all runs, in a file of JSON lines."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Record = dict[str, Any]


class Book:
    """All records, in memory and in the file. Threads may add to it. `runs`: the number of runs added."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self.records = read(path)
        self.runs = 0

    def add(self, record: Record) -> None:
        with self._lock:
            self.records.append(record)
            self.runs += "variant" in record
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def has(self, order: Record) -> bool:
        return any("broken" not in each and order.items() <= each.items() for each in self.records)


def read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
