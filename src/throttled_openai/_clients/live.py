"""The live view of this process: a socket through which `throttled-openai top` reads figures and makes changes.

Only the same user can open it: it lies in a directory of mode 0700, has mode 0600 itself, and the user at the other
end is checked where the system says who that is. One line of JSON asks, one answers. Prompts and keys are not in it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._admission.throttle import everywhere

if TYPE_CHECKING:
    from collections.abc import Mapping

    from throttled_openai._admission.throttle import Throttle

logger = logging.getLogger("throttled_openai")

VARIABLE: Final = "THROTTLED_OPENAI_TOP"
# Bytes of a question, and seconds for it and its answer.
MOST: Final = 65_536
PATIENCE: Final = 2.0

_began = time.time()


def directory() -> Path:
    """The directory of this user's sockets, made if need be. Raises `PermissionError` if others could get at it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    whole = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    made = whole / f"throttled-openai-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        made.mkdir(mode=0o700)
    found = made.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{made} must be a directory of this user that no one else can open (mode 0700)")
    return made


class LiveView:
    """Answers on a socket, in a daemon thread. A forked child has a socket of its own."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._process = 0

    def begin(self) -> None:
        """Open the socket, unless it is open. A failure is logged: it must not stop the program."""
        if self._process == os.getpid():
            return
        first, self._process = not self._process, os.getpid()
        try:
            self._open()
        except (OSError, AttributeError) as problem:  # no Unix sockets on this system
            logger.warning("no live view of this process: %s", problem)
            return
        threading.Thread(target=self._serve, name="throttled-openai-top", daemon=True).start()
        if first:
            atexit.register(self.end)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=self.begin)

    def _open(self) -> None:
        if self._socket is not None:  # the parent's
            self._socket.close()
            self._socket = None
        path = directory() / f"{os.getpid()}.sock"
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.bind(str(new))
            new.chmod(0o600)
            opened.listen(8)
            new.rename(path)  # only now: one that does not listen yet looks like one left behind
        except OSError:
            opened.close()
            raise
        self._socket, self._path = opened, path

    def end(self) -> None:
        if self._process != os.getpid():
            return
        if self._path is not None and self._socket is not None:
            self._path.unlink(missing_ok=True)
            self._socket.close()
        self._socket, self._path, self._process = None, None, 0

    def _serve(self) -> None:
        opened = self._socket
        while opened is not None and opened is self._socket:
            try:
                connection, _ = opened.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(Exception):
                connection.settimeout(PATIENCE)
                if _is_same_user(connection):
                    connection.sendall(json.dumps(answer(_read_line(connection))).encode() + b"\n")


def _read_line(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n") and len(data) < MOST:
        part = connection.recv(MOST)
        if not part:
            break
        data += part
    found: dict[str, Any] = json.loads(data)
    return found


def _is_same_user(connection: socket.socket) -> bool:
    if sys.platform != "linux":
        return True  # the modes of the directory and the socket decide
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user in {os.geteuid(), 0})


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one question: the figures after the change that it asks for, or the error of that change."""
    throttles = {str(number): throttle for number, throttle in enumerate(_in_use())}
    error = None
    if "do" in question:
        try:
            _change(throttles[str(question.get("throttle", "0"))], question)
        except (KeyError, TypeError, ValueError) as problem:
            error = str(problem)
    return {
        "process": os.getpid(),
        "program": Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python",
        "seconds": time.time() - _began,
        "throttles": {number: throttle.stats().as_dict() for number, throttle in throttles.items()},
        "error": error,
    }


def _in_use() -> list[Throttle]:
    """Those that have served a call, in an order that stays."""
    return sorted((each for each in everywhere.throttles() if each.stats().budgets), key=id)


def _change(throttle: Throttle, question: Mapping[str, Any]) -> None:
    what, budget = question["do"], question.get("budget")
    if what == "pause":
        throttle.pause(budget, seconds=question.get("seconds"))
    elif what == "resume":
        throttle.resume(budget)
    elif what == "adjust":
        throttle.adjust(budget, rpm=question.get("rpm"), tpm=question.get("tpm"))
    else:
        raise ValueError(f"there is no {what!r}")


view: Final = LiveView()


def begin_if_asked() -> None:
    """Open the socket if the environment asks for it."""
    if os.environ.get(VARIABLE, "") not in {"", "0"}:
        view.begin()
