"""The figures of a run: plain numbers from how its calls ended and from the server's log."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .server import simulator

if TYPE_CHECKING:
    from .job import EndedCall
    from .scenario import PlannedCall, Scenario

# The number of time steps of a run in the pictures.
STEPS = 120

# One line of the server's log: instant, status, tokens, and the number of its call.
LoggedAttempt = tuple[float, int, int, "str | None"]


def quantile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of `values` do not exceed; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


@dataclass(frozen=True)
class RivalRun:
    """One run of a rival: its calls, how they ended, the instant it `began`, and its gauge since then."""

    calls: list[PlannedCall]
    ended: list[EndedCall]
    began: float
    gauge: list[tuple[float, float]]


def figures(scenario: Scenario, played: RivalRun, log: list[LoggedAttempt]) -> dict[str, Any]:
    """The record of a run. Durations are seconds.

    - `done` + `failed` + `unfinished` = calls; `failures` counts the classes of exceptions
    - `attempts` the server saw, of which `refused`; `lost_to_refusals`: calls refused and not done
    - `ideal`: the shortest possible time; `over_ideal`: makespan / ideal, if all calls were done
    - `goodput`: the ideal time of the completed calls / the time they took: 1 is the limit
    - `wait`: from the call to the arrival of the admitted attempt; `latency`: to the answer
    - `unfairness`: median wait of the largest size over that of the smallest, if there are several
    - `series`: at `at` seconds, the calls `done` and attempts `refused` until then, and the `gauge`
    """
    calls, ended, began = played.calls, played.ended, played.began
    done = [each for each in ended if each.error is None]
    makespan = max((each.at for each in ended), default=began) - began
    last = max((each.at for each in done), default=began) - began
    arrived = {number: at for at, status, _, number in log if status == 200}
    refused = Counter(number for _, status, _, number in log if status in {429, 503})
    finished = {str(each.call.number) for each in done}
    waits: dict[int, list[float]] = {}
    for each in done:
        at = arrived.get(str(each.call.number))
        if at is not None:
            waits.setdefault(each.call.size, []).append(at - each.asked)
    all_waits = [wait for each in waits.values() for wait in each]
    latencies = [each.at - each.asked for each in done]
    costs = costs_of(scenario, calls)
    ideal = scenario.ideal(calls, sum(costs.values()))
    completed = [each.call for each in done]
    needed = scenario.ideal(completed, sum(costs[call.number] for call in completed)) if done else 0.0
    return {
        "calls": len(calls),
        "done": len(done),
        "failed": len(ended) - len(done),
        "unfinished": len(calls) - len(ended),
        "failures": dict(Counter(each.error for each in ended if each.error).most_common()),
        "attempts": len(log),
        "refused": sum(refused.values()),
        "refused_once_and_done": len(finished & set(refused)),
        "lost_to_refusals": len(set(refused) - finished),
        "makespan": makespan,
        "ideal": ideal,
        "over_ideal": makespan / ideal if len(done) == len(calls) else None,
        "goodput": needed / last if done else 0.0,
        "wait_p50": quantile(all_waits, 0.5),
        "wait_p99": quantile(all_waits, 0.99),
        "latency_p50": quantile(latencies, 0.5),
        "latency_p99": quantile(latencies, 0.99),
        "unfairness": unfairness(waits),
        "series": series(done, log, played, makespan),
    }


def unfairness(waits: dict[int, list[float]]) -> float | None:
    if len(waits) < 2:
        return None
    small, large = (quantile(waits[size], 0.5) or 0.0 for size in (min(waits), max(waits)))
    return large / small if small else None


def costs_of(scenario: Scenario, calls: list[PlannedCall]) -> dict[int, int]:
    """The tokens that the server charges for each call, by the call's number."""
    limits = {"rpm": None, "tpm": None, "slots": None, "max_in_flight": None}
    server = simulator().Simulator(**{**scenario.server, **limits, "slowdown": 0.0})
    path = "/v1/embeddings" if scenario.work.kind == "embeddings" else "/v1/chat/completions"
    costs: dict[int, int] = {}
    for call in calls:
        if call.size not in costs:
            body = {name: value for name, value in call.arguments.items() if name != "extra_headers"}
            server.receive("POST", path, {}, json.dumps(body).encode(), 0.0)
            costs[call.size] = server.log[-1].tokens
    return {call.number: costs[call.size] for call in calls}


def series(
    done: list[EndedCall], log: list[LoggedAttempt], played: RivalRun, makespan: float
) -> dict[str, list[float]]:
    began, gauge = played.began, played.gauge
    step = makespan / STEPS or 1.0
    answered, refused = [0] * (STEPS + 1), [0] * (STEPS + 1)
    for each in done:
        answered[min(STEPS, int((each.at - began) / step) + 1)] += 1
    for at, status, _, _ in log:
        if status in {429, 503}:
            refused[max(0, min(STEPS, int((at - began) / step) + 1))] += 1
    for counts in (answered, refused):
        for index in range(1, STEPS + 1):
            counts[index] += counts[index - 1]
    thinned = gauge[:: max(1, len(gauge) // STEPS)]
    return {
        "at": [round(index * step, 3) for index in range(STEPS + 1)],
        "done": [float(count) for count in answered],
        "refused": [float(count) for count in refused],
        "gauge_at": [round(at, 3) for at, _ in thinned],
        "gauge": [level for _, level in thinned],
    }
