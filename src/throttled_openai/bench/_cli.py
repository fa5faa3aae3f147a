"""The command `bench`: what may be asked for, what runs, and where the report goes."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import argparse
import asyncio
import io
import ipaddress
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args
from urllib.parse import urlsplit

from throttled_openai._client import ThrottledAsyncOpenAI
from throttled_openai._pool import http_client
from throttled_openai._throttle import MOST_IN_FLIGHT, affordable

from ._call import hooks
from ._endpoint import Endpoint, Kind, failure
from ._load import Load, Prompts
from ._page import page
from ._report import Part, Report
from ._step import Step, holding
from ._sweep import Goals, Point, following, recommend

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENAI: Final = "https://api.openai.com/v1"
DURATION: Final = 20.0
PROMPT_TOKENS: Final = 128
MAX_TOKENS: Final = 64
TIMEOUT: Final = 600.0
# Of the duration of each step of a sweep: all calls begin at once.
WARM_UP: Final = 0.1
# The most in flight that `--sweep auto` tries.
MOST: Final = 1024
# Calls in a step of a sweep for each one in flight, at least: the first and the last of them have less company.
CALLS_EACH: Final = 10
# Seconds between two lines of progress: in place on a terminal, below each other in a log.
PROGRESS_ON_TERMINAL: Final = 0.2
PROGRESS_IN_LOG: Final = 5.0

INTERRUPTED: Final = 130
# What `--sweep auto` is: no concurrency to begin with.
AUTO: Final[tuple[int, ...]] = ()


Number = TypeVar("Number", int, float)
KINDS: Final[dict[type, str]] = {int: "whole number", float: "number"}


class UsageError(ValueError):
    """What was asked for cannot be done; says why, and what to write instead."""


class FirstCallError(Exception):
    """The call before all others shows that nothing can be measured; says why."""


@dataclass(slots=True)
class Plan:
    """What was asked for, whole and possible. `sweep`: concurrencies; empty: find them; None: one step."""

    endpoint: Endpoint
    api_key: str
    limits: dict[str, Any]
    load: Load
    prompts: Prompts
    prompt_tokens: int | None
    sweep: tuple[int, ...] | None
    most: int
    goals: Goals
    timeout: float

    @property
    def rpm(self) -> float | None:
        rpm: float | None = self.limits.get("rpm")
        return rpm

    def client(self) -> ThrottledAsyncOpenAI:
        """A client whose attempts are timed. It does not try again what fails: that is to be seen."""
        http: Any = http_client("httpx", most_in_flight=affordable(MOST_IN_FLIGHT), event_hooks=hooks())
        return ThrottledAsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.api_key,
            http_client=http,
            max_retries=0,
            timeout=self.timeout,
            **self.limits,
        )

    def settings(self) -> dict[str, Any]:
        """For the report: no prompts, no key."""
        endpoint, load, chat = self.endpoint, self.load, self.endpoint.kind == "chat"
        return {
            "base_url": shown(endpoint.base_url),
            "model": endpoint.model,
            "endpoint": endpoint.kind,
            "stream": endpoint.streams,
            "prompt_tokens": self.prompt_tokens,
            "max_tokens": endpoint.max_tokens if chat else None,
            "extra": {name: _harmless(value) for name, value in endpoint.extra.items()},
            "left_out": list(endpoint.forgone),
            "rate_calls_per_second": load.rate,
            "concurrency": load.concurrency,
            "sweep": None if self.sweep is None else list(self.sweep) or "auto",
            "calls": load.calls,
            "duration_seconds": load.duration,
            "warm_up_seconds": load.warm_up,
            "warm_up_calls": load.warm_up_calls,
            "seed": load.seed,
            "timeout_seconds": self.timeout,
            **{name: self.limits.get(name) for name in ("rpm", "tpm", "max_concurrency")},
            "goals": str(self.goals) or None,
            "first_token_goal_seconds": self.goals.first_token,
            "latency_goal_seconds": self.goals.latency,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bench's options to `parser`; `run` takes what it parses."""
    parser.epilog = (
        "With neither --rate, --concurrency nor --sweep, as many calls as the client's limits admit. The key is "
        "OPENAI_API_KEY. Neither it nor any prompt is in what is printed or written."
    )
    add = parser.add_argument
    add("--model", required=True, help="whose answers are measured")
    add("--base-url", metavar="URL", help="where (default: OPENAI_BASE_URL, or OpenAI)")
    add("--endpoint", choices=get_args(Kind), default="chat", help="what is called (default: chat)")
    add("--no-stream", dest="stream", action="store_false", help="whole answers, without time to first token")

    load = parser.add_argument_group("what is sent, and when")
    add = load.add_argument
    add("--rate", type=_positive, metavar="N", help="calls per second, arriving at random whatever became of others")
    add("--concurrency", type=_count, metavar="N", help="calls in flight, each followed by another")
    add("--sweep", type=_sweep, metavar="N,N,...", help="a step for each concurrency; auto: find the one to recommend")
    add("--duration", type=_positive, metavar="SECONDS", help=f"of each step (default: {DURATION:g}, or until --calls)")
    add("--calls", type=_count, metavar="N", help="in each step")
    add("--warm-up", type=_no_less_than_0, metavar="SECONDS",
        help="before each step, not counted (default: 0; with --sweep a tenth of the duration)")  # fmt: skip
    add("--warm-up-calls", type=_count, default=0, metavar="N", help="as many calls are not counted")
    add("--prompt-tokens", type=_count, metavar="N", help=f"about, of random words (default: {PROMPT_TOKENS})")
    add("--prompt", type=Path, metavar="FILE", help="prompts of your own, one a line, in turn")
    add("--max-tokens", type=_count, metavar="N", help=f"of an answer (default: {MAX_TOKENS})")
    add("--extra", type=_object, default={}, metavar="JSON",
        help="more of each request's body, such as '{\"ignore_eos\": true}'")  # fmt: skip
    add("--seed", type=int, metavar="N", help="of arrivals and prompts (default: another one each time)")

    client = parser.add_argument_group("our client")
    add = client.add_argument
    add("--rpm", type=_positive, metavar="N", help="requests per minute it keeps to (default: what the server says)")
    add("--tpm", type=_positive, metavar="N", help="tokens per minute it keeps to (default: what the server says)")
    add("--max-concurrency", type=_count, metavar="N",
        help=f"the most in flight; with --sweep auto the most it tries (default there: {MOST})")  # fmt: skip
    add("--timeout", type=_positive, default=TIMEOUT, metavar="SECONDS", help=f"of a call (default: {TIMEOUT:g})")

    report = parser.add_argument_group("the report")
    add = report.add_argument
    add("--slo-ttft", type=_positive, metavar="SECONDS", help="recommend only what has a p99 to first token of this")
    add("--slo-latency", type=_positive, metavar="SECONDS", help="recommend only what has a p99 latency of this")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--html", type=Path, metavar="FILE", help="write a page with charts there")
    add("--yes", action="store_true", help="send without asking, which is done where it may cost money")


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; what was measured is reported after Ctrl-C too, with exit code 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every code page has all letters of a model's name
    try:
        plan = plan_of(arguments)
    except UsageError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    _say(announcement(plan))
    if not arguments.yes and not is_near(plan.endpoint.base_url) and not _agreed():
        _say("Nothing was sent.")
        return 1
    steps: list[Step] = []
    interrupted = False
    try:
        asyncio.run(measure(plan, steps))
    except KeyboardInterrupt:
        interrupted = True
    except FirstCallError as problem:
        _say(f"bench: {problem}")
        return 1
    if not steps:
        return INTERRUPTED
    report = report_of(plan, steps, interrupted=interrupted)
    print(report.as_text(), flush=True)
    written = _write(arguments.json, report.as_json) & _write(arguments.html, lambda: page(report))
    if interrupted:
        return INTERRUPTED
    return 0 if written and any(part.figures.done for part in report.parts) else 1


