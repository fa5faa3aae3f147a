"""The disk: changes to files that survive a power failure."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names of new and renamed files in `directory` survive a power failure."""
    with suppress(OSError):  # Windows, and file systems that do not support it
        file = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file for the new content of `path`, which replaces the old one only when it is complete."""
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
"""Make the data written to a file descriptor survive a power failure."""
