"""What `throttled-openai proxy` adds to a call, what it loses, and whether it keeps all programs to one limit.

    python benchmarks/proxy.py                 # all of them, about four minutes
    python benchmarks/proxy.py alone           # one call at a time, directly and behind the proxy by turns
    python benchmarks/proxy.py held            # the same beside 1,000 calls that the server holds in flight
    python benchmarks/proxy.py crowd           # 1,000 calls in flight that come and go, plain and streamed
    python benchmarks/proxy.py limit           # aiohttp and curl behind one proxy, a server that enforces its limit

Server, proxy and client have a process each. A call's excess is its time, or that until its first event, less the time
that the server says it took. What the proxy adds is the difference of the medians, and of the 95th percentiles. Exits
with 1 if a call is lost, or if the limit is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from throttled_openai._clients.options import OPTIONS
from throttled_openai.simulator import Fault, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "sk-benchmark"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Way:
    """Calls by one way. `excess`: seconds beyond the server's own time."""

    excess: list[float] = field(default_factory=list)
    lost: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.excess)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.excess, n=20)[-1]


@contextlib.asynccontextmanager
async def proxy(upstream: str, *options: str) -> AsyncIterator[str]:
    """The command, as a user starts it."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "throttled_openai", "proxy", "--upstream", upstream, "--port", "0", "--quiet", *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        yield (await running.stdout.readline()).decode().strip()
        seconds = cpu_of(running.pid)
        print(f"    the proxy used {seconds:.1f} s of a core")
    finally:
        running.terminate()
        await running.wait()


def cpu_of(process: int) -> float:
    """Seconds, on Linux."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def call(http: aiohttp.ClientSession, url: str, way: Way, *, streamed: bool, latency: float) -> None:
    began, first, ended = time.perf_counter(), None, b""
    try:
        async with http.post(f"{url}/chat/completions", json={**BODY, "stream": streamed}) as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                first = first or time.perf_counter()
                ended = (ended + piece)[-16:]
            if not streamed:
                latency = int(response.headers["openai-processing-ms"]) / 1000
    except (aiohttp.ClientError, ValueError, OSError) as error:
        way.lost += 1
        print(f"    lost: {error!r}", file=sys.stderr)
        return
    if first is None or (streamed and b"[DONE]" not in ended):
        way.lost += 1
        return
    way.excess.append((first if streamed else time.perf_counter()) - began - (0.0 if streamed else latency))


def session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    return aiohttp.ClientSession(connector=connector, headers={"authorization": f"Bearer {KEY}"})


async def alone(pairs: int, beside: int = 0) -> bool:
    """Both ways by turns, so that what else the machine does is the same for both. `beside`: calls held meanwhile."""
    fine = True
    holds = [Fault("hang", model="held")]
    async with session() as http:
        with spawn(latency=0.02, latency_sigma=0.0, faults=holds) as server:
            async with proxy(server, "--max-concurrency", str(beside + 100)) as proxied:
                held = [asyncio.create_task(hold(http, proxied)) for _ in range(beside)]
                while held and await in_flight(http, proxied) < beside:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(0.5)
                for streamed in (False, True):
                    direct, behind = Way(), Way()
                    for _ in range(pairs):
                        await call(http, server, direct, streamed=streamed, latency=0.02)
                        await call(http, proxied, behind, streamed=streamed, latency=0.02)
                    fine &= told(f"{beside:,} held" if beside else "alone", streamed, direct, behind)
                kept = await in_flight(http, proxied) if held else 0
                for task in held:
                    task.cancel()
                await asyncio.gather(*held, return_exceptions=True)
                await asyncio.sleep(1)
                if held:
                    left = await in_flight(http, proxied)
                    print(f"    {kept:,} were in flight all the while; {left:,} a second after they have hung up")
                    fine &= kept == beside and left == 0
    return fine


async def hold(http: aiohttp.ClientSession, url: str) -> None:
    async with http.post(f"{url}/chat/completions", json={**BODY, "model": "held"}):
        pass


async def in_flight(http: aiohttp.ClientSession, proxied: str) -> int:
    async with http.get(f"{proxied.removesuffix('/v1')}/-/stats") as response:
        return sum(account["in_flight"] for account in (await response.json())["accounts"])


async def crowd(size: int, latency: float) -> bool:
    """`size` calls in flight: one starts every `latency / size` seconds, and at every fourth one goes directly."""
    fine = True
    async with session() as http:
        with spawn(latency=latency, latency_sigma=0.0, completion_tokens=4) as server:
            async with proxy(server, "--max-concurrency", str(2 * size)) as proxied:
                for streamed in (False, True):
                    watching = asyncio.create_task(most_in_flight(http, proxied))
                    direct, behind, unmeasured = Way(), Way(), Way()
                    began, tasks = time.perf_counter(), []
                    for number in range(4 * size):
                        await asyncio.sleep(max(0.0, began + number * latency / size - time.perf_counter()))
                        full = number > 2 * size
                        ways = [(proxied, behind if full else unmeasured)]
                        if number % 4 == 0:
                            ways.append((server, direct if full else unmeasured))
                        for url, way in ways:
                            each = call(http, url, way, streamed=streamed, latency=latency)
                            tasks.append(asyncio.create_task(each))
                    await asyncio.gather(*tasks)
                    watching.cancel()
                    fine &= told("crowd", streamed, direct, behind) and not unmeasured.lost
                    print(f"    up to {await watching:,} in flight; {unmeasured.lost} lost before", flush=True)
    return fine


