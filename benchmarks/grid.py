"""Rate and room together: every way to learn of a rate against every way to lack room, as shares of an oracle.

    python benchmarks/grid.py                          # every cell, three seeds
    python benchmarks/grid.py --seeds 1 --jobs 2       # a look at all of them
    python benchmarks/grid.py below near 429-bare      # words of one column add up, columns narrow down

A cell is a shape (how the room and the rate lie, and whether one of them changes), how the client
learns of the rate, what the server does when it lacks room, and what is limited. Client, SDK and
simulator run in one process on a loop whose time jumps, so the numbers depend on the seeds only. The
oracle does the same work in the same scenario with the plain SDK: a semaphore of exactly the room behind
a bucket of exactly the rate, before a server that refuses nothing. Above 1: in flight for us are also
calls that are under way in the network. Of several seeds the worst is held against the target.
Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import httpx2
from openai import AsyncOpenAI

from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.simulator import Simulator, VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESULTS = Path(__file__).parent / "results" / "grid.json"
URL = "http://server.example.com/v1"
MODEL = "gpt-4o"
LATENCY = 0.5
NETWORK = 0.02
# From this second on the start is over.
LATE = 10.0
# Tokens of the calls where tokens are limited; a rate is that of their mean.
SIZES = (200, 400, 900)
# More is asked for than the oracle can do in the time.
SURPLUS = 1.25

# Each of these is a column of the cells' names.
SHAPES = ("below", "near", "room", "rate")
RATES = ("announced", "configured", "learnt")
LACKS: dict[str, dict[str, Any]] = {
    "429-text": {},
    "429-bare": {"explain_refusals": False, "retry_after": False},
    "503": {"overload_status": 503},
    "503-wait": {"overload_status": 503, "overload_wait": 1.0},
    "queue": {},
    "timeouts": {},
}
BOUNDS = ("requests", "tokens")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Phase:
    """How much the server allows from `at` on: requests per minute (or as many mean calls' tokens), and in flight."""

    at: float
    rate: float
    room: int


@dataclass(frozen=True)
class Cell:
    """One server, one client, and the oracle's shares that it has to come to."""

    shape: str
    rate: str
    lack: str
    bound: str
    sigma: float
    phases: tuple[Phase, ...]
    until: float
    # What a call waits for its answer; None: as long as it takes.
    patience: float | None = None
    calls: int = 0

    @property
    def name(self) -> str:
        return f"{self.shape}/{self.rate}/{self.lack}/{self.bound}"

    @property
    def work(self) -> tuple[Any, ...]:
        """What the oracle's run depends on."""
        return self.bound, self.sigma, self.phases, self.until, self.calls

    @property
    def late_share(self) -> float:
        """The least share of the oracle's work from ten seconds after the start on."""
        if self.shape == "room":
            return 0.95
        return 0.97 if self.shape != "rate" or self.rate == "announced" else 0.86

    def sizes(self, seed: int) -> list[int]:
        if self.bound == "requests":
            return [12] * self.calls
        return Random(seed).choices(SIZES, k=self.calls)

    def limits(self, phase: Phase) -> dict[str, float]:
        """As the simulator and the client name them."""
        return {"rpm": phase.rate} if self.bound == "requests" else {"tpm": phase.rate * unit(self.bound)}


def unit(bound: str) -> float:
    return 1.0 if bound == "requests" else sum(SIZES) / len(SIZES)


def cells(sigma: float) -> dict[str, Cell]:
    """Every cell there is, by name."""
    even = sigma <= 0.2
    shapes = {
        "below": ((Phase(0, 60_000, 20),), 40.0),
        # 27 calls in flight fill the rate on the mean; uneven ones need more room for that.
        "near": ((Phase(0, 3000, 32 if even else 48),), 40.0),
        "room": ((Phase(0, 60_000, 40), Phase(20, 60_000, 20), Phase(40, 60_000, 40)), 60.0),
        "rate": ((Phase(0, 3000, 20), Phase(20, 1500, 20), Phase(40, 3000, 20)), 60.0),
    }
    found = {}
    for shape, rate, lack, bound in product(SHAPES, RATES, LACKS, BOUNDS):
        phases, until = shapes[shape]
        ends = [*[phase.at for phase in phases[1:]], until]
        latency = LATENCY * math.exp(sigma**2 / 2)
        most = sum(
            min(phase.rate / 60, phase.room / latency) * (end - phase.at)
            for phase, end in zip(phases, ends, strict=True)
        )
        cell = Cell(
            shape,
            rate,
            lack,
            bound,
            sigma,
            phases,
            until,
            patience=(4.0 if even else 15.0) if lack == "timeouts" else None,
            calls=math.ceil(SURPLUS * most),
        )
        found[cell.name] = cell
    # Nothing known, nothing said, and no lack of room at all: 600 calls at 600 RPM.
    found[UNKNOWN] = Cell(UNKNOWN, "learnt", "429-bare", "requests", sigma, (Phase(0, 600, 1_000_000),), 300, calls=600)
    return found


@dataclass
class Run:
    """What came of one cell with one seed: units answered late and in the whole run."""

    late: float = 0.0
    whole: float = 0.0
    attempts: int = 0
    refused: int = 0
    timed_out: int = 0
    lost: int = 0
    last: float = 0.0
    cpu: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    def count(self, size: int, now: float) -> None:
        self.whole += size
        self.late += size if now >= LATE else 0
        self.last = now


def prompt(tokens: int) -> list[dict[str, str]]:
    """One message that costs `tokens` (bytes / 4, one message, and 2)."""
    return [{"role": "user", "content": "x" * ((tokens - 3) * 4)}]


async def play(cell: Cell, seed: int) -> Run:
    """Let the real client do the work."""
    first = cell.phases[0]
    place = "slots" if cell.lack in {"queue", "timeouts"} else "max_in_flight"
    server = Simulator(
        seed=seed,
        burst=1.0,
        latency=LATENCY,
        latency_sigma=cell.sigma,
        network=NETWORK,
        announce=cell.rate == "announced",
        **{place: first.room, **cell.limits(first), **LACKS[cell.lack]},
    )
    told = cell.limits(first) if cell.rate == "configured" else {}
    told |= {} if cell.patience is None else {"timeout": cell.patience}
    run = Run()
    loop = asyncio.get_running_loop()
    errors: Counter[str] = Counter()
    transport = server.transport2()
    async with ThrottledAsyncOpenAI(
        api_key="none", base_url=URL, http_client=httpx2.AsyncClient(transport=transport, timeout=600), **told
    ) as client:
        dispatcher_of(client.throttle).random = Random(seed).random

        async def call(size: int) -> None:
            try:
                await client.chat.completions.create(model=MODEL, messages=messages[size])
            except Exception as error:  # noqa: BLE001  # counted and shown
                errors[f"{type(error).__name__}: {error}"[:160]] += 1
            else:
                run.count(size, loop.time())

        async def change() -> None:
            for phase in cell.phases[1:]:
                await asyncio.sleep(phase.at - loop.time())
                server.change(**{place: phase.room, **cell.limits(phase)})

        sizes = cell.sizes(seed)
        messages = {size: prompt(size) for size in set(sizes)}
        async with ended(asyncio.create_task(change()), *(asyncio.create_task(call(size)) for size in sizes)) as tasks:
            await asyncio.wait(tasks[1:], timeout=cell.until)
            stats = server.stats()
    run.attempts, run.refused = stats["attempts"], stats["refused"]
    run.timed_out = stats["abandoned"] if cell.patience is not None else 0
    run.errors, run.lost = dict(errors), sum(errors.values())
    return run


async def ideal(cell: Cell, seed: int) -> Run:
    """Let one who knows do the work, with the plain SDK: no more in flight than the room, no more than the rate."""
    server = Simulator(seed=seed, latency=LATENCY, latency_sigma=cell.sigma, network=NETWORK)
    run = Run()
    loop = asyncio.get_running_loop()
    now = cell.phases[0]
    level = now.rate / 60 * unit(cell.bound)  # a second's worth, as the server's
    filled = in_flight = 0.0
    wake = asyncio.Event()

    def refill() -> None:
        nonlocal level, filled
        most = now.rate / 60 * unit(cell.bound)
        level = min(most, level + (loop.time() - filled) * most)
        filled = loop.time()

    async def change() -> None:
        nonlocal now
        for phase in cell.phases[1:]:
            await asyncio.sleep(phase.at - loop.time())
            refill()
            now = phase
            refill()
            wake.set()

    async with AsyncOpenAI(
        api_key="none",
        base_url=URL,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=server.transport2(), timeout=600),
    ) as client:

        async def call(size: int) -> None:
            nonlocal in_flight
            await client.chat.completions.create(model=MODEL, messages=messages[size])
            in_flight -= 1
            run.count(size, loop.time())
            wake.set()

        async def send() -> None:
            nonlocal in_flight, level
            async with asyncio.TaskGroup() as calls:
                for size in sizes:
                    price = 1 if cell.bound == "requests" else size
                    while True:
                        wake.clear()
                        refill()
                        if in_flight < now.room:
                            if level >= price - 1e-6:
                                break
                            missing = (price - level) * 60 / (now.rate * unit(cell.bound))
                            loop.call_later(missing, wake.set)
                        await wake.wait()
                    level -= price
                    in_flight += 1
                    calls.create_task(call(size))

        sizes = cell.sizes(seed)
        messages = {size: prompt(size) for size in set(sizes)}
        async with ended(asyncio.create_task(change()), asyncio.create_task(send())) as tasks:
            await asyncio.wait(tasks[1:], timeout=cell.until)
    return run


