"""The disk: what it takes for a change of a file to outlast a power cut."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Have names in it outlast a power cut."""
    with suppress(OSError):  # Windows, and file systems that cannot
        file = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a new content for `path`, which is there as a whole or not at all."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


sync = getattr(os, "fdatasync", os.fsync)
"""Have what was written to a file, given by its number, outlast a power cut."""
