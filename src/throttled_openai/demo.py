"""The demonstration: the same calls through three clients, timed, on the simulator or a real account."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import argparse
import asyncio
import io
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from ._client import ThrottledAsyncOpenAI
from ._core.estimate import estimate_tokens
from ._core.headers import read_limits
from .simulator import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

# The simulated account. Seconds of the limit that may arrive at once, as OpenAI documents that 60,000
# requests a minute may be enforced as 1,000 a second; and the median latency.
BURST: Final = 1.0
LATENCY: Final = 0.5
RPM: Final = 3000
CALLS: Final = 1000

# A real account costs money: fewer calls, short answers.
LIVE_CALLS: Final = 200
ANSWER_TOKENS: Final = 16
PROMPT: Final = "Say hello in one word."

# Seconds between two runs on a real account: every run is to find the minute's budget full again.
REST = 60.0

# Seconds between two lines of progress: in place on a terminal, below each other in a log.
PROGRESS_ON_TERMINAL: Final = 0.2
PROGRESS_IN_LOG: Final = 5.0

# Open files: the SDK's pool has 1,000 connections, and macOS takes no more than 10,240.
_FILES: Final = 4096


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of sending many calls. `at_once`: of a semaphore around them; None: all in one gather."""

    name: str
    manner: str
    client: Callable[..., AsyncOpenAI]
    at_once: int | None = None


