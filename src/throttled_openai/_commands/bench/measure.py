"""The measurement: the steps of a plan, run one after the other, and the report of what they found."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from throttled_openai._commands.terminal import report_progress, show

from .endpoint import failure
from .report import Report
from .step import Step, holding
from .step_result import StepResult
from .sweep import Point, following, recommend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .load import Load
    from .plan import BenchPlan


class FirstCallError(Exception):
    """The first call shows that nothing can be measured; says why."""


async def measure(plan: BenchPlan, steps: list[Step]) -> None:
    """Run the steps one after the other. Each is added to `steps` as it begins, and is valid at any time.

    Raises `FirstCallError` if the endpoint does not answer within the measured time.
    """
    async with plan.client() as client:
        try:
            first = await plan.endpoint.probe(client, plan.prompts.next())
        except Exception as error:
            raise FirstCallError(f"the first call failed, so nothing was measured: {failure(error)}") from error
        _check_duration(plan.load, first.latency or 0.0)
        for load in _loads(plan, steps):
            throttled = client if load.concurrency is None else holding(client, load.concurrency, rpm=plan.rpm)
            step = Step(throttled, plan.endpoint, plan.prompts, load)
            steps.append(step)
            reporter = asyncio.create_task(report_progress(step.progress, sys.stderr))
            try:
                await step.run()
            finally:
                reporter.cancel()
                show(step.progress(), sys.stderr, last=True)


def _check_duration(load: Load, latency: float) -> None:
    """Raises `FirstCallError` if hardly any call could begin and end in the measured time."""
    if load.rate is None and load.duration is not None and latency > load.duration:
        raise FirstCallError(
            f"the first call took {latency:.1f} s, longer than the {load.duration:g} s to measure, so nothing was "
            f"measured: give a --duration of {10 * latency:.0f} or so, or a number of --calls alone"
        )


def _loads(plan: BenchPlan, steps: list[Step]) -> Iterator[Load]:
    """The load of each step; in an automatic sweep it depends on the steps before."""
    if plan.sweep is None:
        yield plan.load
    elif plan.sweep:
        for concurrency in plan.sweep:
            yield replace(plan.load, concurrency=concurrency)
    else:
        while (points := points_of(steps)) is not None and len(points) == len(steps):
            next_concurrency = following(points, plan.goals, plan.most)
            if next_concurrency is None:
                return
            yield replace(plan.load, concurrency=next_concurrency)


def points_of(steps: list[Step]) -> list[Point]:
    """The results of the steps of a sweep, without those that had no answer."""
    points = [Point.of(step.load.concurrency or 0, step.figures()) for step in steps]
    return [point for point in points if point is not None]


def report_of(plan: BenchPlan, steps: list[Step], *, interrupted: bool = False) -> Report:
    found = None
    if plan.sweep is not None:
        # An interrupted step says little.
        complete = steps[:-1] if interrupted else steps
        found = recommend(points_of(complete), plan.goals)
    return Report(plan.settings(), [StepResult.of(step, steps[0]) for step in steps], found, interrupted=interrupted)
