"""The sidecar: a small file beside the output that describes its run, and is locked while the run is under way.

With it, a run does not continue the output of a different run, and two runs never write one output.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any, Final

from ._disk import sync_directory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT: Final = 1
_RUN: Final = re.compile(r"[0-9a-f]{8}")
# Settings that are prompts, of which only a digest is stored.
_PROMPTS: Final = frozenset({"system", "template", "body"})


class WrongRunError(Exception):
    """The output belongs to another run, or another process is writing it."""


class Sidecar:
    """The sidecar of one output. `run`: the name of the run, part of the `id` of each result. Close it at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = ""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self._lock()
            self._before = self._read()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def is_new(self) -> bool:
        return self._before is None

    def begin(self, described: Mapping[str, Any]) -> None:
        """Begin or continue the run with this description. Raises `WrongRunError` if the sidecar has another one."""
        now = json.loads(json.dumps(_without_prompts(described)))
        before = self._before
        if before is None:
            self.run = os.urandom(4).hex()
            self._write({"format": FORMAT, "run": self.run, **now})
            return
        differs = list(_differences(before, now))
        if differs:
            raise WrongRunError(
                f"the results there are those of another run: {'; '.join(differs)}. Choose another output, "
                f"or remove it and {self.path.name} to begin anew"
            )
        self.run = before["run"]

    def discard(self) -> None:
        """Remove the file if no run has begun."""
        if self.is_new and not self.run:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._file)

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongRunError(f"another run is writing there: it has locked {self.path.name}") from None
        except OSError:
            pass  # a file system without locks

    def _read(self) -> dict[str, Any] | None:
        content = os.read(self._file, 1 << 20)
        if not content.strip(b"\0 \n"):
            return None
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not _RUN.fullmatch(str(found.get("run"))) or found.get("format") != FORMAT:
            raise WrongRunError(f"{self.path.name} is not a sidecar of this version: remove it to begin anew")
        return found

    def _write(self, described: dict[str, Any]) -> None:
        content = json.dumps(described, indent=2).encode() + b"\n"
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, content)
        os.fsync(self._file)
        sync_directory(self.path.parent)


def _without_prompts(described: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(described["settings"])
    for name in _PROMPTS & settings.keys():
        text = json.dumps(settings[name], sort_keys=True)
        settings[name] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return {**described, "settings": settings}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    was, given = before.get("input", {}), now["input"]
    if given.get("sha256") != was.get("sha256"):
        sizes = [
            f"{each.get('records') or 0:,} records, sha256 {str(each.get('sha256'))[:12]}" for each in (given, was)
        ]
        yield f"the input is {given['name']} ({sizes[0]}), it was {was.get('name')} ({sizes[1]})"
    before_settings, settings = before.get("settings", {}), now["settings"]
    for name in sorted(before_settings.keys() | settings.keys()):
        one, other = settings.get(name), before_settings.get(name)
        if one != other:
            shown = "is another one" if name in _PROMPTS else f"is {one!r}, it was {other!r}"
            yield f"{name} {shown}"
