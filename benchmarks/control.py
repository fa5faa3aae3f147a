"""The control loop against every kind of server: virtual time, the real client, the SDK included.

    python benchmarks/control.py                     # every scenario, three seeds each; some 20 minutes
    python benchmarks/control.py rpm-known-full large # some of them
    python benchmarks/control.py --seeds 1 --json

Client, SDK and simulator run in one process on a loop whose time jumps, so the numbers depend on
the seeds only, not on the machine. The network takes a median of 20 ms each way, and reorders;
latency is lognormal around half a second. Of several seeds the worst is held against the target.
Exits with 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from dataclasses import dataclass, field
from random import Random
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import httpx2

from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.simulator import Fault, Simulator, VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "gpt-4o"
NETWORK = 0.02


@dataclass(frozen=True)
class Work:
    """What is asked for: `calls` of these sizes (tokens), drawn with the seed; `per_second`, or all at once."""

    calls: int
    sizes: tuple[int, ...] = (12,)
    weights: tuple[float, ...] = (1.0,)
    per_second: float = math.inf

    def draw(self, seed: int) -> list[tuple[int, float]]:
        """Size and instant of each call."""
        random = Random(seed)
        sizes = random.choices(self.sizes, self.weights, k=self.calls)
        if self.per_second == math.inf:
            return [(size, 0.0) for size in sizes]
        return list(zip(sizes, sorted(random.uniform(0, self.calls / self.per_second) for _ in sizes), strict=True))


@dataclass
class Run:
    """What came of one scenario with one seed."""

    scenario: Scenario
    log: list[Any]
    stats: dict[str, Any]
    ended: list[tuple[int, float, float]] = field(default_factory=list)  # tokens, asked at, answered at
    failed: list[tuple[float, str]] = field(default_factory=list)
    cpu: float = 0.0

    def goodput(self) -> float:
        """Units admitted over units that refilled, of the limit that binds, from `since` to the last admission.

        What a full bucket held at the start comes on top: above 100 % it was used.
        """
        admitted = [attempt for attempt in self.log if attempt.status == 200]
        end = min(admitted[-1].at, self.scenario.until) if admitted else 0.0
        shares = []
        for name in ("requests", "tokens"):
            allowed = self._refilled(name, self.scenario.since, end)
            if allowed > 0:
                used = sum(
                    1 if name == "requests" else attempt.tokens
                    for attempt in admitted
                    if self.scenario.since <= attempt.at <= end
                )
                shares.append(used / allowed)
        return max(shares, default=0.0)

    def _refilled(self, name: str, since: float, end: float) -> float:
        key = "rpm" if name == "requests" else "tpm"
        settings = dict(self.scenario.server)
        at, units = 0.0, 0.0
        for when, change in (*self.scenario.changes, (math.inf, {})):
            per_minute = settings.get(key) or 0.0
            # The simulator gives a neighbour no more than half while we ask for more than that.
            per_minute -= min(settings.get(f"neighbour_{key}", 0.0), per_minute / 2)
            units += max(0.0, min(when, end) - max(at, since)) * per_minute / 60
            settings |= change
            at = when
        return units

    def refused(self) -> float:
        """Share of all attempts."""
        return self.stats["refused"] / max(1, self.stats["attempts"])

    def throughput(self) -> float:
        """Calls per second over the second half of the time."""
        end = max(answered for *_, answered in self.ended)
        return sum(answered > end / 2 for *_, answered in self.ended) / (end / 2)

    def latency(self) -> float:
        """Mean seconds a call spent in the server over the second half, by Little's law."""
        return self.stats["in_flight_mean"] / self.throughput()

    def wait(self, tokens: int, share: float) -> float:
        """Seconds from the asking to the answer, of calls of that size; `share`: quantile."""
        waits = sorted(answered - asked for size, asked, answered in self.ended if size == tokens)
        return waits[min(len(waits) - 1, int(share * len(waits)))]


@dataclass(frozen=True)
class Target:
    """What must come of a run: `measure` within bounds."""

    name: str
    measure: Callable[[Run], float]
    least: float = -math.inf
    most: float = math.inf
    percent: bool = False

    def show(self, value: float) -> str:
        bound = f">= {self._number(self.least)}" if self.least > -math.inf else f"<= {self._number(self.most)}"
        return f"{self.name} {self._number(value)} ({bound})"

    def _number(self, value: float) -> str:
        return f"{value:.2%}" if self.percent else f"{value:.2f}"


