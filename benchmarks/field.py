"""Servers met in the field that have less room, or smaller buckets, than their limits say: real sockets.

    python benchmarks/field.py                    # every row; the simulator has a process of its own
    python benchmarks/field.py room slow          # those whose names contain a word
    python benchmarks/field.py --virtual          # in memory, on a loop whose time jumps: for a quick look
    python benchmarks/field.py --virtual --stall 0.3   # the loop stands still for 0.3 s every other second

Each row says how long one who knows everything would take, what we took, and how many attempts were
refused. Exits with 1 if a target is missed or a call is lost. On real sockets the figures depend on the
machine; the share of a core that our process used, and the load of the machine, stand beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import httpx2

from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.simulator import Settings, Simulator, VirtualTimeLoop, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MODEL = "gpt-4o"
SPREAD = math.exp(0.2**2 / 2)  # the mean of the simulator's latencies over their median
MILLION = {"rpm": 1_000_000.0}
SECOND = {"rpm": 3000.0, "burst": 1.0, "max_in_flight": 20}
RESERVING = {"tpm": 600_000.0, "burst": 10.0, "charge": "reserve"}
SIX_SECONDS = {"tpm": 120_000.0, "burst": 6.0, "show_burst": True}


@dataclass(frozen=True)
class Row:
    """One server and the work that it is given, at once or every `gap` seconds."""

    says: str
    server: dict[str, Any]
    calls: int
    # Seconds that one who knows everything takes for all of it.
    possible: float
    most_refused: int
    client: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = (12,)
    answer: int | None = None
    bursts: int = 1
    gap: float = 0.0
    # How much longer than possible it may take.
    slack: float = 1.15


def crowded(calls: int, room: int, latency: float) -> float:
    return calls / room * latency * SPREAD


def refilled(tokens: float, per_minute: float, burst: float) -> float:
    return (tokens - burst * per_minute / 60) * 60 / per_minute + 0.5


MIXED = (150, 450, 900, 1350)
ROWS = {
    "room-40": Row(
        "announces 1,000,000 RPM, refuses above 40 in flight",
        {**MILLION, "max_in_flight": 40, "latency": 0.4},
        1000,
        crowded(1000, 40, 0.4),
        49,
    ),
    "room-20-configured": Row(
        "3,000 RPM by the second, configured; room for 20",
        {**SECOND, "announce": False},
        800,
        crowded(800, 20, 0.5),
        39,
        {"rpm": 3000},
    ),
    "room-20-announced": Row("3,000 RPM by the second, announced; room for 20", SECOND, 800, crowded(800, 20, 0.5), 39),
    "room-20-nothing": Row(
        "3,000 RPM by the second, nothing told; room for 20",
        {**SECOND, "announce": False},
        800,
        crowded(800, 20, 0.5),
        39,
    ),
    "slow-down": Row(
        "announces 1,000,000 RPM, 503 slow_down above 12 in flight",
        {**MILLION, "max_in_flight": 12, "latency": 0.4, "overload_status": 503, "overload_code": "slow_down"},
        600,
        crowded(600, 12, 0.4),
        39,
    ),
    "reserves-announced": Row(
        "600,000 TPM in a 10 s bucket, reserves max_tokens, announced",
        RESERVING,
        300,
        refilled(300 * 1100, 600_000, 10),
        9,
        sizes=(100,),
        answer=1000,
    ),
    "reserves-configured": Row(
        "600,000 TPM in a 10 s bucket, reserves max_tokens, configured",
        {**RESERVING, "announce": False},
        300,
        refilled(300 * 1100, 600_000, 10),
        9,
        {"tpm": 600_000},
        sizes=(100,),
        answer=1000,
    ),
    "bucket-at-once": Row(
        "120,000 TPM in a 6 s bucket that headers show; 200 calls at once",
        SIX_SECONDS,
        200,
        refilled(200 * sum(MIXED) / 4, 120_000, 6),
        1,
        sizes=MIXED,
    ),
    "bucket-bursts": Row(
        "120,000 TPM in a 6 s bucket that headers show; 60 calls, three times",
        SIX_SECONDS,
        60,
        60 + refilled(60 * sum(MIXED) / 4, 120_000, 6),
        1,
        sizes=MIXED,
        bursts=3,
        gap=30.0,
    ),
}


@dataclass(frozen=True)
class Virtual:
    """How it goes in virtual time: seconds each way in the network, seconds that the loop stands still."""

    seed: int
    network: float
    stall: float


@dataclass(frozen=True)
class Outcome:
    """What came of a row."""

    seconds: float
    attempts: int
    refused: int
    done: int
    errors: dict[str, int]
    cpu: float


def dealt(row: Row) -> list[int]:
    """Sizes in equal numbers, in a random order, so that all of it is as much as `possible` says."""
    sizes = [row.sizes[index % len(row.sizes)] for index in range(row.calls)]
    Random(1).shuffle(sizes)
    return sizes


async def play(row: Row, virtual: Virtual | None) -> Outcome:
    loop = asyncio.get_running_loop()
    options = {} if row.answer is None else {"max_tokens": row.answer}
    errors: Counter[str] = Counter()
    done = 0
    async with really(row) if virtual is None else virtually(row, virtual) as (client, stats):

        async def call(size: int, at: float) -> None:
            nonlocal done
            await asyncio.sleep(at)
            message = {"role": "user", "content": "x" * ((size - 3) * 4)}
            try:
                await client.chat.completions.create(model=MODEL, messages=[message], **options)
            except Exception as error:  # noqa: BLE001  # counted and shown
                errors[f"{type(error).__name__}: {error}"[:160]] += 1
            else:
                done += 1

        began, spent = loop.time(), time.process_time()
        await asyncio.gather(*(call(size, burst * row.gap) for burst in range(row.bursts) for size in dealt(row)))
        seconds, cpu = loop.time() - began, time.process_time() - spent
        seen = stats()
    return Outcome(seconds, seen["attempts"], seen["refused"], done, dict(errors), cpu)


Opened = tuple[ThrottledAsyncOpenAI, "Callable[[], dict[str, Any]]"]


@asynccontextmanager
async def really(row: Row) -> AsyncIterator[Opened]:
    with spawn(Settings(**row.server)) as url:

        def stats() -> dict[str, Any]:
            with urlopen(f"{url.removesuffix('/v1')}/simulator/stats") as answer:
                return dict(json.load(answer))

        async with ThrottledAsyncOpenAI(api_key="none", base_url=url, **row.client) as client:
            yield client, stats


@asynccontextmanager
async def virtually(row: Row, virtual: Virtual) -> AsyncIterator[Opened]:
    server = Simulator(network=virtual.network, seed=virtual.seed, **row.server)
    http_client = httpx2.AsyncClient(transport=server.transport2(), timeout=600)
    url = "http://server.example.com/v1"
    stalling = asyncio.create_task(stall(virtual.stall))
    async with ThrottledAsyncOpenAI(api_key="none", base_url=url, http_client=http_client, **row.client) as client:
        dispatcher_of(client.throttle).random = Random(virtual.seed).random
        yield client, server.stats
    stalling.cancel()


async def stall(seconds: float) -> None:
    """Let the loop stand still every other second, as one does that shares its core."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    while seconds:
        await asyncio.sleep(2.0)
        loop.jump(seconds)