# What was asked for


def plan_of(arguments: argparse.Namespace) -> Plan:
    """Raises `UsageError` for what cannot be meant."""
    _check(arguments)
    _check_in_flight(arguments)
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    if not _is_address(base_url):
        raise UsageError("--base-url must be an address such as http://localhost:8000/v1")
    api_key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url != OPENAI else "")
    if not api_key:
        raise UsageError("OpenAI needs a key: set OPENAI_API_KEY, or say whom to measure with --base-url")
    sweep, most = arguments.sweep, arguments.max_concurrency
    limits = {"rpm": arguments.rpm, "tpm": arguments.tpm, "max_concurrency": None if sweep is not None else most}
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    lines = _lines(arguments.prompt)
    tokens = None if lines else arguments.prompt_tokens or PROMPT_TOKENS
    duration = arguments.duration
    if duration is None and arguments.calls is None:
        duration = DURATION
    warm_up = arguments.warm_up
    if warm_up is None:
        warm_up = WARM_UP * duration if sweep is not None and duration is not None else 0.0
    plan = Plan(
        endpoint=Endpoint(
            base_url,
            arguments.model,
            kind=arguments.endpoint,
            stream=arguments.stream,
            max_tokens=arguments.max_tokens or MAX_TOKENS,
            extra=arguments.extra,
        ),
        api_key=api_key,
        limits={name: value for name, value in limits.items() if value is not None},
        load=Load(
            rate=arguments.rate,
            concurrency=arguments.concurrency,
            calls=arguments.calls,
            duration=duration,
            warm_up=warm_up,
            warm_up_calls=arguments.warm_up_calls,
            seed=seed,
        ),
        prompts=Prompts(tokens or 0, seed, lines),
        prompt_tokens=tokens,
        sweep=sweep,
        most=min(most or min(MOST, affordable(MOST)), _in_flight_for(arguments.calls)),
        goals=Goals(arguments.slo_ttft, arguments.slo_latency),
        timeout=arguments.timeout,
    )
    if plan.load.rate is not None and not plan.load.total:
        raise UsageError(f"no call falls into {duration:g} s at {plan.load.rate:g} a second: give a longer --duration")
    return plan


