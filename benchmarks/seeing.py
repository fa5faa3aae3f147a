"""What it costs to see: microseconds and allocations of a call, each feature unused and used; and whether it is true.

    python benchmarks/seeing.py              # the costs, and the foretold waits; some five minutes
    python benchmarks/seeing.py costs
    python benchmarks/seeing.py waits

**Costs.** One call is an admission and its end, with a second one waiting behind it. The variants alternate in one
process, in rounds, so that a busy machine is busy for all of them. Time is that of the CPU; the lowest round counts, as
the least disturbed one. The first variant leaves out the question whether anyone listens. Allocations are the blocks of
memory that a call holds until it ends, by `sys.getallocatedblocks`.

**Waits.** In scenarios of `control.py` where limits stay as they are, `explain()` is asked for a call in the middle of
the queue and for the last answer at several instants, and what it says is compared with what then happens.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import logging
import statistics
import sys
import time

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

import control
from throttled_openai import Throttle, otel
from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai._admission.limiter import Limiter
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.simulator import Simulator, VirtualTimeLoop

QUEUE = QueueOptions()
CALLS = 400
ROUNDS = 40
WITHIN = 0.2
MOST = 4_000  # calls of a scenario: enough to wait a minute and more


# --- costs ----------------------------------------------------------------------------------------


async def calls(throttle: Throttle, count: int) -> float:
    """Microseconds of one call: admitted, settled, while another one waits behind it."""
    dispatcher = dispatcher_of(throttle)
    permit = await dispatcher.admit(Call("m", 10, QUEUE))
    began = time.thread_time()
    for _ in range(count):
        waiting = asyncio.ensure_future(dispatcher.admit(Call("m", 10, QUEUE)))
        await asyncio.sleep(0)
        permit.settle(Outcome.SUCCESS)
        permit = await waiting
    took = time.thread_time() - began
    permit.settle(Outcome.SUCCESS)
    return 1e6 * took / count


def make(**options) -> Throttle:
    # One in flight: every further call has to wait for it.
    return Throttle(rpm=60e6, tpm=600e6, max_concurrency=1, **options)


def nothing(*_):
    pass


class Bare:
    """As if nothing of it existed: no figures are kept and no change is looked for."""

    def __enter__(self):
        self._kept = Limiter._note_changes  # noqa: SLF001
        Limiter._note_changes = nothing  # noqa: SLF001

    def __exit__(self, *_):
        Limiter._note_changes = self._kept  # noqa: SLF001


class As:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


class Debug:
    """DEBUG lines, formatted and thrown away."""

    def __enter__(self):
        self._logger, self._handler = logging.getLogger("throttled_openai"), logging.Handler()
        self._handler.emit = lambda record: record.getMessage()
        self._before = self._logger.level, self._logger.propagate
        self._logger.addHandler(self._handler)
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False

    def __exit__(self, *_):
        self._logger.removeHandler(self._handler)
        self._logger.level, self._logger.propagate = self._before
        self._logger.setLevel(self._before[0])


def subscribed(throttle):
    throttle.subscribe(nothing)


def telemetry(throttle):
    meters = MeterProvider([InMemoryMetricReader()])
    otel.instrument(throttle, meter_provider=meters, tracer_provider=TracerProvider())


VARIANTS = {
    "without the question whether anyone listens": (Bare, None, {}),
    "all unused": (As, None, {}),
    "one subscriber that does nothing": (As, subscribed, {}),
    "otel.instrument(), outside of a trace": (As, telemetry, {}),
    "logging at DEBUG": (Debug, None, {}),
    "shadow mode": (As, None, {"enforce": False}),
}


def measured(around, prepare, options, count) -> float:
    async def main():
        throttle = make(**options)
        if prepare is not None:
            prepare(throttle)
        return await calls(throttle, count)

    gc.collect()
    gc.disable()
    try:
        with around():
            return asyncio.run(main())
    finally:
        gc.enable()


def blocks(around, prepare, options) -> float:
    """Blocks of memory that one admitted call holds until it ends."""

    async def main():
        throttle = Throttle(rpm=60e6, tpm=600e6, **options)
        if prepare is not None:
            prepare(throttle)
        dispatcher = dispatcher_of(throttle)
        for _ in range(600):  # fills what is bounded
            (await dispatcher.admit(Call("m", 10, QUEUE))).settle(Outcome.SUCCESS)
        gc.collect()
        permits = [None] * 10
        before = sys.getallocatedblocks()
        for number in range(10):
            permits[number] = await dispatcher.admit(Call("m", 10, QUEUE))
        held = sys.getallocatedblocks() - before
        for permit in permits:
            permit.settle(Outcome.SUCCESS)
        return held / 10

    with around():
        return asyncio.run(main())


def costs() -> bool:
    best = dict.fromkeys(VARIANTS, float("inf"))
    differences = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        found = {name: measured(*variant, CALLS) for name, variant in VARIANTS.items()}
        for name, value in found.items():
            best[name] = min(best[name], value)
            differences[name].append(value - found["without the question whether anyone listens"])
    print(f"{'one call':44}{'us':>8}{'more':>8}{'median more':>13}{'blocks held':>13}")
    base = best["without the question whether anyone listens"]
    for name, variant in VARIANTS.items():
        more, middle = best[name] - base, statistics.median(differences[name])
        print(f"{name:44}{best[name]:8.2f}{more:8.2f}{middle:13.2f}{blocks(*variant):13.1f}")
    throttle = make()
    asyncio.run(calls(throttle, 700))
    for name, function in (("stats()", throttle.stats), ("explain()", throttle.explain), ("repr", throttle.__repr__)):
        began = time.thread_time()
        for _ in range(200):
            function()
        print(f"{name:44}{1e6 * (time.thread_time() - began) / 200:8.2f} each time it is asked")
    unused = best["all unused"] - base
    print(f"unused: {unused:.2f} us a call (at most 1); times are of the CPU, the lowest of {ROUNDS} rounds")
    return unused <= 1.0


# --- waits ----------------------------------------------------------------------------------------

SCENARIOS = (
    *("rpm-configured-full", "rpm-known-full", "rpm-announced-full", "rpm-announced-empty"),
    *("tpm-configured-full", "tpm-announced-full", "tpm-announced-empty", "mixed-configured-full"),
    *("mixed-announced-full", "mixed-announced-empty", "large-all", "small-all", "knee"),
)


async def foretold(scenario, seed: int):
    """For each instant asked: when, foretold and real seconds until a middle call goes, and until all are done."""
    loop = asyncio.get_running_loop()
    server = Simulator(seed=seed, faults=scenario.faults, **{"network": control.NETWORK, **scenario.server})
    work = scenario.work.draw(seed)
    said = []
    async with control.client_of(scenario, server, seed) as client:
        admitted: dict[int, float] = {}
        client.throttle.subscribe(
            lambda event: admitted.setdefault(event.call, event.at) if type(event).__name__ == "Admitted" else None
        )
        tasks = [
            asyncio.create_task(client.chat.completions.create(model=control.MODEL, messages=control.prompt(size)))
            for size, _ in work
        ]
        for at in (20.0, 45.0) if scenario.since or "places" in scenario.says else (5.0, 20.0):
            await asyncio.sleep(at - loop.time())
            [limiter] = list(dispatcher_of(client.throttle).limiters)
            waiters = sorted(limiter.queue.all())
            if len(waiters) < 20:
                break
            middle = waiters[len(waiters) // 2]
            [wait] = client.throttle.explain(middle.call.task).waits
            said.append((at, wait, middle.order[1]))
        await asyncio.gather(*tasks, return_exceptions=True)
        end = loop.time()
    return [(at, wait.goes_in, admitted[number] - at, wait.done_in, end - at) for at, wait, number in said]


def waits() -> bool:
    good = True
    print(f"{'scenario':26}{'asked at':>9}{'goes in':>10}{'went in':>10}{'':8}{'done in':>10}{'was done':>10}")
    for name in SCENARIOS:
        scenario = control.SCENARIOS[name]
        work = dataclasses.replace(scenario.work, calls=min(MOST, scenario.work.calls))
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            rows = runner.run(foretold(dataclasses.replace(scenario, work=work), 1))
        for at, goes, went, done, was in rows:
            missed = not (_close(goes, went) and _close(done, was))
            good &= not missed
            print(
                f"{name:26}{at:9.0f}{goes or 0.0:10.1f}{went:10.1f}{_off(goes, went):>8}"
                f"{done or 0.0:10.1f}{was:10.1f}{_off(done, was):>8}{'  MISSED' if missed else ''}",
                flush=True,
            )
    print(f"all within {WITHIN:.0%}" if good else f"some are off by more than {WITHIN:.0%}")
    return good


def _close(said: float | None, real: float) -> bool:
    """Within a fifth; half a second is no matter to a person."""
    return said is not None and abs(said - real) <= max(WITHIN * real, 0.5)


def _off(said: float | None, real: float) -> str:
    return "" if said is None or not real else f"{said / real - 1:+.0%}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("costs", "waits"))
    what = parser.parse_args().what
    done = [each() for name, each in (("costs", costs), ("waits", waits)) if what in (None, name)]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
