"""What admission itself costs: no SDK, no network, only the queue.

    python benchmarks/admission.py

Prints, for some numbers of waiting calls: microseconds per call to join the queue, to be admitted
and settled, and to give up; the longest time one of our functions kept the event loop; and bytes
per waiting call. Each figure is the best of three runs.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from typing import Any

from throttled_openai import Throttle
from throttled_openai._admission import dispatcher as _dispatcher
from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai._admission.throttle import dispatcher_of

MANNERS = QueueOptions()


class Stopwatch:
    """Times every call of a method: their sum and the longest one."""

    def __init__(self, owner: Any, name: str) -> None:
        self.total = self.longest = 0.0
        timed = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return timed(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.total += took
                self.longest = max(self.longest, took)

        setattr(owner, name, method)


async def once(waiting: int) -> dict[str, float]:
    throttle = Throttle(rpm=60 * 1e6, tpm=60 * 1e9, max_concurrency=1)
    first = await dispatcher_of(throttle).admit(Call("m", 10, MANNERS))

    async def call() -> None:
        permit = await dispatcher_of(throttle).admit(Call("m", 10, MANNERS))
        permit.settle(Outcome.SUCCESS)

    async def nothing() -> None:
        await never

    # What the tasks themselves cost, to take it off.
    never = asyncio.get_running_loop().create_future()
    began = time.perf_counter()
    tasks = [asyncio.create_task(nothing()) for _ in range(waiting)]
    await asyncio.sleep(0)
    bare = time.perf_counter() - began
    never.set_result(None)
    await asyncio.gather(*tasks)
    del tasks

    began = time.perf_counter()
    tasks = [asyncio.create_task(call()) for _ in range(waiting)]
    await asyncio.sleep(0)
    joined = time.perf_counter() - began - bare
    assert throttle.waiting == waiting

    began = time.perf_counter()
    first.settle(Outcome.SUCCESS)
    await asyncio.gather(*tasks)
    admitted = time.perf_counter() - began
    assert throttle.in_flight == 0
    del tasks

    blocker = await dispatcher_of(throttle).admit(Call("m", 10, MANNERS))
    tasks = [asyncio.create_task(call()) for _ in range(waiting)]
    await asyncio.sleep(0)
    began = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    left = time.perf_counter() - began
    assert throttle.waiting == 0
    blocker.settle(Outcome.IGNORED)
    return {"join": joined / waiting * 1e6, "admit": admitted / waiting * 1e6, "leave": left / waiting * 1e6}


async def memory(waiting: int) -> float:
    """Bytes per waiting call, without its task."""
    throttle = Throttle(max_concurrency=1)
    await dispatcher_of(throttle).admit(Call("m", 10, MANNERS))
    coroutines = [dispatcher_of(throttle).admit(Call("m", 10, MANNERS)) for _ in range(waiting)]
    gc.collect()
    tracemalloc.start()
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return used / waiting


def main() -> int:
    watches = [Stopwatch(_dispatcher.Dispatcher, name) for name in ("admit_waiting", "settle")]
    print(f"{'waiting':>8} {'join':>10} {'admit + settle':>15} {'give up':>10} {'longest hold':>13} {'memory':>10}")
    worst = 0.0
    for waiting in (1_000, 10_000, 100_000):
        for watch in watches:
            watch.longest = 0.0
        runs = [asyncio.run(once(waiting)) for _ in range(3)]
        best = {key: min(run[key] for run in runs) for key in runs[0]}
        longest = max(watch.longest for watch in watches) * 1e3
        worst = max(worst, longest)
        size = asyncio.run(memory(waiting))
        print(
            f"{waiting:>8,} {best['join']:>7.1f} us {best['admit']:>12.1f} us {best['leave']:>7.1f} us"
            f" {longest:>10.1f} ms {size:>8,.0f} B",
            flush=True,
        )
    return 0 if worst < 50 else 1


if __name__ == "__main__":
    sys.exit(main())