def _check(given: argparse.Namespace) -> None:
    """What argparse does not see: options that exclude each other, and what this process cannot do."""
    manners = [f"--{name}" for name in ("rate", "concurrency", "sweep") if getattr(given, name) is not None]
    if len(manners) > 1:
        raise UsageError(f"{' and '.join(manners)} exclude each other: give one of them")
    if given.prompt is not None and given.prompt_tokens is not None:
        raise UsageError("--prompt-tokens is of prompts that are made up: leave it out, or --prompt")
    if given.endpoint == "embeddings" and (given.max_tokens is not None or not given.stream):
        raise UsageError("embeddings have no answer of tokens: leave out --max-tokens and --no-stream")
    if given.sweep is None and (given.slo_ttft is not None or given.slo_latency is not None):
        raise UsageError("--slo-ttft and --slo-latency are for what a sweep recommends: add --sweep auto")
    if given.slo_ttft is not None and (given.endpoint == "embeddings" or not given.stream):
        raise UsageError("only streams have a first token: leave out --slo-ttft, or give --slo-latency")
    if given.max_concurrency is not None and (given.concurrency is not None or given.sweep):
        raise UsageError("--max-concurrency and the concurrency to measure exclude each other: leave it out")
    for name in ("json", "html"):
        path: Path | None = getattr(given, name)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"--{name} must be a file in a directory that is there, got {path}")


def _check_in_flight(given: argparse.Namespace) -> None:
    asked, most = max(given.sweep or [1]), _in_flight_for(given.calls)
    if given.sweep is not None and asked > most:
        raise UsageError(
            f"{given.calls:,} calls in a step are too few to see {asked:,} in flight: give --calls of "
            f"{asked * CALLS_EACH:,} or more, or --duration instead"
        )
    asked = max(asked, given.concurrency or given.max_concurrency or 1)
    if asked > affordable(asked):
        raise UsageError(
            f"{asked:,} calls in flight need more open files than this process may have, which are enough for "
            f"{affordable(asked):,}: raise them with ulimit -n"
        )


