"""The source: the numbered records of an input, in chunks: lines of bytes, or rows of a table.

It reads files, standard input, compressed files, CSV and Parquet, in bounded memory. Everything here blocks, so it
runs in a thread.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import io
import os
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._request import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STDIN: Final = "-"
# Bytes read at a time, and rows of a Parquet table.
_PIECE: Final = 256 * 1024
_ROWS: Final = 500
# Records of one chunk, all of which are in memory.
_AT_ONCE: Final = 500

Row = dict[str, str]
# A number, and a line without its line end, a row, or None for a line longer than `LONGEST`.
Record = tuple[int, "bytes | Row | None"]


class InputError(Exception):
    """The input cannot be read; the message says from where on."""


class Measure(NamedTuple):
    """What identifies an input: its number of records, and the SHA-256 of the file."""

    records: int
    size: int
    sha256: str


def chunks(name: str, kind: str) -> Iterator[list[Record]]:
    """The records of the input `name` in order, numbered from 1. Raises `InputError`."""
    with _readable(name):
        if kind == "parquet":
            yield from _parquet_rows(name)
        elif kind == "csv":
            yield from _csv_rows(name)
        else:
            yield from _lines(name)


def measure(name: str, kind: str, seen: Callable[[int], None] = lambda _: None) -> Measure:
    """Read a whole file. `seen` is called from time to time with the number of bytes read."""
    with _readable(name):
        digest, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
        with Path(name).open("rb", buffering=0) as file:
            while piece := file.read(4 * _PIECE):
                digest.update(piece)
                size += len(piece)
                lines += piece.count(b"\n")
                last = piece[-1:]
                seen(size)
        if kind == "parquet":
            lines = _parquet().ParquetFile(name).metadata.num_rows
        elif kind == "csv" or _is_compressed(name):
            lines = sum(len(chunk) for chunk in chunks(name, kind))
        else:
            lines += last != b"\n"
        return Measure(lines, size, digest.hexdigest())


def columns(name: str, kind: str) -> list[str]:
    """The names of a table's columns."""
    with _readable(name):
        if kind == "parquet":
            return list(_parquet().ParquetFile(name).schema_arrow.names)
        with _text(name) as text:
            return list(_reader(name, text).fieldnames or [])


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, without that of a compression: `.jsonl` of `a.jsonl.gz`."""
    path = Path(name)
    return Path(path.stem).suffix.lower() if _is_compressed(name) else path.suffix.lower()


def _is_compressed(name: str) -> bool:
    return Path(name).suffix.lower() in {".gz", ".zst"}


@contextmanager
def opened(name: str) -> Iterator[Any]:
    """A stream of the bytes of a file, decompressed, or of standard input."""
    if name == STDIN:
        # Unbuffered, because a thread that waits for a buffered reader delays the exit of the process.
        with io.FileIO(0, closefd=False) as file:
            yield file
    elif name.lower().endswith(".gz"):
        with gzip.open(name, "rb") as unpacked:
            yield unpacked
    elif name.lower().endswith(".zst"):
        reader = zstd().ZstdDecompressor().stream_reader
        with Path(name).open("rb") as packed, reader(packed, read_across_frames=True) as stream:
            yield stream
    else:
        with Path(name).open("rb", buffering=0) as file:
            yield file


def zstd() -> Any:
    try:
        return importlib.import_module("zstandard")  # an extra
    except ImportError as missing:
        raise InputError('.zst needs zstandard: pip install "throttled-openai[run]"') from missing


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")  # an extra
    except ImportError as missing:
        raise InputError('Parquet needs pyarrow: pip install "throttled-openai[parquet]"') from missing


def _lines(name: str) -> Iterator[list[Record]]:
    splitter = _Splitter()
    with opened(name) as stream:
        read = getattr(stream, "read1", stream.read)  # from a pipe, return what has arrived
        while piece := read(_PIECE):
            lines = splitter.split(piece)
            for at in range(0, len(lines), _AT_ONCE):
                yield lines[at : at + _AT_ONCE]
    last = splitter.end()
    if last:
        yield last


class _Splitter:
    """Splits pieces of a file into numbered lines. Lines that are too long are dropped."""

    def __init__(self) -> None:
        self._number = 0
        self._parts: list[bytes] = []  # of the line that is not complete yet
        self._size = 0

    def split(self, piece: bytes) -> list[Record]:
        first, *others = piece.split(b"\n")
        self._keep(first)
        if not others:
            return []
        *whole, begun = others
        lines = [self._ended(), *enumerate(whole, self._number + 1)]
        self._number += len(whole)
        self._keep(begun)
        return lines

    def end(self) -> list[Record]:
        """The last line, if it has no line end."""
        return [self._ended()] if self._size else []

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LONGEST:
            self._parts = []
        elif part:
            self._parts.append(part)

    def _ended(self) -> Record:
        line = b"".join(self._parts) if self._size <= LONGEST else None
        self._number += 1
        self._parts, self._size = [], 0
        return self._number, line


@contextmanager
def _text(name: str) -> Iterator[io.TextIOWrapper]:
    # Bytes that are not UTF-8 become surrogates, which fail their own row rather than the file.
    with opened(name) as stream:
        buffered: Any = io.BufferedReader(stream) if isinstance(stream, io.RawIOBase) else stream
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            yield text
        finally:
            text.detach()


def _reader(name: str, text: io.TextIOWrapper) -> csv.DictReader[str]:
    csv.field_size_limit(LONGEST)
    delimiter = "\t" if suffix_of(name) == ".tsv" else ","
    return csv.DictReader(text, delimiter=delimiter, restkey="", restval="")


def _csv_rows(name: str) -> Iterator[list[Record]]:
    with _text(name) as text:
        rows = iter(_reader(name, text))
        chunk: list[Record] = []
        number = 0
        while True:
            number += 1
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error:
                chunk.append((number, None))
                continue
            chunk.append((number, row))
            if len(chunk) == _ROWS:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


def _parquet_rows(name: str) -> Iterator[list[Record]]:
    number = 0
    for batch in _parquet().ParquetFile(name).iter_batches(batch_size=_ROWS):
        chunk: list[Record] = []
        for row in batch.to_pylist():
            number += 1
            chunk.append((number, {key: "" if value is None else str(value) for key, value in row.items()}))
        yield chunk


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Raise errors of reading as `InputError`."""
    shown = "standard input" if name == STDIN else name
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{shown} is cut off or damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {shown}: {os.strerror(error.errno) if error.errno else error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in {"zstandard", "pyarrow"}:
            raise InputError(f"{shown} is cut off or damaged: {error}") from error
        raise
