"""The command `run`."""
# ruff: noqa: T201  # commands talk

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from throttled_openai.batch._file import OUTAGE, RETRIES, FileRun
from throttled_openai.batch._input import Input, InputError
from throttled_openai.batch._sidecar import WrongRunError

from .page import page
from .progress import progress
from .settings import asked_of, book_of, client_of, provider_at, rules_of
from .survey import plan, survey
from .validate import WRONG, add_input_arguments, said_of, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

    from throttled_openai._commands.parser import Parser
    from throttled_openai.batch._file import Summary

    from .progress import Progress

WRONG_USAGE: Final = 2
# Seconds between two looks of the progress.
_EVERY: Final = 0.25
# Open files that suffice for any number of requests in flight that one process can serve.
_FILES: Final = 10_240


def add_arguments(parser: Parser) -> None:
    parser.usage = "%(prog)s INPUT -o OUTPUT [options]"
    parser.epilog = (
        "The same command goes on where an earlier one ended, however it ended. Exit codes: 0 all is done and served, "
        "1 something failed or is left, 2 wrong usage, 130 interrupted. The first Ctrl-C waits for what is in flight, "
        "the second does not."
    )
    add_input_arguments(parser)
    add = parser.add_argument
    add("-o", "--output", required=True, metavar="FILE", help="the results, appended to; - is standard output, "
        ".gz and .zst are compressed at the end")  # fmt: skip
    limits = parser.add_argument_group("limits (those that are not given are learnt from the server)")
    for name, what in (("rpm", "requests per minute"), ("tpm", "tokens per minute"), ("rpd", "requests per day"),
                       ("tpd", "tokens per day")):  # fmt: skip
        limits.add_argument(f"--{name}", type=_positive, metavar="N", help=f"{what} of each model")
    limits.add_argument("--limits", metavar="TOML", help="limits by model: a table [model] with rpm, tpm, rpd, tpd")
    limits.add_argument("--shared", metavar="URL", help="where this run shares its limits with other processes: a "
                        "Redis or Valkey address, or 'local' for those of this machine")  # fmt: skip
    limits.add_argument("--max-concurrency", type=_count, metavar="N", help="most requests in flight; found by itself")
    limits.add_argument("--max-wait", type=_positive, metavar="SECONDS", help="wait through an outage, or for a limit "
                        "that comes back later, at most this long; without it the run ends for now")  # fmt: skip
    server = parser.add_argument_group("server")
    server.add_argument("--base-url", metavar="URL", help="of the API (default: OPENAI_BASE_URL, or OpenAI's)")
    server.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key (default: OPENAI_API_KEY)"
    )
    server.add_argument("--azure", action="store_true", help="an Azure endpoint, with its environment variables; "
                        "models are deployments")  # fmt: skip
    server.add_argument("--api-version", metavar="DATE", help="of Azure's API (default: OPENAI_API_VERSION)")
    server.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="of every request")
    server.add_argument("--timeout", type=_positive, metavar="SECONDS", help="of an answer (default: 600)")
    server.add_argument("--max-retries", type=_whole, default=RETRIES, metavar="N", help="after errors of the server "
                        f"or the network (default: {RETRIES}); refusals are sent again anyway")  # fmt: skip
    server.add_argument("--max-outage", type=_positive, default=OUTAGE, metavar="SECONDS", help="go on trying this "
                        f"long while the server cannot be reached (default: {OUTAGE:g})")  # fmt: skip
    server.add_argument("--dialect", metavar="NAME", help="how the server counts tokens, such as openai or self-hosted")
    run = parser.add_argument_group("run")
    run.add_argument("--order", choices=("completion", "input"), default="completion", help="of the results: as they "
                     "come (default), or as in the input, for a file once all is done")  # fmt: skip
    run.add_argument("--retry-errors", action="store_true", help="send those again that failed")
    run.add_argument("--keep-going", action="store_true", help="record every failure and go on, also where the key is "
                     "wrong or the server is gone")  # fmt: skip
    run.add_argument("--limit", type=_count, metavar="N", help="send at most N requests in this run")
    run.add_argument("--prices", metavar="TOML", help="prices of a million tokens: a table [model] with input, output, "
                     "cached")  # fmt: skip
    run.add_argument("--max-cost", type=_positive, metavar="X", help="stop before the run costs more, by --prices")
    run.add_argument(
        "--dry-run", action="store_true", help="count requests and tokens, say what they take; send nothing"
    )
    shown = parser.add_argument_group("shown")
    shown.add_argument("--report", metavar="HTML", help="write a page about the run")
    shown.add_argument("--quiet", action="store_true", help="no progress and no summary")
    shown.add_argument("--json", action="store_true", help="progress and summary as lines of JSON on standard error")
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    try:
        source = Input(arguments.input, asked_of(arguments))
        rules = rules_of(arguments)
        if arguments.dry_run:
            found = survey(source, provider_at(arguments), limit=rules.limit)
            print(plan(found, book_of(arguments), rules.prices))
            return 1 if found.bad_counts else 0
        client = client_of(arguments)
        job = FileRun(client, source, arguments.output, rules)
    except (*WRONG, OSError) as error:
        return wrong(arguments, error)
    _raise_file_limit()
    told = progress(quiet=arguments.quiet, as_json=arguments.json)
    logger = logging.getLogger("throttled_openai")
    handler = _Said(told)
    logger.addHandler(handler)
    try:
        summary = asyncio.run(_run(client, job, told))
    except (WrongRunError, InputError) as error:
        told.close()
        print(f"throttled-openai run: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        told.close()
        print(f"throttled-openai run: cannot write: {said_of(error)}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)
        told.close()
    _tell(summary, job, arguments, told)
    return summary.exit_code


class _Said(logging.Handler):
    """Warnings of the throttle, such as a long wait, beside the progress."""

    def __init__(self, told: Progress) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.say(record.getMessage())


def _raise_file_limit() -> None:
    """Each request in flight takes a connection, and many systems allow 256 or 1,024 open files at first."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _run(client: Any, job: FileRun, told: Progress) -> Summary:
    loop = asyncio.get_running_loop()
    task = loop.create_task(job.run())

    def interrupted() -> None:
        try:
            told.say(job.interrupt())
        except KeyboardInterrupt:
            task.cancel()

    with _signals(loop, interrupted):
        showing = loop.create_task(_show(job, told))
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise KeyboardInterrupt from None
            raise
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            told.show(job.status())
            await client.close()


async def _show(job: FileRun, told: Progress) -> None:
    while True:
        told.show(job.status())
        await asyncio.sleep(_EVERY)


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> Any:
    """SIGINT and SIGTERM ask the run to end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in numbers:
            loop.add_signal_handler(number, handler)
    except NotImplementedError:  # Windows: Ctrl-C cancels, and what is done is kept
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _tell(summary: Summary, job: FileRun, arguments: argparse.Namespace, told: Progress) -> None:
    if arguments.report is not None:
        try:
            Path(arguments.report).write_text(page(summary, job.tally, job.model_stats()), encoding="utf-8")
        except OSError as error:
            told.say(f"throttled-openai run: the report: {said_of(error)}")
    if arguments.json:
        told.say(json.dumps({"event": "summary", "exit_code": summary.exit_code, **dataclasses.asdict(summary)}))
    elif not arguments.quiet:
        told.say(str(summary))
    elif summary.stopped is not None:
        told.say(f"throttled-openai run: {summary.stopped}")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return number
