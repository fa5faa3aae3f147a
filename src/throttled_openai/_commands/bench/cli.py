"""The command `bench`: says what it will send, asks, measures, and writes the report."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import asyncio
import io
import sys
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._commands.terminal import confirmed

from .address import is_near, redacted_url
from .arguments import AUTO, STDOUT, add_arguments
from .measure import FirstCallError, measure, report_of
from .page import page
from .plan import BenchPlan, UsageError, plan_of

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from .step import Step

__all__ = ["add_arguments", "run"]

INTERRUPTED: Final = 130


def run(arguments: argparse.Namespace) -> int:
    """Measure and report. After Ctrl-C it reports the results so far and returns 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a code page may lack letters of a model's name
    try:
        plan = plan_of(arguments)
    except UsageError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    _say(announcement(plan))
    if not arguments.yes and not is_near(plan.endpoint.base_url) and not confirmed(sys.stderr):
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
    (_say if arguments.json == STDOUT else print)(report.as_text())
    written = _write(arguments.json, report.as_json) & _write(arguments.html, lambda: page(report))
    if interrupted:
        return INTERRUPTED
    found = report.recommendation is not None or not report.swept
    return 0 if written and found and any(step.figures.done for step in report.steps) else 1


def announcement(plan: BenchPlan) -> str:
    """What will be sent, shown before it is sent."""
    load, endpoint = plan.load, plan.endpoint
    each = max(map(endpoint.tokens_of, plan.prompts.samples))
    if plan.sweep is None:
        steps, shape = "", str(load)
    elif plan.sweep:
        steps, shape = f" in each of {len(plan.sweep)} steps", f"{', '.join(map(str, plan.sweep))} in flight"
    else:
        steps, shape = " in each step", f"1, 2, 4, ... in flight until more brings nothing, at most {plan.most:,}"
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
        f"{calls} to {endpoint.model or 'the model'} at {redacted_url(endpoint.base_url)}: {shape}; "
        f"each at most about {each:,} tokens{tokens}. "
        f"First it makes one call to see that it works.{cost}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(path: Path | None, content: Any) -> bool:
    """Write `content()` to `path`, if there is one. False: it could not be written."""
    if path is None:
        return True
    if path == STDOUT:
        print(content(), end="", flush=True)
        return True
    try:
        path.write_text(content(), "utf-8", "replace")
    except OSError as problem:
        _say(f"bench: cannot write {path}: {problem.strerror}")
        return False
    return True
