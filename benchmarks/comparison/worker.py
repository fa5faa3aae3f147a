"""The worker process in a rival's environment: reads one run per line, does it, and prints its record.

    python benchmarks/compare.py worker < runs.jsonl

In virtual time client and simulator run in this process, on a loop whose time jumps; `time.time` and
its relatives give the loop's time, so that libraries with clocks of their own follow it. On real
sockets the server is another process. Imports only the standard library, the SDK and the simulator.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import random
import sys
import time
import urllib.request
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import scenario as scenarios
from .figures import RivalRun, figures
from .job import Job
from .server import simulator

try:
    import resource
except ImportError:  # Windows
    resource = None

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Seconds: the median one-way network time of the simulator in this process.
NETWORK = 0.02
# Seconds of virtual time that a turn of the loop takes: aiolimiter, for example, sets timers that are closer
# than the clock's resolution and would never be due in a standing time.
TICK = 1e-6
# Seconds between two samples of a rival's gauge.
SAMPLE_INTERVAL = 0.5

Order = dict[str, Any]
Record = dict[str, Any]

# Only records go into the pipe; warnings of the SDK and of libraries go to stderr.
OUT = sys.stdout


def main() -> int:
    sys.stdout = sys.stderr
    for line in sys.stdin:
        order = json.loads(line)
        try:
            result = run(order)
        except Exception as error:  # noqa: BLE001  # reported in the record
            result = {"broken": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({**order, **result}), file=OUT, flush=True)
    return 0


def run(order: Order) -> Record:
    """Do one run. `order`: rival, settings, scenario, scale, seed, speed, and on real sockets url."""
    scenario = scenarios.read(order["scenario"], order["scale"])
    random.seed(order["seed"])
    gc.collect()
    record: Record
    if order["speed"] == "virtual":
        package = simulator()
        with asyncio.Runner(loop_factory=partial(package.VirtualTimeLoop, tick=TICK)) as runner:
            CLOCK.follow(runner.get_loop())
            record = runner.run(virtual(package, scenario, order))
    else:
        rival_of(order)  # importing is not measured
        record = asyncio.run(real(scenario, order))
    return {**record, "versions": versions(rival_of(order))}


class Clock:
    """Makes `time.time` and its relatives follow the event loop of the run.

    Installed once, before any library is imported: many bind a clock on import.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is None:
            for name in ("time", "monotonic", "perf_counter"):
                setattr(time, name, self.now)
                setattr(time, f"{name}_ns", lambda: int(self.now() * 1e9))
        self._loop = loop

    def now(self) -> float:
        assert self._loop is not None
        return self._loop.time()


CLOCK = Clock()


async def virtual(package: Any, scenario: scenarios.Scenario, order: Order) -> Record:
    faults = [package.Fault(**fault) for fault in scenario.faults]
    server = package.Simulator(
        seed=order["seed"], faults=faults, keep_log=1_000_000, **{"network": NETWORK, **scenario.server}
    )

    def transport(family: str) -> Any:
        return server.transport2() if family == "httpx2" else server.transport()

    async def change(**settings: Any) -> None:
        server.change(**settings)

    played = await play(scenario, order, partial(Job, "http://server.example.com/v1", transport), change)
    log = [(each.at, each.status, each.tokens, each.call) for each in server.log]
    return {**figures(scenario, played, log), "peak_in_flight": server.peak_in_flight}


async def real(scenario: scenarios.Scenario, order: Order) -> Record:
    root = order["url"].removesuffix("/v1")

    def fetch(path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{root}/simulator/{path}", data, timeout=120) as answer:
            return json.load(answer)

    async def change(**settings: Any) -> None:
        await asyncio.to_thread(fetch, "settings", settings)

    memory, cpu = resident(), time.process_time()
    played = await play(scenario, order, partial(Job, order["url"], None), change)
    memory, cpu = max(0, resident() - memory), time.process_time() - cpu
    attempts, stats = await asyncio.to_thread(fetch, "log"), await asyncio.to_thread(fetch, "stats")
    log = [(each["at"], each["status"], each["tokens"], each["call"]) for each in attempts["attempts"]]
    return {
        **figures(scenario, played, log),
        "peak_in_flight": stats["peak_in_flight"],
        "connections": stats["connections_made"],
        "cpu_ms_per_call": cpu / len(played.calls) * 1e3,
        "memory_kb_per_call": memory / len(played.calls),
    }


def resident() -> int:
    """The most memory that this process has used so far, in KB."""
    if resource is None:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most


async def play(
    scenario: scenarios.Scenario, order: Order, new_job: Callable[..., Job], change: Callable[..., Awaitable[None]]
) -> RivalRun:
    """Let the rival make the calls, divided among the clients of the scenario."""
    calls = scenario.calls(order["seed"])
    loop = asyncio.get_running_loop()
    began = loop.time()
    jobs = [
        new_job(calls[first :: scenario.clients], began, **scenario.configured) for first in range(scenario.clients)
    ]
    gauge: list[tuple[float, float]] = []

    async def change_server() -> None:
        for at, settings in scenario.changes:
            await asyncio.sleep(began + at - loop.time())
            await change(**settings)

    async def watch() -> None:
        while True:
            level = jobs[0].gauge()
            if level is not None:
                gauge.append((loop.time() - began, level))
            await asyncio.sleep(SAMPLE_INTERVAL)

    rival = rival_of(order)
    helpers = [asyncio.create_task(change_server()), asyncio.create_task(watch())]
    working = [asyncio.create_task(rival.run(job, **order["settings"])) for job in jobs]
    await asyncio.wait(working, timeout=scenario.until)
    ended = [each for job in jobs for each in job.ended]
    for task in (*working, *helpers):
        task.cancel()
    results = await asyncio.gather(*working, *helpers, return_exceptions=True)
    problems = [each for each in results if isinstance(each, Exception)]
    if problems and not ended:
        raise problems[0]
    return RivalRun(calls, ended, began, gauge)


def rival_of(order: Order) -> Any:
    return importlib.import_module(f"rivals.{order['rival']}")


def versions(rival: Any) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in ("openai", rival.PACKAGE):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "this checkout"
    return found