@asynccontextmanager
async def ended(*tasks: asyncio.Task[None]) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
    """Whatever has not come to its end by then is cancelled."""
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def job(cell: Cell, seed: int, *, by_oracle: bool) -> Run:
    began = time.process_time()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        run = runner.run((ideal if by_oracle else play)(cell, seed))
    run.cpu = time.process_time() - began
    return run


@dataclass
class Row:
    """A cell's worst figures of all seeds, and the targets they miss."""

    cell: Cell
    figures: dict[str, float]
    missed: list[str]
    harm: float
    errors: list[str]

    def __str__(self) -> str:
        missed = f"  MISSED {', '.join(self.missed)}" if self.missed else ""
        return f"{self.cell.name:<36} {show(self.cell, self.figures)}{missed}"


def show(cell: Cell, figures: dict[str, float]) -> str:
    if cell.shape == UNKNOWN:
        return f"{figures['over_ideal']:.3f} x ideal, {figures['refusals']:.0f} refused, {figures['lost']:.0f} lost"
    timeouts = f" {figures['timed_out']:>4.0f} timeouts" if cell.patience is not None else ""
    return (
        f"{figures['late']:>6.3f} {figures['whole']:>6.3f} {figures['refused']:>8.2%} {figures['lost']:>5.0f} lost"
        f" {figures['cpu']:>4.0f} s{timeouts}"
    )


