"""Several processes that share one limit and know nothing of each other: real sockets, real processes.

    python benchmarks/processes.py                     # 4 processes of 60 calls, 600 RPM in a bucket of a second
    python benchmarks/processes.py --processes 8 --calls 30 --json

Each process is run with the limit configured, learnt from headers, and not known at all. The ideal is
the time in which one client that knows everything would send the last call. Exits with 1 if a call is
lost, or if a run takes longer than `--slack` times the ideal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import openai

from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import Simulator, serve

LATENCY = 0.5
# The limits that each process is configured with, and what the server says.
KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "configured": (True, {"announce": False}),
    "announced": (False, {}),
    "nothing": (False, {"announce": False, "explain_refusals": False}),
    "bare": (False, {"announce": False, "explain_refusals": False, "retry_after": False}),
}


@dataclass(frozen=True)
class Run:
    """What came of one kind."""

    kind: str
    calls: int
    done: int
    failed: int
    refused: int
    seconds: float
    ideal: float

    def __str__(self) -> str:
        return (
            f"{self.kind:>10}: {self.done} of {self.calls} done, {self.failed} failed, {self.refused} refused, "
            f"{self.seconds:.1f} s (ideal {self.ideal:.1f} s)"
        )


def worker(url: str, calls: int, options: dict[str, Any], begin: Any, results: Any) -> None:
    """One process: all its calls at once."""
    results.put(asyncio.run(_work(url, calls, options, begin)))


async def _work(url: str, calls: int, options: dict[str, Any], begin: Any) -> tuple[int, int, int, float]:
    async with ThrottledAsyncOpenAI(api_key="x", base_url=url, **options) as client:
        await asyncio.to_thread(begin.wait)
        results = await asyncio.gather(*(_call(client) for _ in range(calls)))
        ended = time.time()
        refused = sum(budget.refused for budget in client.throttle.stats().budgets)
        return sum(results), calls - sum(results), refused, ended


async def _call(client: ThrottledAsyncOpenAI) -> bool:
    try:
        await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    except openai.OpenAIError:
        return False
    return True


async def play(kind: str, processes: int, calls: int, rpm: float, burst: float) -> Run:
    """Run one kind."""
    configured, server = KINDS[kind]
    options = {"rpm": rpm} if configured else {}
    spawn = multiprocessing.get_context("spawn")
    begin, results = spawn.Barrier(processes + 1), spawn.Queue()
    async with serve(Simulator(rpm=rpm, burst=burst, latency=LATENCY, latency_sigma=0.2, **server)) as url:
        started = [spawn.Process(target=worker, args=(url, calls, options, begin, results)) for _ in range(processes)]
        for process in started:
            process.start()
        await asyncio.to_thread(begin.wait)
        began = time.time()
        ends = [await asyncio.to_thread(results.get) for _ in started]
        for process in started:
            await asyncio.to_thread(process.join)
    done, failed, refused = (sum(end[column] for end in ends) for column in range(3))
    whole = processes * calls
    ideal = max(0.0, whole - burst * rpm / 60) * 60 / rpm + LATENCY
    return Run(kind, whole, done, failed, refused, max(end[3] for end in ends) - began, ideal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=[], help=f"some of {', '.join(KINDS)}; default: all")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--calls", type=int, default=60, help="of each process")
    parser.add_argument("--rpm", type=float, default=600.0)
    parser.add_argument("--burst", type=float, default=1.0, help="seconds of the limit that may arrive at once")
    parser.add_argument("--slack", type=float, default=1.4, help="times the ideal that a run may take")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    runs = []
    for kind in given.kinds or KINDS:
        run = asyncio.run(play(kind, given.processes, given.calls, given.rpm, given.burst))
        runs.append(run)
        print(json.dumps(asdict(run)) if given.json else run, flush=True)
    return int(any(run.failed or run.seconds > given.slack * run.ideal for run in runs))


if __name__ == "__main__":
    sys.exit(main())
