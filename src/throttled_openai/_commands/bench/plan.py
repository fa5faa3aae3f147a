"""The plan: what one run of `bench` measures, and the checks that it is possible."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._admission.file_limit import within_file_limit
from throttled_openai._admission.in_flight import MOST_IN_FLIGHT
from throttled_openai._clients.async_client import ThrottledAsyncOpenAI
from throttled_openai._pool import http_client

from .address import is_address, redacted_url
from .arguments import DURATION, MAX_TOKENS, MOST, PROMPT_TOKENS, STDOUT
from .call import hooks
from .command_line import command_line
from .endpoint import Endpoint
from .load import Load, Prompts
from .sweep import Goals

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from .bounds import Bounds

OPENAI: Final = "https://api.openai.com/v1"
# Share of each sweep step's duration that warms up: all its calls begin at once.
WARM_UP: Final = 0.1
# Calls per call in flight that a step of a sweep has at least: its first and last calls run with fewer others.
CALLS_EACH: Final = 10


class UsageError(ValueError):
    """The arguments cannot be carried out; says why, and what to write instead."""


@dataclass(slots=True)
class BenchPlan:
    """One run of the bench. `sweep`: the concurrencies; empty: find them; None: a single step."""

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
    bounds: Bounds | None
    percents: tuple[float, ...]
    command: str = ""

    @property
    def rpm(self) -> float | None:
        rpm: float | None = self.limits.get("rpm")
        return rpm

    def client(self) -> ThrottledAsyncOpenAI:
        """A client whose attempts are timed. It does not retry failures, so that they show."""
        http: Any = http_client("httpx", most_in_flight=within_file_limit(MOST_IN_FLIGHT), event_hooks=hooks())
        return ThrottledAsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.api_key,
            http_client=http,
            max_retries=0,
            timeout=self.timeout,
            **self.limits,
        )

    def settings(self) -> dict[str, Any]:
        """The settings that the report shows: no prompts, no key."""
        endpoint, load, chat = self.endpoint, self.load, self.endpoint.kind == "chat"
        return {
            "base_url": redacted_url(endpoint.base_url),
            "model": endpoint.model,
            "endpoint": endpoint.kind,
            "stream": endpoint.streams,
            "prompt_tokens": self.prompt_tokens,
            "max_tokens": endpoint.max_tokens if chat else None,
            "extra": {name: _redacted(value) for name, value in endpoint.extra.items()},
            "left_out": list(endpoint.rejected),
            "rate_calls_per_second": load.rate,
            "concurrency": load.concurrency,
            "sweep": None if self.sweep is None else list(self.sweep) or "auto",
            "burstiness": None if load.rate is None else load.burstiness,
            "calls": load.calls,
            "duration_seconds": load.duration,
            "warm_up_seconds": load.warm_up,
            "warm_up_calls": load.warm_up_calls,
            "seed": load.seed,
            "timeout_seconds": self.timeout,
            **{name: self.limits.get(name) for name in ("rpm", "tpm", "max_concurrency")},
            "goals": str(self.goals) or None,
            "goodput": None if self.bounds is None else str(self.bounds),
            "first_token_goal_seconds": self.goals.first_token,
            "latency_goal_seconds": self.goals.latency,
        }


def plan_of(arguments: argparse.Namespace) -> BenchPlan:
    """Raises `UsageError` for arguments that cannot be carried out."""
    _check(arguments)
    _check_in_flight(arguments)
    if arguments.burstiness != 1 and arguments.rate is None:
        raise UsageError("--burstiness is of the arrivals of --rate: add --rate")
    base_url = arguments.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    if not is_address(base_url):
        raise UsageError("--base-url must be an address such as http://localhost:8000/v1")
    api_key = os.environ.get("OPENAI_API_KEY") or ("none" if base_url != OPENAI else "")
    if not api_key:
        raise UsageError("OpenAI needs a key: set OPENAI_API_KEY, or name another server with --base-url")
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
    plan = BenchPlan(
        endpoint=Endpoint(
            base_url,
            arguments.model or "",
            kind=arguments.endpoint,
            stream=arguments.stream,
            max_tokens=arguments.max_tokens or MAX_TOKENS,
            extra=arguments.extra,
        ),
        api_key=api_key,
        limits={name: value for name, value in limits.items() if value is not None},
        load=Load(
            rate=arguments.rate,
            burstiness=arguments.burstiness,
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
        most=min(most or min(MOST, within_file_limit(MOST)), _in_flight_for(arguments.calls)),
        goals=Goals(arguments.slo_ttft, arguments.slo_latency),
        timeout=arguments.timeout,
        bounds=arguments.goodput,
        percents=arguments.percentiles,
        command=command_line(sys.argv[1:]),
    )
    if plan.load.rate is not None and not plan.load.total:
        raise UsageError(f"no call falls into {duration:g} s at {plan.load.rate:g} a second: give a longer --duration")
    return plan


def _check(given: argparse.Namespace) -> None:
    """What argparse does not check: options that exclude each other, and files that cannot be written."""
    loads = [f"--{name}" for name in ("rate", "concurrency", "sweep") if getattr(given, name) is not None]
    if len(loads) > 1:
        raise UsageError(f"{' and '.join(loads)} exclude each other: give one of them")
    if given.prompt is not None and given.prompt_tokens is not None:
        raise UsageError("--prompt-tokens is the length of random prompts: leave out either it or --prompt")
    if given.endpoint == "embeddings" and (given.max_tokens is not None or not given.stream):
        raise UsageError("embeddings return no tokens: leave out --max-tokens and --no-stream")
    if given.sweep is None and (given.slo_ttft is not None or given.slo_latency is not None):
        raise UsageError("--slo-ttft and --slo-latency are for what a sweep recommends: add --sweep auto")
    if given.slo_ttft is not None and (given.endpoint == "embeddings" or not given.stream):
        raise UsageError("only streams have a first token: leave out --slo-ttft, or give --slo-latency")
    if given.max_concurrency is not None and (given.concurrency is not None or given.sweep):
        raise UsageError("--max-concurrency and the concurrency to measure exclude each other: leave it out")
    for name in ("json", "html"):
        path: Path | None = getattr(given, name)
        if name == "json" and path == STDOUT:
            continue
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"--{name} must be a file in an existing directory, got {path}")


def _check_in_flight(given: argparse.Namespace) -> None:
    asked, most = max(given.sweep or [1]), _in_flight_for(given.calls)
    if given.sweep is not None and asked > most:
        raise UsageError(
            f"{given.calls:,} calls in a step are too few to see {asked:,} in flight: give --calls of "
            f"{asked * CALLS_EACH:,} or more, or --duration instead"
        )
    asked = max(asked, given.concurrency or given.max_concurrency or 1)
    if asked > within_file_limit(asked):
        raise UsageError(
            f"{asked:,} calls in flight need more open files than this process may have, which are enough for "
            f"{within_file_limit(asked):,}: raise them with ulimit -n"
        )


def _in_flight_for(calls: int | None) -> int:
    """The highest concurrency that a step of `calls` calls can measure."""
    return sys.maxsize if calls is None else calls // CALLS_EACH


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"--prompt: cannot read {path} as text ({type(problem).__name__})") from problem
    if not lines:
        raise UsageError(f"--prompt: {path} has no lines")
    return lines


def _redacted(value: object) -> object:
    """A setting, if it is a number or a boolean; a text may be a prompt."""
    return value if value is None or isinstance(value, bool | int | float) else "..."