def goodput(least: float) -> Target:
    return Target("goodput", Run.goodput, least=least, percent=True)


def refused(most: float) -> Target:
    return Target("refused", Run.refused, most=most, percent=True)


@dataclass(frozen=True)
class Scenario:
    """One server, one client, one piece of work; from `since` on it is measured, `until` it is given up."""

    says: str
    work: Work
    server: dict[str, Any]
    targets: tuple[Target, ...]
    client: dict[str, Any] = field(default_factory=dict)
    changes: tuple[tuple[float, dict[str, Any]], ...] = ()
    faults: tuple[Fault, ...] = ()
    since: float = 0.0
    until: float = math.inf
    may_fail: bool = False


def prompt(tokens: int) -> list[dict[str, str]]:
    """One message that costs `tokens` (bytes / 4, one message, and 2)."""
    return [{"role": "user", "content": "x" * ((tokens - 3) * 4)}]


def client_of(scenario: Scenario, server: Simulator, seed: int) -> ThrottledAsyncOpenAI:
    """Our client in front of the scenario's server, with the jitter of `seed`."""
    client = ThrottledAsyncOpenAI(
        api_key="none",
        base_url="http://server.example.com/v1",
        http_client=httpx2.AsyncClient(transport=server.transport2(), timeout=600),
        max_retries=0,
        **scenario.client,
    )
    dispatcher_of(client.throttle).random = Random(seed).random
    return client


