"""The command `demo`: says what it will send, asks, runs the race, and shows its table."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final

from throttled_openai._commands.argument_types import count
from throttled_openai._commands.open_files import allow_open_files
from throttled_openai._commands.terminal import confirmed
from throttled_openai._protocol.estimate import estimate_tokens

from .contender import CONTENDERS
from .race import ANSWER_TOKENS, PROMPT, REST, RacePlan, race
from .result import conclusion, footnotes, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .result import Result
    from .tally import Tally

RPM: Final = 3000
CALLS: Final = 1000

# A real account costs money, so fewer calls are sent.
LIVE_CALLS: Final = 200

# Open files: enough for the SDK's pool of 1,000 connections, and below the most that macOS accepts, 10,240.
_FILES: Final = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to `parser`; `run` takes the parsed result."""
    add = parser.add_argument
    add(
        "--calls",
        type=count,
        metavar="N",
        help=f"calls through each client (default: {CALLS}; {LIVE_CALLS} with --live)",
    )
    add("--rpm", type=count, metavar="N", help=f"the account's limit (default: {RPM}; with --live: as announced)")
    add(
        "--live",
        metavar="MODEL",
        help="use your own account instead of the simulator: needs OPENAI_API_KEY, costs money",
    )
    add("--yes", action="store_true", help="with --live: send without asking")


def run(arguments: argparse.Namespace) -> int:
    """Run the race and show its table. After Ctrl-C it shows the results so far and returns 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a code page may lack the multiplication sign
    if arguments.live is None:
        plan = RacePlan(arguments.calls or CALLS, "gpt-4o", arguments.rpm or RPM, live=False)
        print(
            f"{plan.calls:,} calls through each client; a simulated account with {plan.rpm:,.0f} requests per minute."
        )
    else:
        plan = RacePlan(arguments.calls or LIVE_CALLS, arguments.live, arguments.rpm, live=True)
        if not os.environ.get("OPENAI_API_KEY"):
            print("demo: --live needs an API key: set OPENAI_API_KEY, or leave out --live", file=sys.stderr)
            return 2
        print(announcement(plan))
        if not arguments.yes and not confirmed(sys.stdout):
            print("Nothing was sent.")
            return 1
    print(flush=True)

    allow_open_files(_FILES)
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


def announcement(plan: RacePlan) -> str:
    """What a race on a real account sends, shown before it is sent."""
    calls = len(CONTENDERS) * plan.calls
    tokens = calls * (estimate_tokens("/chat/completions", plan.request) + ANSWER_TOKENS)
    host = os.environ.get("OPENAI_BASE_URL") or "OpenAI"
    limits = "learns the limits from the answers" if plan.rpm is None else f"is configured with rpm={plan.rpm:g}"
    return (
        f"This sends {calls:,} calls ({len(CONTENDERS)} x {plan.calls:,}) to {plan.model} at {host}.\n"
        f'Each asks "{PROMPT}" and takes at most {ANSWER_TOKENS} tokens of answer:'
        f" about {tokens:,} tokens in total. It costs money.\n"
        f"The two plain AsyncOpenAI runs may well cause 429s, for the account's other users too;"
        f" ThrottledAsyncOpenAI {limits}.\n"
        f"Between the runs it waits {REST:g} s, so that each finds a full minute's budget."
    )
