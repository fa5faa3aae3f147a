"""The measurement: the steps of a plan, run one after the other, and the report of what they found."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import openai

from throttled_openai._commands.terminal import report_progress, show

from .address import redacted_url
from .endpoint import failure
from .report import Report
from .step import Step, holding
from .step_result import StepResult
from .sweep import Point, following, recommend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from throttled_openai._clients.async_client import ThrottledAsyncOpenAI

    from .load import Load
    from .plan import BenchPlan


# Models that are named where the server has several.
_NAMED: Final = 5


class FirstCallError(Exception):
    """The first call shows that nothing can be measured; says why."""


async def measure(plan: BenchPlan, steps: list[Step]) -> None:
    """Run the steps one after the other. Each is added to `steps` as it begins, and is valid at any time.

    Raises `FirstCallError` if the endpoint does not answer within the measured time.
    """
    async with plan.client() as client:
        try:
            await _name_model(plan, client)
            first = await plan.endpoint.probe(client, plan.prompts.next())
        except FirstCallError:
            raise
        except Exception as error:
            hint = _hint(plan.endpoint.base_url, error)
            raise FirstCallError(f"the first call failed, so nothing was measured: {failure(error)}{hint}") from error
        _check_duration(plan.load, first.latency or 0.0)
        for load in _loads(plan, steps):
            throttled = client if load.concurrency is None else holding(client, load.concurrency, rpm=plan.rpm)
            step = Step(throttled, plan.endpoint, plan.prompts, load, plan.bounds)
            steps.append(step)
            reporter = asyncio.create_task(report_progress(step.progress, sys.stderr))
            try:
                await step.run()
            finally:
                reporter.cancel()
                show(step.progress(), sys.stderr, last=True)


async def _name_model(plan: BenchPlan, client: ThrottledAsyncOpenAI) -> None:
    """Without --model: the only model that the server lists."""
    if plan.endpoint.model:
        return
    names = [model.id async for model in client.models.list()]
    if len(names) != 1:
        listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        raise FirstCallError(f"the server lists {len(names)} models, so give one with --model: {listed}".rstrip(": "))
    plan.endpoint.model = names[0]


def _hint(base_url: str, error: Exception) -> str:
    """What is likely wrong with the address, as the end of a sentence."""
    if isinstance(error, openai.NotFoundError) and not urlsplit(base_url).path.rstrip("/").endswith("/v1"):
        return f"; most servers answer below /v1: try --base-url {redacted_url(base_url).rstrip('/')}/v1"
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        return f"; does a server run at {redacted_url(base_url)}?"
    return ""


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
    # Advice from part of a sweep would be about the steps that happened to come first.
    if plan.sweep is not None and not interrupted:
        found = recommend(points_of(steps), plan.goals)
    results = [StepResult.of(step, steps[0], plan.percents) for step in steps]
    return Report(plan.settings(), results, found, interrupted=interrupted, command=plan.command)