def judge(cell: Cell, runs: list[Run], oracles: list[Run]) -> Row:
    """Hold the worst of all seeds against the targets."""
    figures = {
        "refused": max(run.refused / max(1, run.attempts) for run in runs),
        "refusals": max(run.refused for run in runs),
        "timed_out": max(run.timed_out for run in runs),
        "lost": max(run.lost for run in runs),
        "cpu": max(run.cpu for run in runs),
    }
    bounds: list[tuple[str, float, float]] = []  # name, by how much it is missed, weight
    if cell.shape == UNKNOWN:
        phase = cell.phases[0]
        best = (cell.calls - phase.rate / 60) * 60 / phase.rate + LATENCY
        done = all(run.whole == sum(cell.sizes(0)) for run in runs)
        figures["over_ideal"] = max(run.last for run in runs) / best if done else math.inf
        bounds = [
            ("x ideal <= 1.04", figures["over_ideal"] - 1.04, 1),
            ("refusals <= 12", figures["refusals"] - 12, 0.01),
        ]
    else:
        pairs = list(zip(runs, oracles, strict=True))
        figures["late"] = min(run.late / oracle.late for run, oracle in pairs)
        figures["whole"] = min(run.whole / oracle.whole for run, oracle in pairs)
        bounds = [
            (f"late >= {cell.late_share:g}", cell.late_share - figures["late"], 1),
            ("whole >= 0.9", 0.9 - figures["whole"], 1),
            ("refused <= 2 %", figures["refused"] - 0.02, 1),
        ]
    bounds.append(("no call lost", figures["lost"], 1))
    missed = [(name, by * weight) for name, by, weight in bounds if by > 0]
    errors = [f"{count} x {text}" for run in runs for text, count in list(run.errors.items())[:2]]
    return Row(cell, figures, [name for name, _ in missed], sum(by for _, by in missed), errors)


