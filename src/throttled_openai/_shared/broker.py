"""The broker: where the processes of one machine meet without a server.

One of the processes keeps the ledgers, in a thread, and the others reach it through a socket in a directory that only
this user can read. It is the one that holds a lock on a file. The system releases that lock when the process ends,
however it ends; the next process that asks takes it, and begins with empty ledgers. So nothing is installed, started or
ended, and nothing remains. A process that stands still (a debugger, SIGSTOP) keeps the lock: then the others go on by
themselves, as without a store, until it runs again.

A Valkey of its own would outlive the process that started it, and would have to be ended when the last process has
gone; and it is one more package, which does not exist for every system.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from .ledger import Ledger

# Seconds to wait for an answer.
PATIENCE: Final = 0.5
# Bytes of the longest line.
LONGEST: Final = 1 << 20
# Seconds after which the ledger of an unused budget is dropped, and budgets at which that is looked at.
KEPT: Final = 90_000.0
MANY: Final = 1000


def directory() -> Path:
    """The directory for sockets of this user; other users may not enter it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    path = Path(tempfile.gettempdir()) / f"throttled-openai-{user}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != user or found.st_mode & 0o077:
        raise PermissionError(f"{path} belongs to another user, or others may enter it: remove it")
    return path


class LocalLine:
    """Steps in the broker, which is in this process if there is none yet."""

    def __init__(self, name: str, *, starts: bool = True) -> None:
        self._name = name
        self._starts = starts
        self._connection: socket.socket | None = None
        self._rest = b""

    def step(self, budget: str, asked: list[str]) -> list[str]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.sendall(json.dumps([budget, asked]).encode() + b"\n")
        while b"\n" not in self._rest:
            found = self._connection.recv(1 << 16)
            if not found:
                raise ConnectionError("the process that kept the shared budgets has ended")
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        answer: list[str] = json.loads(line)
        return answer

    def _connect(self) -> socket.socket:
        path = directory() / f"{self._name}.sock"
        begun = time.monotonic()
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE)
            try:
                connection.connect(str(path))
                return connection
            except OSError:
                connection.close()
                if not self._starts or time.monotonic() - begun > PATIENCE:
                    raise
                if not start_broker(path):
                    time.sleep(0.01)  # another process is about to listen

    def close(self) -> None:
        connection, self._connection, self._rest = self._connection, None, b""
        if connection is not None:
            connection.close()


_brokers: dict[str, tuple[int, Broker]] = {}  # by path, with the file of the lock


def start_broker(path: Path) -> bool:
    """Keep the ledgers in this process, unless another one does. Returns whether it does now."""
    import fcntl  # noqa: PLC0415  # not on Windows

    lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    listening = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        listening.bind(str(path))
        listening.listen(1024)
    except OSError:
        listening.close()
        os.close(lock)
        raise
    broker = Broker(listening)
    _brokers[str(path)] = lock, broker
    threading.Thread(target=broker.serve, name="throttled-openai-broker", daemon=True).start()
    return True


def _leave_to_parent() -> None:
    """In a forked child: the lock and the socket are the parent's, and must not outlive it here."""
    for lock, broker in _brokers.values():
        with contextlib.suppress(OSError):
            os.close(lock)
        broker.leave()
    _brokers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class Broker:
    """Answers the steps of all connections, one after the other."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._ledgers: dict[str, tuple[Ledger, float]] = {}
        self._selector = selectors.DefaultSelector()
        self._rest: dict[Any, bytes] = {}

    def serve(self) -> None:
        self._selector.register(self._listening, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    with contextlib.suppress(OSError):
                        connection, _ = self._listening.accept()
                        connection.settimeout(PATIENCE)
                        self._rest[connection] = b""
                        self._selector.register(connection, selectors.EVENT_READ)
                else:
                    try:
                        self._hear(key.fileobj)
                    except Exception:  # noqa: BLE001  # a broken connection, or one that does not speak as we do
                        self._drop(key.fileobj)

    def _hear(self, connection: Any) -> None:
        found = connection.recv(1 << 16)
        if not found:
            self._drop(connection)
            return
        *lines, self._rest[connection] = (self._rest[connection] + found).split(b"\n")
        if len(self._rest[connection]) > LONGEST:
            raise ValueError("a line without an end")
        for line in lines:
            budget, asked = json.loads(line)
            connection.sendall(json.dumps(self._step(budget, asked)).encode() + b"\n")

    def _step(self, budget: str, asked: list[str]) -> Any:
        now = time.monotonic()
        if not budget:
            return [[key, *one.summary(now)] for key, (one, _) in self._ledgers.items()]
        ledger, _ = self._ledgers.get(budget) or (Ledger(), now)
        self._ledgers[budget] = ledger, now
        if len(self._ledgers) > MANY:
            self._ledgers = {key: one for key, one in self._ledgers.items() if now - one[1] < KEPT}
        return ledger.step(asked, now)

    def leave(self) -> None:
        """Close everything here; the parent's stays open."""
        for connection in (self._listening, *self._rest):
            with contextlib.suppress(OSError):
                connection.close()

    def _drop(self, connection: Any) -> None:
        self._selector.unregister(connection)
        self._rest.pop(connection, None)
        connection.close()
