"""Processes: several workers that send the requests of one run, for when one CPU core is too slow.

The process of the run reads, decides and writes; the workers send. Requests are distributed among them, and those of
a worker that dies are sent by the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import multiprocessing
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._stats import BudgetStats, Stats, WindowStats

from ._channel import Channel
from ._verdict import StopRunError
from ._worker import Answered, Ask, Drop, EndWaits, Failed, Report, Warned, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from multiprocessing.context import SpawnProcess

    from throttled_openai._clients.raw import Answer

logger = logging.getLogger("throttled_openai")

# Seconds that workers have to exit after their channel is closed.
_ENDING: Final = 5.0


class _Lost(Exception):  # never leaves this file
    """The worker has exited before it answered."""


class Processes:
    """`count` worker processes, each with its own client. `make_client` is pickled, because they are spawned.

    A worker that dies is not replaced; the others send the requests that it has not answered.
    """

    def __init__(self, count: int, make_client: Callable[[], Any], *, retries: int, patience: float) -> None:
        self._count = count
        self._arguments = make_client, retries, patience
        self._workers: list[_Link] = []
        self._numbers = 0
        self.on_wait_end: Callable[[], object] = _nothing

    async def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for number in range(self._count):
            ours, theirs = socket.socketpair()
            process = context.Process(target=work, args=(theirs, *self._arguments), daemon=True)
            with _uninterrupted():
                process.start()
            theirs.close()
            link = _Link(f"worker {number + 1}", process, self)
            await link.channel.connect(ours)
            self._workers.append(link)

    async def close(self) -> None:
        """End the workers. Requests that they have not answered are dropped."""
        for link in self._workers:
            link.channel.close()
        for link in self._workers:
            await asyncio.to_thread(link.process.join, _ENDING)
            if link.process.exitcode is None:
                link.process.kill()

    # Calls

    async def post(self, path: str, content: bytes, body: Mapping[str, Any]) -> Answer:
        """As `RawCalls.post`. Raises `StopRunError` if no worker is left."""
        del body
        while True:
            live = [link for link in self._workers if not link.is_lost]
            if not live:
                raise StopRunError("every worker process has ended")
            link = min(live, key=lambda each: len(each.unanswered))
            self._numbers += 1
            try:
                reply = await link.ask(Ask(self._numbers, path, content))
            except _Lost:
                continue
            if isinstance(reply, Failed):
                raise reply.error()
            return reply.answer()

    def end_waits(self, tasks: set[asyncio.Task[Any]]) -> None:
        del tasks
        for link in self._workers:
            link.send(EndWaits())

    # Figures

    @property
    def throttle(self) -> Processes:
        return self

    @property
    def waiting(self) -> int:
        return sum(max(0, len(link.unanswered) - link.stats.in_flight) for link in self._workers)

    @property
    def in_flight(self) -> int:
        return sum(link.stats.in_flight for link in self._workers)

    def stats(self) -> Stats:
        """The sums over all workers."""
        return together([link.stats for link in self._workers])


class _Link:
    """The run's end of the channel to one worker."""

    def __init__(self, name: str, process: SpawnProcess, owner: Processes) -> None:
        self.process = process
        self.channel = Channel(self._received, self._lost)
        self.unanswered: dict[int, asyncio.Future[Answered | Failed]] = {}
        self.stats = Stats(0, 0, ())
        self.is_lost = False
        self._name = name
        self._owner = owner

    async def ask(self, asked: Ask) -> Answered | Failed:
        future: asyncio.Future[Answered | Failed] = asyncio.get_running_loop().create_future()
        self.unanswered[asked.number] = future
        self.send(asked)
        try:
            return await future
        except asyncio.CancelledError:
            self.send(Drop(asked.number))
            raise
        finally:
            self.unanswered.pop(asked.number, None)

    def send(self, message: Any) -> None:
        if not self.is_lost:
            self.channel.send(message)

    def _received(self, message: Any) -> None:
        if isinstance(message, Report):
            self.stats = message.stats
            self._owner.on_wait_end()
        elif isinstance(message, Warned):
            logger.warning("%s: %s", self._name, message.message)
        else:
            future = self.unanswered.get(message.number)
            if future is not None and not future.done():
                future.set_result(message)

    def _lost(self) -> None:
        self.is_lost = True
        self.stats = dataclasses.replace(
            self.stats,
            waiting=0,
            in_flight=0,
            budgets=tuple(
                dataclasses.replace(budget, waiting=0, in_flight=0, concurrency_limit=0, windows=())
                for budget in self.stats.budgets
            ),
        )
        if self.unanswered:
            logger.warning("%s has ended; %d requests go to the others", self._name, len(self.unanswered))
        for future in self.unanswered.values():
            if not future.done():
                future.set_exception(_Lost())


def together(parts: Iterable[Stats]) -> Stats:
    """The sum of the figures of several throttles, each of which has a share of the same limits."""
    parts = list(parts)
    budgets: dict[str, list[BudgetStats]] = {}
    for part in parts:
        for budget in part.budgets:
            budgets.setdefault(budget.name, []).append(budget)
    return Stats(
        sum(part.waiting for part in parts),
        sum(part.in_flight for part in parts),
        tuple(_sum(each) for each in budgets.values()),
    )


_COUNTED: Final = (
    "waiting", "waiting_tokens", "in_flight", "concurrency_limit", "admitted", "succeeded", "refused", "settled",
    "turned_away", "tokens_used",
)  # fmt: skip
_ADDED: Final = "limit", "spendable", "used", "refill"


def _sum(budgets: list[BudgetStats]) -> BudgetStats:
    counts: dict[str, Any] = {name: sum(getattr(each, name) for each in budgets) for name in _COUNTED}
    admitted = max(1, counts["admitted"])
    windows: dict[tuple[str, float], WindowStats] = {}
    for window in [window for each in budgets for window in each.windows]:
        key = window.dimension, window.period
        before = windows.get(key)
        if before is not None:
            sums: dict[str, Any] = {name: getattr(before, name) + getattr(window, name) for name in _ADDED}
            window = dataclasses.replace(before, **sums)
        windows[key] = window
    return dataclasses.replace(
        budgets[0],
        **counts,
        windows=tuple(windows.values()),
        tokens_per_call=sum(each.tokens_per_call * each.admitted for each in budgets) / admitted,
    )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Block signals, so that a process started inside can ignore them before the first one arrives."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _nothing() -> None:
    pass
