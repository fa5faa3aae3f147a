"""The command `run`: sends the requests of a file, and reports while it runs and at the end."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._commands.argument_types import count, count_or_0, positive
from throttled_openai._commands.open_files import allow_open_files
from throttled_openai.batch._file import OUTAGE, RETRIES, FileRun
from throttled_openai.batch._input import Input, InputError
from throttled_openai.batch._processes import Processes
from throttled_openai.batch._sidecar import WrongRunError

from .page import page
from .progress import progress
from .settings import book_of, calls_for, input_options_of, provider_at, rules_of
from .survey import plan, survey
from .validate import USER_ERRORS, add_input_arguments, fail_with_usage, message_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from throttled_openai._clients.raw import RawCalls
    from throttled_openai._commands.parser import Parser
    from throttled_openai.batch._file import Summary

    from .progress import Progress

WRONG_USAGE: Final = 2
# Seconds between two updates of the progress.
_EVERY: Final = 0.25
# Open files: enough for the most requests in flight that one process can handle.
_FILES: Final = 10_240


def add_arguments(parser: Parser) -> None:
    parser.usage = "%(prog)s INPUT -o OUTPUT [options]"
    parser.epilog = (
        "Run the same command again to continue a run that stopped, for whatever reason. Exit codes: 0 every request "
        "succeeded, 1 some failed or are left, 2 wrong usage, 130 interrupted. The first Ctrl-C waits for the requests "
        "in flight, the second stops at once."
    )
    add_input_arguments(parser)
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="FILE", help="file for the results, which are appended; - is standard "
        "output; .gz and .zst files are compressed at the end")  # fmt: skip
    limits = parser.add_argument_group("limits (by default learnt from the server)")
    for name, what in (("rpm", "requests per minute"), ("tpm", "tokens per minute"), ("rpd", "requests per day"),
                       ("tpd", "tokens per day")):  # fmt: skip
        limits.add_argument(f"--{name}", type=positive, metavar="N", help=f"{what} of each model")
    limits.add_argument("--limits", metavar="TOML", help="limits by model: a table [model] with rpm, tpm, rpd, tpd")
    limits.add_argument(
        "--max-concurrency", type=count, metavar="N", help="most requests in flight (default: adaptive)"
    )
    limits.add_argument("--max-wait", type=positive, metavar="SECONDS", help="longest wait for an outage or an "
                        "exhausted limit to end; without it the run stops, and you can continue it later")  # fmt: skip
    server = parser.add_argument_group("server")
    server.add_argument("--base-url", metavar="URL", help="URL of the API (default: OPENAI_BASE_URL, or OpenAI's)")
    server.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key (default: OPENAI_API_KEY)"
    )
    server.add_argument("--azure", action="store_true", help="use an Azure endpoint, with its environment variables; "
                        "model names are deployments")  # fmt: skip
    server.add_argument("--api-version", metavar="DATE", help="version of Azure's API (default: OPENAI_API_VERSION)")
    server.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="header of every request"
    )
    server.add_argument("--timeout", type=positive, metavar="SECONDS", help="longest wait for an answer (default: 600)")
    server.add_argument("--max-retries", type=count_or_0, default=RETRIES, metavar="N", help="retries after an error "
                        f"of server or network (default: {RETRIES}); refused requests are always retried")  # fmt: skip
    server.add_argument("--max-outage", type=positive, default=OUTAGE, metavar="SECONDS", help="how long to "
                        f"retry while the server cannot be reached (default: {OUTAGE:g})")  # fmt: skip
    server.add_argument("--dialect", metavar="NAME", help="how the server counts tokens, such as openai or self-hosted")
    run = parser.add_argument_group("run")
    run.add_argument("--order", choices=("completion", "input"), default="completion", help="order of the "
                     "results: as they complete (default), or as in the input, at the end of the run")  # fmt: skip
    run.add_argument("--retry-errors", action="store_true", help="send failed requests again")
    run.add_argument("--keep-going", action="store_true", help="record every failure and continue, even with a wrong "
                     "key or a dead server")  # fmt: skip
    run.add_argument("--processes", type=count, default=1, metavar="N", help="send with N processes, each with its "
                     "share of the limits, if one core is too slow (default: 1)")  # fmt: skip
    run.add_argument("--limit", type=count, metavar="N", help="send at most N requests in this run")
    run.add_argument("--prices", metavar="TOML", help="prices of a million tokens: a table [model] with input, output, "
                     "cached")  # fmt: skip
    run.add_argument("--max-cost", type=positive, metavar="X", help="stop before the run costs more, by --prices")
    run.add_argument(
        "--dry-run", action="store_true", help="count requests and tokens, estimate time and cost; send nothing"
    )
    shown = parser.add_argument_group("shown")
    shown.add_argument("--report", metavar="HTML", help="write a page about the run")
    shown.add_argument("--quiet", action="store_true", help="no progress and no summary")
    shown.add_argument("--json", action="store_true", help="progress and summary as lines of JSON on standard error")
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    try:
        source = Input(arguments.input, input_options_of(arguments))
        rules = rules_of(arguments)
        if arguments.dry_run:
            found = survey(source, provider_at(arguments), limit=rules.limit)
            print(plan(found, book_of(arguments), rules.prices))
            return 1 if found.bad_counts else 0
        calls = calls_for(arguments, rules)
        job = FileRun(calls, source, arguments.output, rules)
    except (*USER_ERRORS, OSError) as error:
        return fail_with_usage(arguments, error)
    allow_open_files(_FILES)
    display = progress(quiet=arguments.quiet, as_json=arguments.json)
    logger = logging.getLogger("throttled_openai")
    handler = _Warnings(display)
    logger.addHandler(handler)
    try:
        summary = asyncio.run(_run(calls, job, display))
    except (WrongRunError, InputError) as error:
        display.close()
        print(f"throttled-openai run: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        display.close()
        print(f"throttled-openai run: cannot write: {message_of(error)}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)
        display.close()
    _report(summary, job, arguments, display)
    return summary.exit_code


class _Warnings(logging.Handler):
    """Shows warnings of the throttle, such as one of a long wait, with the progress."""

    def __init__(self, display: Progress) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(record.getMessage())


async def _run(calls: RawCalls | Processes, job: FileRun, display: Progress) -> Summary:
    loop = asyncio.get_running_loop()

    task: asyncio.Task[Summary] | None = None

    def interrupted() -> None:
        try:
            display.say(job.interrupt())
        except KeyboardInterrupt:
            if task is not None:
                task.cancel()

    with _signals(loop, interrupted):
        if isinstance(calls, Processes):
            await calls.start()
        task = loop.create_task(job.run())
        showing = loop.create_task(_show(job, display))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise KeyboardInterrupt from None
            raise
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            display.show(job.status())
            await (calls if isinstance(calls, Processes) else calls.client).close()


async def _show(job: FileRun, display: Progress) -> None:
    while True:
        display.show(job.status())
        await asyncio.sleep(_EVERY)


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> Any:
    """Call `handler` at SIGINT and SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, handler)
    except NotImplementedError:  # Windows: Ctrl-C cancels the run, and the results so far are kept
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _report(summary: Summary, job: FileRun, arguments: argparse.Namespace, display: Progress) -> None:
    if arguments.report is not None:
        try:
            Path(arguments.report).write_text(page(summary, job.tally, job.model_stats()), encoding="utf-8")
        except OSError as error:
            display.say(f"throttled-openai run: the report: {message_of(error)}")
    if arguments.json:
        display.say(json.dumps({"event": "summary", "exit_code": summary.exit_code, **dataclasses.asdict(summary)}))
    elif not arguments.quiet:
        display.say(str(summary))
    elif summary.stopped is not None:
        display.say(f"throttled-openai run: {summary.stopped}")