def chosen(words: list[str], sigma: float) -> list[Cell]:
    """The cells that match: of each column one of the words given, or any where none is."""
    columns = [(*SHAPES, UNKNOWN), RATES, tuple(LACKS), BOUNDS]
    if unknown := set(words) - {word for column in columns for word in column}:
        raise SystemExit(f"grid.py: no column has {', '.join(sorted(unknown))}")
    wanted = [set(words) & set(column) or set(column) for column in columns]
    return [
        cell
        for cell in cells(sigma).values()
        if all(
            word in column for word, column in zip((cell.shape, cell.rate, cell.lack, cell.bound), wanted, strict=True)
        )
    ]


def main() -> int:
    columns = "; ".join(", ".join(column) for column in ((*SHAPES, UNKNOWN), RATES, LACKS, BOUNDS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help=columns)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="from 1 to N (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--sigma", type=float, default=0.2, help="of the latencies; 1.0 is uneven (default: 0.2)")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    given = parser.parse_args()
    began = time.monotonic()
    wanted = chosen(given.words, given.sigma)
    seeds = range(1, given.seeds + 1)
    rows: list[Row] = []
    print(f"{'shape/rate/lack of room/bound':<36} {'late':>6} {'whole':>6} {'refused':>8}")
    with ProcessPoolExecutor(given.jobs) as pool:
        oracles: dict[tuple[Any, ...], list[Any]] = {}
        for cell in wanted:
            if cell.work not in oracles:
                known = cell.shape == UNKNOWN  # whose ideal is a formula
                oracles[cell.work] = [None if known else pool.submit(job, cell, seed, by_oracle=True) for seed in seeds]
        runs = {pool.submit(job, cell, seed, by_oracle=False): (cell, seed) for cell in wanted for seed in seeds}
        done: dict[str, dict[int, Run]] = {cell.name: {} for cell in wanted}
        for future in as_completed(runs):
            cell, seed = runs[future]
            done[cell.name][seed] = future.result()
            if len(done[cell.name]) == len(seeds):
                best = [each and each.result() for each in oracles[cell.work]]
                row = judge(cell, [done[cell.name][seed] for seed in seeds], best)
                rows.append(row)
                print(row, flush=True)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    records = [{"cell": row.cell.name, **row.figures, "missed": row.missed, "errors": row.errors} for row in rows]
    given.json.write_text(json.dumps({"seeds": given.seeds, "sigma": given.sigma, "cells": records}, indent=1))
    bad = sorted((row for row in rows if row.missed), key=lambda row: -row.harm)
    print(f"\n{len(rows) - len(bad)} of {len(rows)} cells at their targets, in {time.monotonic() - began:.0f} s")
    for row in bad:
        print(row)
        for text in row.errors[:2]:
            print(f"    {text}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