def missed(row: Row, outcome: Outcome) -> list[str]:
    most = row.slack * row.possible
    return [
        name
        for name, bad in (
            (f"more than {most:.1f} s", outcome.seconds > most),
            (f"more than {row.most_refused} refused", outcome.refused > row.most_refused),
            (f"{sum(outcome.errors.values())} lost", bool(outcome.errors)),
        )
        if bad
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--virtual", action="store_true", help="in memory, in no time")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="with --virtual: seeds; the worst counts")
    parser.add_argument("--network", type=float, default=0.02, help="with --virtual: seconds each way")
    parser.add_argument("--stall", type=float, default=0.0, help="with --virtual: seconds that the loop stands still")
    given = parser.parse_args()
    seeds = range(1, given.seeds + 1) if given.virtual else (0,)
    good = True
    print(f"{'':<72} {'possible':>9} {'ours':>8} {'refused':>8} {'attempts':>9} {'of a core':>10} {'load':>5}")
    for name, row in ROWS.items():
        if given.words and not any(word in name for word in given.words):
            continue
        outcomes = []
        for seed in seeds:
            virtual = Virtual(seed, given.network, given.stall) if given.virtual else None
            with asyncio.Runner(loop_factory=VirtualTimeLoop if given.virtual else None) as runner:
                outcomes.append(runner.run(play(row, virtual)))
        outcome = max(outcomes, key=lambda each: (len(missed(row, each)), each.refused))
        wrong = missed(row, outcome)
        good &= not wrong
        busy = "" if given.virtual else f"{outcome.cpu / outcome.seconds:>10.0%} {os.getloadavg()[0]:>5.1f}"
        print(
            f"{row.says:<72} {row.possible:>7.1f} s {outcome.seconds:>6.1f} s {outcome.refused:>8} "
            f"{outcome.attempts:>9} {busy}{'  MISSED: ' + ', '.join(wrong) if wrong else ''}",
            flush=True,
        )
        for text, count in outcome.errors.items():
            print(f"    {count} x {text}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