async def most_in_flight(http: aiohttp.ClientSession, proxied: str) -> int:
    most = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(1)
            most = max(most, await in_flight(http, proxied))
    return most


def told(what: str, streamed: bool, direct: Way, behind: Way) -> bool:
    kind = "streamed, first event" if streamed else "plain"
    lost = direct.lost + behind.lost
    print(
        f"{what:>15}, {kind:21}: adds {1000 * (behind.median - direct.median):5.2f} ms at the median, "
        f"{1000 * (behind.p95 - direct.p95):6.2f} ms at the 95th percentile; {len(behind.excess):,} calls, {lost} lost",
        flush=True,
    )
    return lost == 0


async def limit(rpm: int, calls: int) -> bool:
    """Programs that know nothing of limits, before a server that allows no more than a second's worth at once.

    Where budgets can be shared between processes, a program with the SDK's own client draws on the same one.
    """
    sharing = "shared" in OPTIONS
    options = ["--rpm", str(rpm), *(["--shared", "local"] if sharing else [])]
    with spawn(rpm=rpm, burst=1.0, latency=0.2) as server:
        async with proxy(server, *options) as proxied, session() as http:
            way, began = Way(), time.perf_counter()
            curls = [curl(proxied) for _ in range(calls // 10)]
            mine = [call(http, proxied, way, streamed=number % 2 == 0, latency=0.2) for number in range(calls)]
            by_sdk = calls if sharing else 0
            statuses, failed_by_sdk, _ = await asyncio.gather(
                asyncio.gather(*curls), with_sdk(server, rpm, by_sdk), asyncio.gather(*mine)
            )
            seconds = time.perf_counter() - began
            async with http.get(f"{server.removesuffix('/v1')}/simulator/stats") as response:
                seen: dict[str, Any] = await response.json()
    whole = calls + len(curls) + by_sdk
    failed = way.lost + failed_by_sdk + sum(status != b"200" for status in statuses)
    ideal = (whole - rpm / 60) * 60 / rpm + 0.2
    print(
        f"          limit: {whole} calls of aiohttp, curl{' and the SDK' if sharing else ''} at {rpm} RPM: "
        f"{failed} failed, {seen['refused']} refused by the server, {seconds:.1f} s (ideal {ideal:.1f} s)"
    )
    return not failed and seen["refused"] <= 0.03 * whole


async def with_sdk(server: str, rpm: int, calls: int) -> int:
    """Calls of another process that draws on the store of the proxy; returns how many failed."""
    if not calls:
        return 0
    code = (
        "import asyncio, sys, throttled_openai\n"
        "async def main(url, key, rpm, calls):\n"
        "    client = throttled_openai.ThrottledAsyncOpenAI(base_url=url, api_key=key, rpm=rpm, shared='local')\n"
        "    made = [client.chat.completions.create(model='gpt-4o', messages=[{'role': 'user', 'content': 'hi'}])\n"
        "            for _ in range(calls)]\n"
        "    print(sum(isinstance(each, Exception) for each in await asyncio.gather(*made, return_exceptions=True)))\n"
        "    await client.close()\n"
        "asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))\n"
    )
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, server, KEY, str(rpm), str(calls), stdout=asyncio.subprocess.PIPE
    )
    return int((await running.communicate())[0] or calls)


async def curl(url: str) -> bytes:
    running = await asyncio.create_subprocess_exec(
        "curl", "-s", "-o", os.devnull, "-w", "%{http_code}", f"{url}/chat/completions", "-d", json.dumps(BODY),
        "-H", f"authorization: Bearer {KEY}", "-H", "content-type: application/json",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    return (await running.communicate())[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="some of alone, held, crowd, limit; default: all")
    parser.add_argument("--pairs", type=int, default=300, help="of calls one at a time")
    parser.add_argument("--size", type=int, default=1000, help="calls in flight")
    parser.add_argument("--latency", type=float, default=20.0, help="seconds of each of those")
    parser.add_argument("--rpm", type=int, default=1200)
    parser.add_argument("--calls", type=int, default=300, help="of aiohttp, and a tenth of curl, at the limit")
    given = parser.parse_args()
    parts, fine = given.parts or ["alone", "held", "crowd", "limit"], True
    if unknown := set(parts) - {"alone", "held", "crowd", "limit"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if "alone" in parts:
        fine &= asyncio.run(alone(given.pairs))
    if "held" in parts:
        fine &= asyncio.run(alone(given.pairs, given.size))
    if "crowd" in parts:
        fine &= asyncio.run(crowd(given.size, given.latency))
    if "limit" in parts:
        fine &= asyncio.run(limit(given.rpm, given.calls))
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
