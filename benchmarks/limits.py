"""Calls finish at the account's limit: the client on real sockets, the simulator in its own process.

    python benchmarks/limits.py              # every scenario, about 100 s
    python benchmarks/limits.py rpm tpm      # some of them

Each scenario sends its calls in one `gather` and is held against the time an omniscient client
would need: `(work - burst) / rate`, or the calls through the server's places, and one latency.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from openai import DefaultAsyncHttpxClient

from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import spawn

MODEL = "gpt-4o"
LATENCY = 0.5
BURST = 1.0


@dataclass(frozen=True)
class Scenario:
    """`tokens`: of one call. `refusals`: most of the attempts that may be refused; `slack`: x ideal."""

    says: str
    calls: int
    server: dict[str, Any]
    refusals: float
    slack: float
    client: dict[str, Any] = field(default_factory=dict)
    tokens: int = 12

    def ideal(self, latency: float) -> float:
        """Seconds an omniscient client needs."""
        if places := self.server.get("max_in_flight"):
            return self.calls * LATENCY_MEAN / places + latency
        times = [0.0]
        if rpm := self.server.get("rpm"):
            times.append((self.calls - BURST * rpm / 60) / (rpm / 60))
        if tpm := self.server.get("tpm"):
            times.append((self.calls * self.tokens - BURST * tpm / 60) / (tpm / 60))
        return max(times) + latency


# Mean of the simulator's lognormal latency (median 0.5 s, sigma 0.2): median x exp(sigma^2 / 2).
LATENCY_MEAN = LATENCY * 1.0202

SCENARIOS = {
    "rpm": Scenario(
        "1,500 calls, rpm=3000 configured",
        1500,
        {"rpm": 3000},
        client={"rpm": 3000},
        refusals=2,
        slack=1.05,
    ),
    "tpm": Scenario(
        "300 calls of 550 tokens, tpm=300000 configured",
        300,
        {"tpm": 300_000},
        client={"tpm": 300_000},
        tokens=550,
        refusals=2,
        slack=1.05,
    ),
    "announced": Scenario(
        "1,500 calls, nothing configured, 3,000 RPM announced",
        1500,
        {"rpm": 3000},
        refusals=15,
        slack=1.10,
    ),
    "capacity": Scenario(
        "1,500 calls, nothing configured or announced, refused above 40 in flight",
        1500,
        {"max_in_flight": 40, "announce": False, "retry_after": False},
        refusals=75,
        slack=1.25,
    ),
}


def message(tokens: int, number: int) -> list[dict[str, str]]:
    """A prompt that the server counts as `tokens` (bytes / 4, one message, and 2)."""
    text = f"{number:06d} "
    return [{"role": "user", "content": text + "x" * ((tokens - 3) * 4 - len(text))}]


async def run(scenario: Scenario, base_url: str) -> dict[str, Any]:
    failures: list[BaseException] = []
    last_latency = 0.0

    async def sent(request: Any) -> None:
        request.extensions["sent_at"] = time.perf_counter()

    async def answered(response: Any) -> None:
        nonlocal last_latency
        await response.aread()
        last_latency = time.perf_counter() - response.request.extensions["sent_at"]

    async with ThrottledAsyncOpenAI(
        api_key="none",
        base_url=base_url,
        http_client=DefaultAsyncHttpxClient(event_hooks={"request": [sent], "response": [answered]}),
        **scenario.client,
    ) as client:

        async def call(number: int) -> None:
            try:
                await client.chat.completions.create(model=MODEL, messages=message(scenario.tokens, number))
            except Exception as error:  # noqa: BLE001  # counted and shown
                failures.append(error)

        began = time.perf_counter()
        await asyncio.gather(*(call(number) for number in range(scenario.calls)))
        seconds = time.perf_counter() - began
        stats = client.throttle.stats()

    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/simulator/stats") as answer:  # noqa: ASYNC210
        seen = json.load(answer)
    ideal = scenario.ideal(last_latency)
    good = not failures and seen["refused"] <= scenario.refusals and seconds <= scenario.slack * ideal
    for failure in failures[:3]:
        print(f"    {type(failure).__name__}: {failure}")
    return {
        "done": stats.succeeded,
        "failed": len(failures),
        "refused": seen["refused"],
        "seconds": seconds,
        "ideal": ideal,
        "peak": seen["peak_in_flight"],
        "good": good,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SCENARIOS], help=", ".join(SCENARIOS))
    parser.add_argument("--json", action="store_true", help="one JSON line per scenario")
    arguments = parser.parse_args()
    all_good = True
    for name in arguments.names or SCENARIOS:
        scenario = SCENARIOS[name]
        with spawn(burst=BURST, latency=LATENCY, **scenario.server) as base_url:
            result = asyncio.run(run(scenario, base_url))
        all_good &= result["good"]
        if arguments.json:
            print(json.dumps({"scenario": name, **result}), flush=True)
            continue
        print(
            f"{scenario.says}\n"
            f"    {result['done']} done, {result['failed']} failed, {result['refused']} refused"
            f" (at most {scenario.refusals}), {result['seconds']:.2f} s"
            f" = {result['seconds'] / result['ideal']:.3f} x ideal (at most {scenario.slack}),"
            f" {result['peak']} in flight at most: {'ok' if result['good'] else 'MISSED'}",
            flush=True,
        )
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
