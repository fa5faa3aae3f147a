"""The arguments of `bench`, and how their words become values."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final, get_args

from throttled_openai._commands.argument_types import count, number, positive

from .bounds import Bounds
from .endpoint import Kind

DURATION: Final = 20.0
PROMPT_TOKENS: Final = 128
MAX_TOKENS: Final = 64
TIMEOUT: Final = 600.0
# The highest concurrency that `--sweep auto` tries.
MOST: Final = 1024
# The value of `--json -`.
STDOUT: Final = Path("-")
# The value of `--sweep auto`: no concurrencies are given.
AUTO: Final[tuple[int, ...]] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bench's options to `parser`."""
    parser.epilog = (
        "Without --rate, --concurrency or --sweep the client makes as many calls as the limits admit. The key is "
        "read from OPENAI_API_KEY. The output contains neither the key nor any prompt."
    )
    add = parser.add_argument
    add("--model", help="the model to measure (default: the only one the server lists)")
    add("--base-url", metavar="URL", help="the server (default: OPENAI_BASE_URL, or OpenAI)")
    add("--endpoint", choices=get_args(Kind), default="chat", help="the endpoint to call (default: chat)")
    add("--no-stream", dest="stream", action="store_false", help="do not stream, so there is no time to first token")

    load = parser.add_argument_group("the load")
    add = load.add_argument
    add("--rate", type=positive, metavar="N", help="calls per second, random arrivals (open loop)")
    add("--burstiness", type=positive, default=1.0, metavar="N",
        help="of the arrivals of --rate: 1 is Poisson, less is in bursts, more is even (default: 1)")  # fmt: skip
    add("--concurrency", type=count, metavar="N", help="calls in flight, each followed by another (closed loop)")
    add("--sweep", type=_sweep, metavar="N,N,...", help="one step for each concurrency; auto: find the best one")
    add(
        "--duration",
        type=positive,
        metavar="SECONDS",
        help=f"measured time of each step (default: {DURATION:g}, or until --calls)",
    )
    add("--calls", type=count, metavar="N", help="measured calls in each step")
    add("--warm-up", type=_no_less_than_0, metavar="SECONDS",
        help="exclude this time before each step (default: 0; with --sweep a tenth of the duration)")  # fmt: skip
    add("--warm-up-calls", type=count, default=0, metavar="N", help="exclude this many calls from the results")
    add(
        "--prompt-tokens",
        type=count,
        metavar="N",
        help=f"approximate length of random prompts (default: {PROMPT_TOKENS})",
    )
    add("--prompt", type=Path, metavar="FILE", help="use these prompts in turn, one per line")
    add("--max-tokens", type=count, metavar="N", help=f"most tokens of an answer (default: {MAX_TOKENS})")
    add("--extra", type=_object, default={}, metavar="JSON",
        help="more fields for each request body, such as '{\"ignore_eos\": true}'")  # fmt: skip
    add("--seed", type=int, metavar="N", help="seed of arrivals and prompts (default: random)")

    client = parser.add_argument_group("our client")
    add = client.add_argument
    add("--rpm", type=positive, metavar="N", help="limit in requests per minute (default: as announced)")
    add("--tpm", type=positive, metavar="N", help="limit in tokens per minute (default: as announced)")
    add("--max-concurrency", type=count, metavar="N",
        help=f"most calls in flight; with --sweep auto the highest concurrency tried (default: {MOST})")  # fmt: skip
    add(
        "--timeout",
        type=positive,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"timeout of a call (default: {TIMEOUT:g})",
    )

    report = parser.add_argument_group("the report")
    add = report.add_argument
    add(
        "--slo-ttft",
        type=positive,
        metavar="SECONDS",
        help="recommend only a concurrency whose p99 time to first token is at most this",
    )
    add(
        "--slo-latency",
        type=positive,
        metavar="SECONDS",
        help="recommend only a concurrency whose p99 latency is at most this",
    )
    add("--goodput", type=_bounds, metavar="BOUNDS",
        help="count calls answered within these milliseconds, such as 'ttft:200 tpot:50 e2el:2000'; failed calls count "
        "against it")  # fmt: skip
    add("--percentiles", type=_percents, default=(), metavar="P,P,...", help="percentiles reported (default: 50,90,99)")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE; - for standard output alone")
    add("--html", type=Path, metavar="FILE", help="write a page with charts to FILE")
    add("--yes", action="store_true", help="send without asking, even if it may cost money")


def _no_less_than_0(text: str) -> float:
    return 0.0 if number(text, float) == 0 else positive(text)


def _sweep(text: str) -> tuple[int, ...]:
    if text == "auto":
        return AUTO
    try:
        return tuple(sorted({count(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError as problem:
        raise argparse.ArgumentTypeError(f"must be auto or numbers such as 1,2,4,8, got {text!r}") from problem


def _bounds(text: str) -> Bounds:
    try:
        return Bounds.of(text.replace(",", " ").split())
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def _percents(text: str) -> tuple[float, ...]:
    found = tuple(sorted({number(part, float) for part in text.split(",")}))
    if not all(0 <= percent <= 100 for percent in found):
        raise argparse.ArgumentTypeError(f"must be numbers from 0 to 100 such as 50,95,99.9, got {text!r}")
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError("must be a JSON object") from problem
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value