def _is_address(base_url: str) -> bool:
    try:
        parts = urlsplit(base_url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of a port that is none, of brackets
        return False


def is_near(base_url: str) -> bool:
    """Whether the server is on this machine or in a private network: it costs nobody money."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host.endswith((".localhost", ".local", ".internal")) or "." not in host


def _in_flight_for(calls: int | None) -> int:
    """The most in flight that a step of so many calls can measure."""
    return sys.maxsize if calls is None else calls // CALLS_EACH


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"--prompt: cannot read {path} as text ({type(problem).__name__})") from problem
    if not lines:
        raise UsageError(f"--prompt: there is no line in {path}")
    return lines


def announcement(plan: Plan) -> str:
    """Say what is sent before it is sent."""
    load, endpoint = plan.load, plan.endpoint
    each = max(map(endpoint.tokens_of, plan.prompts.samples))
    if plan.sweep is None:
        steps, manner = "", str(load)
    elif plan.sweep:
        steps, manner = f" in each of {len(plan.sweep)} steps", f"{', '.join(map(str, plan.sweep))} in flight"
    else:
        steps, manner = " in each step", f"1, 2, 4, ... in flight until more brings nothing, at most {plan.most:,}"
    total, tokens = load.total, ""
    if total is not None:
        calls = f"{total:,} calls{steps}"
        if plan.sweep != AUTO:
            together = each * total * (1 if plan.sweep is None else len(plan.sweep))
            tokens = f", at most about {together:,} tokens in all"
    else:
        warm = f" and {load.warming:g} s of warm-up" if load.warming else ""
        bounds = [f"{load.duration:g} s{warm}"] if load.duration is not None else []
        bounds += [f"{load.calls:,} calls"] if load.calls is not None else []
        calls = f"As many calls as fit into {' or '.join(bounds)}{steps}"
    cost = "" if is_near(endpoint.base_url) else "\nWith a provider this costs money."
    return (
        f"{calls} to {endpoint.model} at {shown(endpoint.base_url)}: {manner}; "
        f"each at most about {each:,} tokens{tokens}. "
        f"Before them one call, to see that it works.{cost}"
    )


def _agreed() -> bool:
    """Ask; no answer is no, and so is an answer that nobody typed."""
    if not sys.stdin.isatty():
        _say("Nobody to ask: standard input is not a terminal; --yes sends without asking.")
        return False
    print("Send them? [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in {"y", "yes"}
    except EOFError:
        _say("")
        return False


# What runs


async def measure(plan: Plan, steps: list[Step]) -> None:
    """Run the steps one after the other; each is added as it begins, and is right at any time.

    Raises `FirstCallError` where the endpoint does not answer, or not within the time that counts.
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
            reporter = asyncio.create_task(_report(step))
            try:
                await step.run()
            finally:
                reporter.cancel()
                _show(step.progress(), last=True)


def _check_duration(load: Load, latency: float) -> None:
    """Raises `FirstCallError` where hardly a call that follows another would begin and end in the time that counts."""
    if load.rate is None and load.duration is not None and latency > load.duration:
        raise FirstCallError(
            f"the first call took {latency:.1f} s, longer than the {load.duration:g} s that count, so nothing was "
            f"measured: give a --duration of {10 * latency:.0f} or so, or a number of --calls alone"
        )


def _loads(plan: Plan, steps: list[Step]) -> Iterator[Load]:
    """The load of each step, the next one in view of those that have run."""
    if plan.sweep is None:
        yield plan.load
    elif plan.sweep:
        for concurrency in plan.sweep:
            yield replace(plan.load, concurrency=concurrency)
    else:
        while (points := points_of(steps)) is not None and len(points) == len(steps):
            further = following(points, plan.goals, plan.most)
            if further is None:
                return
            yield replace(plan.load, concurrency=further)


def points_of(steps: list[Step]) -> list[Point]:
    """What the steps of a sweep came to, but those without an answer."""
    points = [Point.of(step.load.concurrency or 0, step.figures()) for step in steps]
    return [point for point in points if point is not None]


def report_of(plan: Plan, steps: list[Step], *, interrupted: bool = False) -> Report:
    found = None
    if plan.sweep is not None:
        # A step that was broken off says little.
        whole = steps[:-1] if interrupted else steps
        found = recommend(points_of(whole), plan.goals)
    return Report(plan.settings(), [Part.of(step, steps[0]) for step in steps], found, interrupted=interrupted)


async def _report(step: Step) -> None:
    while True:
        await asyncio.sleep(PROGRESS_ON_TERMINAL if sys.stderr.isatty() else PROGRESS_IN_LOG)
        _show(step.progress())


def _show(line: str, *, last: bool = False) -> None:
    if sys.stderr.isatty():
        # Exactly one row: a shorter line would leave the end of the one before it, a longer one would wrap.
        room = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:room]:<{room}}", end="\n" if last else "", file=sys.stderr, flush=True)
    else:
        _say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(path: Path | None, content: Any) -> bool:
    """Whether it is there now; where no path was given there is nothing to do."""
    if path is None:
        return True
    try:
        path.write_text(content(), "utf-8", "replace")
    except OSError as problem:
        _say(f"bench: cannot write {path}: {problem.strerror}")
        return False
    return True


# Words to values


def shown(base_url: str) -> str:
    """The address without what may be a secret in it."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _harmless(value: object) -> object:
    """A setting that is a number or a switch; texts may be prompts."""
    return value if value is None or isinstance(value, bool | int | float) else "..."


def _positive(text: str) -> float:
    number = _number(text, float)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number


def _no_less_than_0(text: str) -> float:
    return 0.0 if _number(text, float) == 0 else _positive(text)


def _count(text: str) -> int:
    number = _number(text, int)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _number(text: str, kind: type[Number]) -> Number:
    try:
        return kind(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"must be a {KINDS[kind]}, got {text!r}") from problem


def _sweep(text: str) -> tuple[int, ...]:
    if text == "auto":
        return AUTO
    try:
        return tuple(sorted({_count(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError as problem:
        raise argparse.ArgumentTypeError(f"must be auto or numbers such as 1,2,4,8, got {text!r}") from problem


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError("must be a JSON object") from problem
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value