CONTENDERS: Final = (
    Contender("AsyncOpenAI + gather", "Sent all at once", AsyncOpenAI),
    Contender("AsyncOpenAI + Semaphore(10)", "ten at a time", AsyncOpenAI, at_once=10),
    Contender("ThrottledAsyncOpenAI + gather", "ThrottledAsyncOpenAI", ThrottledAsyncOpenAI),
)
_NAME_WIDTH: Final = max(len(contender.name) for contender in CONTENDERS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What every contender is asked to do. `rpm`: what the throttled client is told; None: it finds out."""

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


@dataclass(frozen=True, slots=True)
class Result:
    """How far one contender came. `refused`: responses with status 429; `ideal`: seconds, None: not known."""

    contender: Contender
    calls: int
    done: int
    refused: int
    seconds: float
    ideal: float | None = None
    failures: tuple[tuple[str, int], ...] = ()
    """Exception classes and how many calls ended with each, the most frequent first."""

    @property
    def failed(self) -> int:
        return sum(count for _, count in self.failures)

    @property
    def unfinished(self) -> int:
        return self.calls - self.done - self.failed

    @property
    def share(self) -> float | None:
        """Ideal time / time. None where calls are missing: who gives up is soon done."""
        if self.ideal is None or self.done < self.calls or not self.seconds:
            return None
        return self.ideal / self.seconds


# What is shown


def ideal(calls: int, rate: float, latency: float) -> float:
    """Seconds that `calls` need at `rate` per second, the first `BURST` seconds of it at once.

    `latency` is the server's, of the answer which came last. A run can be a little faster where that call
    was not the last one sent; and much faster on an account that lets more through at once.
    """
    return max(0.0, calls - BURST * rate) / rate + latency


def server_seconds(headers: Mapping[str, str]) -> float:
    """How long the server took, in its own words; 0 where it does not say.

    Measured from here it would include what the client kept itself waiting: 1,000 calls that start
    at once hold up their loop for seconds, and the run would excuse itself with its own delay.
    """
    told = headers.get("openai-processing-ms", "")
    return int(told) / 1000 if told.isascii() and told.isdigit() else 0.0


def table(results: Sequence[Result]) -> str:
    rows = [("", "done", "failed", "429s", "seconds", "of ideal"), *map(_row, results)]
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    )


def _row(result: Result) -> tuple[str, ...]:
    share = "-" if result.share is None else f"{result.share:.0%}"
    counts = (f"{count:,}" for count in (result.done, result.failed, result.refused))
    return result.contender.name, *counts, f"{result.seconds:.1f}", share


def footnotes(results: Sequence[Result]) -> str:
    """What the numbers leave out: lost calls, interrupted runs, what the ideal is."""
    notes = []
    for result in results:
        if result.failures:
            (error, count), *_ = result.failures
            notes.append(
                f"-: {result.contender.name} lost {result.failed:,} calls, most often to {error} ({count:,} times)."
            )
        if result.unfinished:
            notes.append(f"-: {result.contender.name} was interrupted; {result.unfinished:,} calls were not finished.")
    shares = [result.share for result in results if result.share is not None]
    if shares:
        notes.append("of ideal: the shortest time the limit allows, a second's worth of it at once, / seconds.")
    if max(shares, default=0.0) > 1.0:
        notes.append("Above 100%: the server let more than a second's worth through at once.")
    return "\n".join(notes)


def conclusion(results: Sequence[Result]) -> str:
    """Say in two sentences what the table of a whole race shows."""
    *plain, throttled = results
    first = "; ".join(f"{result.contender.manner}, {_fate(result)}" for result in plain)
    second = f"{throttled.contender.manner} got the same calls all at once, and {_fate(throttled)}"
    if throttled.share is not None and throttled.share <= 1.0:
        second += f": {throttled.share:.0%} of the speed the limit allows"
    return f"{first}.\n{second}."


def _fate(result: Result) -> str:
    if result.failed:
        return f"{result.failed:,} of {result.calls:,} calls were lost"
    refusals = {0: "without a 429", 1: "with one 429"}.get(result.refused, f"with {result.refused:,} 429s")
    return f"all came through in {result.seconds:.1f} s {refusals}"


def announcement(plan: Plan) -> str:
    """Say what a race on a real account sends, before it is sent."""
    calls = len(CONTENDERS) * plan.calls
    tokens = calls * (estimate_tokens("/chat/completions", plan.request) + ANSWER_TOKENS)
    host = os.environ.get("OPENAI_BASE_URL") or "OpenAI"
    knows = "learns the limits from the answers" if plan.rpm is None else f"is told rpm={plan.rpm:g}"
    return (
        f"This sends {calls:,} calls ({len(CONTENDERS)} x {plan.calls:,}) to {plan.model} at {host}.\n"
        f'Each asks "{PROMPT}" and takes at most {ANSWER_TOKENS} tokens of answer:'
        f" about {tokens:,} tokens in total. It costs money.\n"
        f"The two plain AsyncOpenAI runs may well provoke 429s, on the account's other users too;"
        f" ThrottledAsyncOpenAI {knows}.\n"
        f"Between the runs it waits {REST:g} s, so that each finds a full minute's budget."
    )


def progress(tally: Tally) -> str:
    width = len(str(tally.calls))
    return (
        f"{tally.contender.name:<{_NAME_WIDTH}}  {tally.done:>{width}}/{tally.calls} done, {tally.failed} failed,"
        f" {tally.refused} × 429   {tally.seconds:.1f} s"  # noqa: RUF001  # a multiplication sign is meant
    )


# What runs


@dataclass(slots=True)
class Tally:
    """The count of one contender's run while it lasts, and after it ended, in whatever way."""

    contender: Contender
    calls: int
    rate: float | None
    """Calls per second of the account; where it is not known before, as the server announces it."""
    done: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    complaint: str = ""
    _latency: float = 0.0
    _began: float = 0.0
    _ended: float | None = None

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def seconds(self) -> float:
        return (time.perf_counter() if self._ended is None else self._ended) - self._began

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self) -> None:
        self._ended = time.perf_counter()

    def fail(self, error: Exception) -> None:
        self.failures[type(error).__name__] += 1
        self.complaint = self.complaint or str(error)

    async def answered(self, response: Any) -> None:
        """Hook: any HTTP response is there, also one that the client tries again."""
        self.refused += response.status_code == 429
        if response.is_success:
            self._latency = server_seconds(response.headers)
        if self.rate is None:
            # OpenAI announces the daily limit alone where a model has one; it says nothing about pace.
            rates = [window.rate for window in read_limits(response.headers).requests if window.period <= 60]
            self.rate = min(rates, default=None)

    def result(self) -> Result:
        return Result(
            contender=self.contender,
            calls=self.calls,
            done=self.done,
            refused=self.refused,
            seconds=self.seconds,
            ideal=None if self.rate is None else ideal(self.calls, self.rate, self._latency),
            failures=tuple(self.failures.most_common()),
        )


def race(plan: Plan, tallies: list[Tally]) -> None:
    """Let the contenders run one after the other; each adds its tally, which is right at any time."""
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