async def play(scenario: Scenario, seed: int) -> Run:
    server = Simulator(seed=seed, faults=scenario.faults, keep_log=1_000_000, **{"network": NETWORK, **scenario.server})
    work = scenario.work.draw(seed)
    messages = {size: prompt(size) for size, _ in work}
    loop = asyncio.get_running_loop()
    run = Run(scenario, server.log, {})
    in_flight: list[int] = []
    began = time.process_time()
    async with client_of(scenario, server, seed) as client:

        async def call(size: int, at: float) -> None:
            if at:
                await asyncio.sleep(at)
            try:
                await client.chat.completions.create(model=MODEL, messages=messages[size])
            except Exception as error:  # noqa: BLE001  # counted and shown
                run.failed.append((loop.time(), f"{type(error).__name__}: {error}"[:120]))
            else:
                run.ended.append((size, at, loop.time()))

        async def change() -> None:
            for at, settings in scenario.changes:
                await asyncio.sleep(at - loop.time())
                server.change(**settings)

        async def watch() -> None:
            while True:
                in_flight.append(server.in_flight)
                await asyncio.sleep(0.25)

        beside = [asyncio.create_task(change()), asyncio.create_task(watch())]
        tasks = [asyncio.create_task(call(size, at)) for size, at in work]
        await asyncio.wait(tasks, timeout=None if scenario.until == math.inf else scenario.until)
        for task in (*tasks, *beside):
            task.cancel()
        await asyncio.gather(*tasks, *beside, return_exceptions=True)
    run.cpu = time.process_time() - began
    run.log = server.log
    run.stats = {**server.stats(), "in_flight_mean": mean(in_flight[len(in_flight) // 2 :])}
    return run


SILENT = {"announce": False, "retry_after": False, "explain_refusals": False}
SCENARIOS: dict[str, Scenario] = {}


def _known_limits() -> None:
    """2. Limits known or announced: from a full and from an empty bucket."""
    mixed = Work(2500, (60, 250, 900, 3000), (4, 3, 2, 1))
    works = {
        "rpm": (Work(6000), {"rpm": 3000}),
        "tpm": (Work(2500, (500,)), {"tpm": 300_000}),
        "mixed": (mixed, {"rpm": 3000, "tpm": 300_000}),
    }
    targets = goodput(0.99), refused(0.001)
    for name, (work, limits) in works.items():
        for level, share in (("full", 1.0), ("empty", 0.0)):
            server = {**limits, "initial_level": share}
            says = f"{name}, bucket {level} at first"
            SCENARIOS[f"{name}-announced-{level}"] = Scenario(f"{says}, announced", work, server, targets)
            SCENARIOS[f"{name}-known-{level}"] = Scenario(
                f"{says}, configured and announced", work, server, targets, client=limits
            )
            SCENARIOS[f"{name}-configured-{level}"] = Scenario(
                f"{says}, configured, not announced", work, {**server, "announce": False}, targets, client=limits
            )


def _unknown_limits() -> None:
    """3. Nothing configured, nothing announced, refusals that say nothing."""
    targets = goodput(0.95), refused(0.01)
    mixed = Work(6000, (60, 250, 900, 3000), (4, 3, 2, 1))
    for name, says, work, server, until in (
        ("unknown-rpm", "3,000 RPM, nothing told", Work(24000), {"rpm": 3000}, 480.0),
        ("unknown-slow", "300 RPM, nothing told", Work(5000), {"rpm": 300}, 900.0),
        ("unknown-tpm", "300,000 TPM, mixed sizes, nothing told", mixed, {"tpm": 300_000}, 600.0),
    ):
        SCENARIOS[name] = Scenario(says, work, {**server, **SILENT}, targets, since=120.0, until=until)
    SCENARIOS["unknown-text"] = Scenario(
        "3,000 RPM, only refusals tell",
        Work(24000),
        {"rpm": 3000, "announce": False},
        targets,
        since=120.0,
        until=480.0,
    )


def _wrong_limits() -> None:
    """4. Configured twice too high; limits that change."""
    targets = goodput(0.95), refused(0.01)
    half, twice = ((120.0, {"rpm": 1500}),), ((120.0, {"rpm": 6000}),)
    for suffix, told in (("announced", {}), ("silent", SILENT)):
        server = {"rpm": 3000, **told}
        SCENARIOS[f"too-high-{suffix}"] = Scenario(
            f"6,000 RPM configured, 3,000 allowed, {suffix}", Work(24000), server, targets, {"rpm": 6000}, until=360.0
        )
        SCENARIOS[f"halves-{suffix}"] = Scenario(
            f"3,000 RPM halve after 120 s; from one minute later, {suffix}",
            Work(24000),
            server,
            targets,
            changes=half,
            since=180.0,
            until=360.0,
        )
        SCENARIOS[f"doubles-{suffix}"] = Scenario(
            f"3,000 RPM double after 120 s; from one minute later, {suffix}",
            Work(24000),
            server,
            targets,
            changes=twice,
            since=180.0,
            until=270.0,
        )


def _other_windows() -> None:
    """5. Neighbours, windows shorter than a minute, fixed windows: no failed call, few refusals."""
    for suffix, told, client in (("announced", {}, {}), ("silent", SILENT, {"rpm": 3000})):
        for name, says, server in (
            ("neighbour", "another client takes half of 3,000 RPM", {"neighbour_rpm": 1500.0}),
            ("second", "3,000 RPM, and no more than 50 at once", {"burst": 1.0}),
            ("fixed-1", "3,000 RPM, and 50 in each second", {"fixed_window": 1.0}),
            ("fixed-10", "3,000 RPM, and 500 in each ten seconds", {"fixed_window": 10.0}),
            ("fixed-60", "3,000 RPM, counted in each minute", {"fixed_window": 60.0}),
        ):
            SCENARIOS[f"{name}-{suffix}"] = Scenario(
                f"{says}, {suffix}", Work(9000), {"rpm": 3000, **server, **told}, (goodput(0.90), refused(0.01)), client
            )


def _growth() -> None:
    """A server that asks to slow down when the rate grows too fast: 1.5 times the mean of 15 minutes."""
    SCENARIOS["slow-down"] = Scenario(
        "no limits, but 503 slow_down above 20 calls a second or 1.5 times the mean rate",
        Work(9000),
        {"slow_down_above": 20.0},
        (refused(0.05), Target("calls per second", Run.throughput, least=5.0)),
        until=600.0,
    )


def _queues() -> None:
    """6. A server that queues instead of refusing."""
    for name, says, calls, server in (
        ("knee", "64 places, 1 s each", 15000, {"latency": 1.0, "slots": 64}),
        (
            "knee-slowing",
            "64 places, 1 s alone and 2 s when all are taken",
            8000,
            {"latency": 1.0, "slots": 64, "slowdown": 1.0},
        ),
        ("knee-wide", "400 places, 2 s each", 25000, {"latency": 2.0, "slots": 400}),
    ):
        alone = server["latency"] * math.exp(0.2**2 / 2)
        full = alone * (1 + server.get("slowdown", 0.0) * (server["slots"] - 1) / server["slots"])
        best = server["slots"] / full
        SCENARIOS[name] = Scenario(
            says,
            Work(calls),
            server,
            (
                Target(
                    "throughput of the best", lambda run, best=best: run.throughput() / best, least=0.90, percent=True
                ),
                Target("latency over unloaded", lambda run, alone=alone: run.latency() / alone, most=2.0),
            ),
            until=240.0,
        )


def _sizes() -> None:
    """7. Large requests, a third of the bucket, among small ones."""
    server = {"rpm": 500, "tpm": 60_000}
    large = Work(1500, (400, 20_000), (0.99, 0.01), per_second=1.5)
    SCENARIOS["large"] = Scenario(
        "60,000 TPM, 90 % load, one call in a hundred of 20,000 tokens",
        large,
        server,
        (
            refused(0.001),
            Target("longest wait of a large one", lambda run: run.wait(20_000, 1.0), most=180.0),
            Target("p99 of small ones", lambda run: run.wait(400, 0.99), most=10.0),
        ),
    )
    for name, says, work in (
        ("large-all", "all at once, one in a hundred large", Work(1500, (400, 20_000), (0.99, 0.01))),
        ("small-all", "all at once, none large", Work(2200, (400,))),
    ):
        SCENARIOS[name] = Scenario(
            f"60,000 TPM, {says}", work, {**server, "initial_level": 0.0}, (goodput(0.98), refused(0.002))
        )


def _billing() -> None:
    """8. Ten thousand calls waiting when the account runs dry."""
    SCENARIOS["billing"] = Scenario(
        "10,000 calls at 3,000 RPM; the money is gone after 500",
        Work(10_000),
        {"rpm": 3000},
        (
            Target("refusals seen by the server", lambda run: sum(a.status == 429 for a in run.log), most=10),
            Target(
                "seconds from the first refusal to the last failure",
                lambda run: max(at for at, _ in run.failed) - min(a.at for a in run.log if a.status == 429),
                most=1.0,
            ),
            Target("failed", lambda run: len(run.failed), least=9000),
        ),
        client={"rpm": 3000},
        faults=(Fault("status", status=429, code="insufficient_quota", first=500),),
        may_fail=True,
    )


for fill in (_known_limits, _unknown_limits, _wrong_limits, _other_windows, _growth, _queues, _sizes, _billing):
    fill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON line per scenario")
    arguments = parser.parse_args()
    all_good = True
    for name in arguments.names or SCENARIOS:
        scenario = SCENARIOS[name]
        runs = []
        for seed in range(1, arguments.seeds + 1):
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                runs.append(runner.run(play(scenario, seed)))
        values = {target.name: [target.measure(run) for run in runs] for target in scenario.targets}
        worst = {
            target.name: (min if target.least > -math.inf else max)(values[target.name]) for target in scenario.targets
        }
        failed = max(len(run.failed) for run in runs)
        missed = [
            target.name for target in scenario.targets if not target.least <= worst[target.name] <= target.most
        ] + (["failed"] if failed and not scenario.may_fail else [])
        all_good &= not missed
        done = round(median(len(run.ended) for run in runs))
        if arguments.json:
            print(
                json.dumps({"scenario": name, "done": done, "failed": failed, **values, "missed": missed}), flush=True
            )
            continue
        print(
            f"{name}: {scenario.says}\n    {done} done, {failed} failed, "
            + ", ".join(target.show(worst[target.name]) for target in scenario.targets)
            + f"; {mean(run.cpu for run in runs):.0f} s of CPU: {'MISSED ' + ', '.join(missed) if missed else 'ok'}",
            flush=True,
        )
        if not scenario.may_fail:
            for text in {text for run in runs for _, text in run.failed[:3]}:
                print(f"    {text}")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
