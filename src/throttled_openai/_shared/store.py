"""The store: a thread of this process that takes steps for all its budgets, one after the other on one connection."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from typing import TYPE_CHECKING, Final

from .broker import LocalLine
from .lines import RedisLine
from .wire import read_answer, write_ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from throttled_openai._shared.share import Answer, Ask

    from .lines import Line
    from .place import Place

    OnAnswer = Callable[[Answer | None], object]

logger = logging.getLogger("throttled_openai")


class Store:
    """Takes the steps of this process's budgets. The thread is a daemon, and starts with the first step."""

    def __init__(self, place: Place, line: Line | None = None) -> None:
        self.place = place
        self._line = line or (LocalLine(place.address) if place.kind == "local" else RedisLine(place))
        self._asked: queue.SimpleQueue[tuple[str, Ask, OnAnswer]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.failing = False  # whether the last step failed, which was said

    def submit(self, budget: str, ask: Ask, on_answer: OnAnswer) -> None:
        """Take a step. `on_answer` is called once, in another thread: with None if no answer comes."""
        self._asked.put((budget, ask, on_answer))
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(target=self._serve, name="throttled-openai-shared", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:  # no more threads, or the interpreter ends
                        self._fail_all(error)
                        return
                    self._thread = thread

    def _serve(self) -> None:
        while True:
            budget, ask, on_answer = self._asked.get()
            answer = self._take(budget, ask)
            with contextlib.suppress(Exception):
                on_answer(answer)

    def _take(self, budget: str, ask: Ask) -> Answer | None:
        asked = write_ask(ask)
        try:
            try:
                answer = read_answer(self._line.step(budget, asked))
            except Exception as error:
                # A connection may have been closed while it was idle. A store that is too slow is not asked twice.
                self._drop_connection()
                if self.failing or isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError":
                    raise
                answer = read_answer(self._line.step(budget, asked))
        except Exception as error:  # noqa: BLE001  # whatever a store may answer must not end this thread
            self._drop_connection()
            self._say(error)
            return None
        if self.failing:
            self.failing = False
            logger.info("shared budget: %s answers again", self.place.label)
        return answer

    def _drop_connection(self) -> None:
        with contextlib.suppress(Exception):
            self._line.close()

    def _say(self, error: Exception) -> None:
        if not self.failing:
            self.failing = True
            with contextlib.suppress(Exception):
                logger.warning(
                    "shared budget: no answer from %s (%s). Until it answers, this process goes on with its last share "
                    "of the limits, or with all of them if it has never had one; with shared_fallback='closed' calls "
                    "wait instead",
                    self.place.label,
                    reason_of(error),
                )

    def _fail_all(self, error: Exception) -> None:
        self._say(error)
        with contextlib.suppress(queue.Empty):
            while True:
                self._asked.get_nowait()[2](None)


def reason_of(error: Exception) -> str:
    """Kind and text of an error, without user name and password, which no message of ours may hold."""
    text = str(error).split("\n", maxsplit=1)[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Stores:
    """The store of each place, for all throttles of the process. A forked child begins anew."""

    def __init__(self) -> None:
        self._adding = threading.Lock()
        self._found: dict[Place, Store] = {}

    def at(self, place: Place) -> Store:
        with self._adding:
            if place not in self._found:
                self._found[place] = Store(place)
            return self._found[place]

    def forget(self) -> None:
        self._adding, self._found = threading.Lock(), {}


stores: Final = _Stores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stores.forget)