async def _run(plan: Plan, base_url: str | None, tally: Tally, tallies: list[Tally]) -> None:
    options: dict[str, Any] = {}
    if base_url is not None:
        options = {"base_url": base_url, "api_key": "none"}
    if plan.rpm is not None and tally.contender.client is ThrottledAsyncOpenAI:
        options["rpm"] = plan.rpm
    http_client = DefaultAsyncHttpxClient(
        event_hooks={"response": [tally.answered]},
        trust_env=plan.live,  # a proxy of the environment does not lead to our own simulator
    )
    at_once = tally.contender.at_once
    gate = nullcontext() if at_once is None else asyncio.Semaphore(at_once)

    async def call() -> None:
        async with gate:
            try:
                await client.chat.completions.create(**plan.request)
            except Exception as error:  # noqa: BLE001  # counted and shown
                tally.fail(error)
            else:
                tally.done += 1

    async with tally.contender.client(http_client=http_client, **options) as client:
        tally.begin()
        tallies.append(tally)
        reporter = asyncio.create_task(_report(tally))
        try:
            await asyncio.gather(*(call() for _ in range(tally.calls)))
        finally:
            tally.end()
            reporter.cancel()
            _show(progress(tally), last=True)


async def _report(tally: Tally) -> None:
    while True:
        await asyncio.sleep(PROGRESS_ON_TERMINAL if sys.stdout.isatty() else PROGRESS_IN_LOG)
        _show(progress(tally))


def _show(line: str, *, last: bool = False) -> None:
    if sys.stdout.isatty():
        # Exactly one row: a shorter line would leave the end of the one before it, a longer one would wrap.
        room = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:room]:<{room}}", end="\n" if last else "", flush=True)
    else:
        print(line, flush=True)


def _raise_file_limit() -> None:
    """Let the system's default of 256 open files on a Mac not be what fails AsyncOpenAI's 1,000 connections."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _server(plan: Plan) -> AbstractContextManager[str | None]:
    """Give the base URL of a simulator of its own, with a full bucket; None: the one the environment names."""
    if plan.live:
        return nullcontext()
    return spawn(rpm=plan.rpm, burst=BURST, latency=LATENCY)


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to `parser`; `run` takes what it parses."""
    add = parser.add_argument
    add("--calls", type=_count, metavar="N", help=f"through each client (default: {CALLS}; {LIVE_CALLS} with --live)")
    add("--rpm", type=_count, metavar="N", help=f"the account's limit (default: {RPM}; with --live: found out)")
    add(
        "--live",
        metavar="MODEL",
        help="on your own account instead of the simulator: needs OPENAI_API_KEY, costs money",
    )
    add("--yes", action="store_true", help="with --live: send without asking")


def run(arguments: argparse.Namespace) -> int:
    """Run the race and show its table; what was finished is shown after Ctrl-C too, with exit code 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every code page has a multiplication sign
    if arguments.live is None:
        plan = Plan(arguments.calls or CALLS, "gpt-4o", arguments.rpm or RPM, live=False)
        print(
            f"{plan.calls:,} calls through each client; a simulated account with {plan.rpm:,.0f} requests per minute."
        )
    else:
        plan = Plan(arguments.calls or LIVE_CALLS, arguments.live, arguments.rpm, live=True)
        if not os.environ.get("OPENAI_API_KEY"):
            print("demo: --live needs an API key: set OPENAI_API_KEY, or leave out --live", file=sys.stderr)
            return 2
        print(announcement(plan))
        if not arguments.yes and not _agreed():
            print("Nothing was sent.")
            return 1
    print(flush=True)

    _raise_file_limit()
    tallies: list[Tally] = []
    try:
        race(plan, tallies)
    except KeyboardInterrupt:
        _print_results([tally.result() for tally in tallies])
        return 130
    results = [tally.result() for tally in tallies]
    _print_results(results)
    if len(results) < len(CONTENDERS):
        return 1
    print(f"\n{conclusion(results)}\n")
    if not plan.live:
        print("On your own account: OPENAI_API_KEY=... throttled-openai demo --live gpt-4o-mini")
    else:
        print("In your code: from throttled_openai import ThrottledAsyncOpenAI as AsyncOpenAI")
    return 1 if results[-1].failed else 0


def _print_results(results: Sequence[Result]) -> None:
    if results:
        print(f"\n{table(results)}\n\n{footnotes(results)}".rstrip(), flush=True)


def _agreed() -> bool:
    """Ask; no answer is no, and so is an answer that nobody typed."""
    if not sys.stdin.isatty():
        print("Nobody to ask: standard input is not a terminal; --yes sends without asking.")
        return False
    try:
        return input("Send them? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number
