"""One side of a cell: the same calls with one client, in virtual time, and what was left of them."""

import asyncio
import contextlib
import gc
import logging
import signal
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

from interrupts import interrupted_after
from scripted import settled
from support import virtual_run

from .calls import DEADLINE, LOADS, SEAMS, http_client, one, stock
from .cells import CONFIGURED
from .server import now

# Seconds of the processor that a side may take. One that turns on the spot takes for ever.
SPINS = 10


@dataclass
class Run:
    """What one client did in a cell. `said`: (instant, level, text) of what it logged or warned of."""

    endings: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    took: float = 0.0
    attempts: int = 0
    per_call: Counter = field(default_factory=Counter)
    last_refusal: float = 0.0
    said: list = field(default_factory=list)
    left: list = field(default_factory=list)
    hung: int = 0
    spun: bool = False
    cpu: float = 0.0

    @property
    def outcomes(self):
        return Counter(map(str, self.endings))

    @property
    def failures(self):
        return [ending for ending in self.endings if not ending.ok]

    @property
    def slowest(self):
        return max(self.seconds, default=0.0)

    @property
    def warned_at(self):
        return min((at for at, level, _ in self.said if level >= logging.WARNING), default=float("inf"))

    def __str__(self):
        told = ", ".join(f"{count} x {outcome}" for outcome, count in self.outcomes.most_common(4))
        hung = f"; {self.hung} never ended" if self.hung else ""
        return f"{told}{hung}; {self.took:.1f} s, {self.attempts} attempts"


class Spins(BaseException):
    """The side takes the processor without end."""


def run(cell, *, ours):
    """Run the calls of `cell` with stock, or with ours."""
    made = Run()
    began = time.process_time()
    with deterministic(), listening(made), not_for_ever():
        try:
            virtual_run(_run(cell, made, ours=ours))
        except Spins:
            made.spun = True
    made.cpu = time.process_time() - began
    return made


async def _run(cell, made, *, ours):
    server = cell.server()
    options = {"max_retries": cell.retries}
    if cell.timeout is not None:
        options["timeout"] = cell.timeout
    http = http_client(server)
    if ours:
        client, throttle = SEAMS[cell.seam](http, ours=CONFIGURED[cell.configured], **options)
        throttle._dispatcher.random = lambda: 0.0
    else:
        client, throttle = stock(http, **options)
    load, count = LOADS[cell.load]

    async def call(number):
        ending, seconds = await one(client, cell.way, number)
        if now() < DEADLINE:
            made.endings.append(ending)
            made.seconds.append(seconds)

    task = asyncio.create_task(load(count, call))
    try:
        await asyncio.wait([task], timeout=DEADLINE)
    finally:
        made.took, made.hung = now(), count - len(made.endings)
        made.attempts, made.per_call = len(server.attempts), server.per_call
        made.last_refusal = server.last_refusal
    if made.hung:
        task.cancel()
        return
    if throttle is not None:
        made.left = await left(throttle)
    await client.close()


async def left(throttle):
    """What the calls left behind; a stream that was not closed may stay until it is collected."""
    await settled()
    found, stats = [], throttle.stats()
    if stats.in_flight:
        gc.collect()
        await settled()
        stats = throttle.stats()
    if stats.waiting or stats.in_flight:
        found.append(f"{stats.waiting} waiting, {stats.in_flight} in flight")
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        found.append(f"{len(tasks)} tasks")
    timers = [handle for handle in asyncio.get_running_loop()._scheduled if not handle.cancelled()]
    late = [handle.when() - now() for handle in timers if handle.when() - now() > LOOKS_AGAIN]
    if late:
        found.append(f"{len(late)} timers, the last in {max(late):.0f} s")
    return found


# A timer that fires too early only looks again, so one that has been set before the last call ended may stay.
LOOKS_AGAIN = 3600.0


@contextlib.contextmanager
def deterministic():
    """The SDK's own jitter is none."""
    with mock.patch("openai._base_client.random", return_value=0.0):
        yield


@contextlib.contextmanager
def listening(made):
    handler = logging.Handler(logging.DEBUG)

    def emit(record):
        made.said.append((_instant(), record.levelno, record.getMessage()))

    handler.emit = emit
    logger = logging.getLogger("throttled_openai")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        made.said += [(0.0, logging.WARNING, str(warning.message)) for warning in caught]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def _instant():
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return 0.0


@contextlib.contextmanager
def not_for_ever():
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGPROF"):
        yield
        return
    with interrupted_after(SPINS, Spins, of_cpu=True):
        yield
