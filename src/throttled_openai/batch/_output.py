"""The output: the file of results, and the only record of which requests are done.

Lines are appended one after the other, so a killed run leaves at most one incomplete line, the last. `scan` reads
which requests are done, `cut` and `keep` remove damaged lines, `Output` appends, and at the end `sort` and `compress`
finish the file.

A result is written to the file in the same turn of the event loop in which it arrived, and synced to the disk every
`SYNC_EVERY` seconds. So a kill loses no result, and a power failure loses the results of that many seconds.
"""

from __future__ import annotations

import gzip
import heapq
import os
import shutil
import tempfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from ._disk import replaced, sync, sync_directory
from ._result import Written, written
from ._sidecar import WrongRunError
from ._source import opened, zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

SYNC_EVERY: Final = 1.0
# Bytes sorted in memory at a time.
_RUN_OF_LINES: Final = 32 * 1024 * 1024


class Lines:
    """A set of line numbers with one bit for each: 1.25 MB for ten million."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, line: int) -> bool:
        """Add `line`. Returns whether it is new."""
        at, bit = line >> 3, 1 << (line & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(max(at + 1 - len(self._bits), len(self._bits) // 4)))
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        self.count += 1
        return True

    def __contains__(self, line: object) -> bool:
        assert isinstance(line, int)
        at = line >> 3
        return at < len(self._bits) and bool(self._bits[at] & 1 << (line & 7))


class Scan(NamedTuple):
    """The content of an output. `done`: lines of the input that have a result. `failed`: how many of them failed.

    `end`: the position after the last complete line. `unwanted`: lines before `end` that are damaged, duplicates, or
    results to be replaced.
    """

    done: Lines
    failed: int
    end: int
    unwanted: int


def scan(
    path: Path,
    run: str,
    seen: Callable[[Written, bytes], object] = lambda *_: None,
    wanted: Callable[[Written], bool] = lambda _: True,
) -> Scan:
    """Read an output from its beginning. Raises `WrongRunError` if a line belongs to another run.

    `wanted`: whether a result counts as done. `seen`: called with each line that does.
    """
    done, failed, at, end, unwanted, before_end = Lines(), 0, 0, 0, 0, 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            at += len(line)
            result = written(line)
            if result is not None and result.run != run:
                raise WrongRunError(
                    f"{path.name} holds results of another run, {result.run}, than its sidecar says, {run}"
                )
            if result is not None:
                end = at
            if result is None or not wanted(result) or not done.add(result.line):
                unwanted += 1
            else:
                failed += not result.ok
                seen(result, line)
            if end == at:
                before_end = unwanted
    return Scan(done, failed, end, before_end)


class Output:
    """Appends results to `path`. If that fails, `failed` is called once with the error."""

    def __init__(self, path: Path, failed: Callable[[OSError], None]) -> None:
        self.path = path
        self._failed = failed
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        self._size = os.lseek(self._file, 0, os.SEEK_END)
        self._synced = self._size
        self._kept: list[bytes] = []
        sync_directory(path.parent)

    @property
    def is_dirty(self) -> bool:
        """Whether some data may not have reached the disk."""
        return self._synced < self._size

    def add(self, line: bytes) -> bool:
        """Keep `line` for the next `flush`. Returns whether it is the first one kept."""
        self._kept.append(line)
        return len(self._kept) == 1

    def flush(self) -> None:
        """Write the lines kept. If that fails, an incomplete line is removed from the file."""
        if not self._kept or self._file is None:
            return
        data, self._kept = b"".join(self._kept), []
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            whole = self._size + data.rfind(b"\n", 0, len(data) - len(left)) + 1
            os.ftruncate(self._file, whole)
            self._size = whole
            os.close(self._file)
            self._file = None
            self._failed(error)
        else:
            self._size += len(data)

    def sync(self) -> None:
        """Sync the file to the disk. May be called in any thread."""
        size, file = self._size, self._file
        if file is not None:
            sync(file)
            self._synced = size

    def close(self) -> None:
        """Flush, sync and close the file."""
        self.flush()
        if self._file is not None:
            try:
                sync(self._file)
            finally:
                os.close(self._file)
                self._file = None


# Whole files


def cut(path: Path, end: int) -> None:
    """Remove everything after `end`, the end of the last complete line."""
    with path.open("r+b") as file:
        file.truncate(end)
        file.flush()
        os.fsync(file.fileno())


def keep(path: Path, which: Callable[[Written], bool]) -> None:
    """Keep only complete lines for which `which` is true, and only one for each line of the input."""
    done = Lines()
    with path.open("rb", buffering=1 << 20) as old, replaced(path) as new:
        for line in old:
            result = written(line)
            if result is not None and which(result) and done.add(result.line):
                new.write(line)


def sort(path: Path) -> None:
    """Sort the lines by their number in the input, by merging sorted parts on disk."""
    if _is_sorted(path):
        return
    with ExitStack() as stack:
        runs = [_run_on_disk(lines, stack, path.parent) for lines in _runs_of(path)]
        with replaced(path) as new:
            for _, line in heapq.merge(*map(_numbered, runs)):
                new.write(line)


def compress(path: Path, target: Path) -> None:
    """Compress `path` to `target`, in the format of its suffix, and remove `path`."""
    with path.open("rb") as plain, replaced(target) as new:
        packed: Any
        if target.suffix.lower() == ".gz":
            packed = gzip.GzipFile("", "wb", 6, new, mtime=0)
        else:
            packed = zstd().ZstdCompressor().stream_writer(new, closefd=False)
        with packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    path.unlink()


def decompress(path: Path, target: Path) -> None:
    """Decompress `path` to `target`, and keep `path`."""
    with opened(str(path)) as packed, replaced(target) as new:
        shutil.copyfileobj(packed, new, 1 << 20)


def _is_sorted(path: Path) -> bool:
    before = 0
    with path.open("rb", buffering=1 << 20) as file:
        for number, _ in _numbered(file):
            if number < before:
                return False
            before = number
    return True


def _runs_of(path: Path) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    size = 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            lines.append(line)
            size += len(line)
            if size >= _RUN_OF_LINES:
                yield lines
                lines, size = [], 0
    yield lines


def _run_on_disk(lines: list[bytes], stack: ExitStack, directory: Path) -> IO[bytes]:
    file = stack.enter_context(tempfile.TemporaryFile(dir=directory))  # noqa: SIM115  # closed by the stack
    file.writelines(line for _, line in sorted(_numbered(lines)))
    file.seek(0)
    return file


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for line in lines:
        result = written(line)
        yield (0 if result is None else result.line), line


def working_path(output: Path) -> Path:
    """The file to append to: `output`, or a file beside it if `output` is compressed at the end."""
    return output.with_name(output.name + ".part") if output.suffix.lower() in {".gz", ".zst"} else output
