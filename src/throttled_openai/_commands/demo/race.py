"""The race: the same calls through each client, one client after the other."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from openai import DefaultAsyncHttpxClient

from throttled_openai._clients.async_client import ThrottledAsyncOpenAI
from throttled_openai._commands.terminal import report_progress, show
from throttled_openai.simulator import spawn

from .contender import CONTENDERS
from .result import BURST
from .tally import Tally, progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

# Seconds: the median latency of the simulated server.
LATENCY: Final = 0.5

ANSWER_TOKENS: Final = 16
PROMPT: Final = "Say hello in one word."

# Seconds between two runs on a real account, after which the minute's budget is full again.
REST = 60.0


@dataclass(frozen=True, slots=True)
class RacePlan:
    """What every contender sends. `rpm`: the limit that the throttled client is configured with, if any."""

    calls: int
    model: str
    rpm: float | None
    live: bool

    @property
    def request(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_completion_tokens": ANSWER_TOKENS,
        }


def race(plan: RacePlan, tallies: list[Tally]) -> None:
    """Run the contenders one after the other. Each adds its tally, which is valid at any time."""
    for contender in CONTENDERS:
        if plan.live and tallies:
            print(f"waiting {REST:g} s for a full minute's budget", flush=True)
            time.sleep(REST)
        with _server(plan) as base_url:
            tally = Tally(contender, plan.calls, None if plan.live or plan.rpm is None else plan.rpm / 60)
            asyncio.run(_run(plan, base_url, tally, tallies))
        if plan.live and not tally.done:
            print(f"No call was answered, and the other runs would fare no better: {tally.complaint}")
            return


async def _run(plan: RacePlan, base_url: str | None, tally: Tally, tallies: list[Tally]) -> None:
    options: dict[str, Any] = {}
    if base_url is not None:
        options = {"base_url": base_url, "api_key": "none"}
    if plan.rpm is not None and tally.contender.client is ThrottledAsyncOpenAI:
        options["rpm"] = plan.rpm
    http_client = DefaultAsyncHttpxClient(
        event_hooks={"response": [tally.answered]},
        trust_env=plan.live,  # a proxy from the environment cannot reach our own simulator
    )
    at_once = tally.contender.at_once
    limit = nullcontext() if at_once is None else asyncio.Semaphore(at_once)

    async def call() -> None:
        async with limit:
            try:
                await client.chat.completions.create(**plan.request)
            except Exception as error:  # noqa: BLE001  # counted and shown
                tally.fail(error)
            else:
                tally.done += 1

    async with tally.contender.client(http_client=http_client, **options) as client:
        tally.begin()
        tallies.append(tally)
        reporter = asyncio.create_task(report_progress(lambda: progress(tally), sys.stdout))
        try:
            await asyncio.gather(*(call() for _ in range(tally.calls)))
        finally:
            tally.end()
            reporter.cancel()
            show(progress(tally), sys.stdout, last=True)


def _server(plan: RacePlan) -> AbstractContextManager[str | None]:
    """The base URL of a new simulator with a full bucket, or None for the account of the environment."""
    if plan.live:
        return nullcontext()
    return spawn(rpm=plan.rpm, burst=BURST, latency=LATENCY)
