"""The ids: each `custom_id` seen so far, with its line, in a hash table on disk.

The table is a temporary file without a name, so memory does not grow with the number of ids. Two ids with the same
64-bit hash would count as duplicates; with ten million ids the chance of that is one in 370,000.
"""

from __future__ import annotations

import os
import sys
import tempfile
from hashlib import blake2b
from struct import Struct
from typing import IO, Final

from ._request import BadLineError, Request, dumped

# One slot: the hash of an id, which is never 0, and its line.
_SLOT: Final = Struct("<QQ")
# Slots read at a time.
_BUCKET: Final = 8
_FIRST: Final = 1 << 12
_FULL: Final = 0.5


def check_unique(ids: Ids, request: Request) -> None:
    """Raise `BadLineError` if another line has the same `custom_id` as `request`."""
    before = ids.add(dumped(request.custom_id), request.line)
    if before is not None:
        raise BadLineError("duplicate_custom_id", f"has the custom_id of line {before}")


class Ids:
    """A set of ids with their lines, in a temporary file in `directory`. Close it after use."""

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        self._buckets = _FIRST // _BUCKET
        self._count = 0
        self._file = self._made()

    def add(self, custom_id: bytes, line: int) -> int | None:
        """Record that `line` has this id. If another line has it already, return that line instead."""
        if self._count >= _FULL * self._buckets * _BUCKET:
            self._grow()
        return self._put(_name_of(custom_id), line)

    def line_of(self, custom_id: bytes) -> int | None:
        """The line that has the id, None if no line has it."""
        file, size, name = self._file.fileno(), _BUCKET * _SLOT.size, _name_of(custom_id)
        bucket = name % self._buckets
        while True:
            for other, line in _SLOT.iter_unpack(_read(file, size, bucket * size)):
                if other == name:
                    return int(line)
                if not other:
                    return None
            bucket = (bucket + 1) % self._buckets

    def close(self) -> None:
        self._file.close()

    def _made(self) -> IO[bytes]:
        file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  # closed by `close`
        os.ftruncate(file.fileno(), self._buckets * _BUCKET * _SLOT.size)
        return file

    def _put(self, name: int, line: int) -> int | None:
        file, size = self._file.fileno(), _BUCKET * _SLOT.size
        bucket = name % self._buckets
        while True:
            at = bucket * size
            for slot, (other, where) in enumerate(_SLOT.iter_unpack(_read(file, size, at))):
                if other == name:
                    return None if where == line else where
                if not other:
                    _write(file, _SLOT.pack(name, line), at + slot * _SLOT.size)
                    self._count += 1
                    return None
            bucket = (bucket + 1) % self._buckets

    def _grow(self) -> None:
        old, size = self._file, _BUCKET * _SLOT.size
        before, self._buckets, self._count = self._buckets, 4 * self._buckets, 0
        self._file = self._made()
        with old:
            for bucket in range(before):
                for name, line in _SLOT.iter_unpack(_read(old.fileno(), size, bucket * size)):
                    if name:
                        self._put(name, line)


def _name_of(custom_id: bytes) -> int:
    return int.from_bytes(blake2b(custom_id, digest_size=8).digest(), "little") or 1


def _read(file: int, size: int, at: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(file, size, at)
    os.lseek(file, at, os.SEEK_SET)
    return os.read(file, size)


def _write(file: int, data: bytes, at: int) -> None:
    if sys.platform != "win32":
        os.pwrite(file, data, at)
        return
    os.lseek(file, at, os.SEEK_SET)
    os.write(file, data)
