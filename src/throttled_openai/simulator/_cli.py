"""The command `simulate`: converts its arguments to settings and back, and serves until Ctrl-C or SIGTERM."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Final, get_args

from ._carriers.tcp import serve
from ._fault import Fault
from ._settings import ChargeKind, DialectName, Settings
from ._simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Flags whose names differ from the setting, because they turn off a default.
_SWITCHES: Final = {
    "announce": "--no-headers",
    "retry_after": "--no-retry-after",
    "explain_refusals": "--no-explanations",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's options to `parser`; `run` takes the parsed result."""
    usual = Settings()
    add = parser.add_argument

    def number(flag: str, says: str, metavar: str = "N", kind: type = float) -> None:
        default = getattr(usual, flag.removeprefix("--").replace("-", "_"))
        add(flag, type=kind, default=default, metavar=metavar, help=says)

    number("--rpm", "requests per minute and model (default: unlimited)")
    number("--tpm", "tokens per minute and model (default: unlimited)")
    number("--rpd", "requests per day and model, which the headers then show")
    number("--tpd", "tokens per day and model")
    add("--shared-limit", metavar="START", help="models whose names start with START share one set of limits")
    number("--burst", "allowed burst, in seconds of the limit (default: 60)", "SECONDS")
    add("--show-burst", action="store_true", help="the headers show that bucket, not a minute's")
    number("--fixed-window", "count in fixed windows (default: continuous refill)", "SECONDS")
    number("--latency", "median latency (default: 0.5)", "SECONDS")
    number("--latency-sigma", "lognormal sigma of the latency (default: 0.2)", "SIGMA")
    number("--network", "median one-way network time; in memory only (default: 0)", "SECONDS")
    number("--network-sigma", "lognormal sigma of the network time (default: 0.5)", "SIGMA")
    number("--slots", "attempts that run at once; the others queue (default: unlimited)", kind=int)
    number("--slowdown", "added share of latency when all slots are busy (default: 0)", "SHARE")
    number("--seed", "seed of latencies, network times and faults (default: 0)", kind=int)
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=8000, help="port to listen on; 0: any free one (default: 8000)")
    add("--no-headers", dest="announce", action="store_false", help="send no x-ratelimit-* headers")
    add("--no-retry-after", dest="retry_after", action="store_false", help="do not say when to retry")
    add("--no-explanations", dest="explain_refusals", action="store_false", help="refuse without limits and numbers")
    add("--dialect", choices=get_args(DialectName), default=usual.dialect,
        help="provider whose headers and errors are imitated (default: openai)")  # fmt: skip
    number("--max-in-flight", "refuse attempts beyond this number in flight", kind=int)
    number("--overload-status", "status of those refusals: 429 (default) or 503", "STATUS", int)
    add("--overload-code", metavar="CODE", help="error code of those refusals, such as slow_down")
    number("--overload-wait", "wait that those refusals name (default: none)", "SECONDS")
    number("--slow-down-above", "requests per second up to which sudden growth is allowed")
    add(
        "--charge",
        choices=get_args(ChargeKind),
        default=usual.charge,
        help="what tokens are charged (default: estimate)",
    )
    add("--refund", action="store_true", help="refund the unused part of a reserve")
    add("--charge-refused-requests", action="store_true", help="charge a refused attempt one request")
    number("--neighbour-rpm", "requests per minute of other clients (default: 0)")
    number("--neighbour-tpm", "tokens per minute of other clients (default: 0)")
    number("--completion-tokens", "tokens per answer (default: 16)", kind=int)
    number("--initial-level", "share of each bucket that is full at first (default: 1)", "SHARE")
    add("--quiet", action="store_true", help="print only the URL")
    add(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        type=_fault,
        metavar="KIND[:key=value,...]",
        help="status, disconnect, hang, stream_error or stream_cut, such as status:status=503,share=0.01",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. The first line on stdout is the base URL; everything else goes to stderr."""
    try:
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    except ValueError as problem:
        print(f"simulate: {problem}", file=sys.stderr)
        return 2
    simulator = Simulator(settings, faults=arguments.faults)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(simulator, arguments.host, arguments.port, quiet=arguments.quiet))
    except _CannotListenError as problem:
        print(f"simulate: cannot listen on {arguments.host}:{arguments.port}: {problem}", file=sys.stderr)
        return 1
    if not arguments.quiet:
        _say(_summary(simulator))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m throttled_openai.simulator",
        description="A rate-limited server with OpenAI's interface: no key and no money needed.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def arguments_of(settings: Settings, faults: Iterable[Fault]) -> list[str]:
    """The command line that gives these settings."""
    usual = Settings()
    arguments = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == getattr(usual, field.name):
            continue
        if isinstance(value, bool):
            arguments.append(_SWITCHES.get(field.name, _flag(field.name)))
        else:
            arguments.append(f"{_flag(field.name)}={value}")
    return arguments + [f"--fault={fault}" for fault in faults]


class _CannotListenError(Exception):
    """The address cannot be served; says why."""


async def _serve(simulator: Simulator, host: str, port: int, *, quiet: bool) -> None:
    _raise_file_limit()
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(
                serve(simulator, host=host, port=port, access_log=None if quiet else _access_log)
            )
        except (OSError, UnicodeError) as problem:  # UnicodeError: an impossible host name
            raise _CannotListenError(problem) from problem
        ended = asyncio.Event()
        with suppress(NotImplementedError, RuntimeError, ValueError):  # on Windows, and not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        print(url, flush=True)
        if not quiet:
            _say(f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any")
        await ended.wait()


def _summary(simulator: Simulator) -> str:
    seen = simulator.counters
    return (
        f"{seen.attempts:,} attempts: {seen.succeeded:,} succeeded, {seen.refused:,} refused, {seen.failed:,} failed, "
        f"{seen.abandoned + seen.in_flight:,} abandoned; at most {seen.peak_in_flight:,} in flight"
    )


def _access_log(line: str) -> None:
    _say(f"{datetime.now().astimezone():%H:%M:%S} {line}")


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # what reads stderr may have ended; clients are served on
        print(line, file=sys.stderr, flush=True)


def _raise_file_limit() -> None:
    """Each connection is an open file. The common limit of 1,024 is far below what clients open."""
    try:
        import resource  # noqa: PLC0415  # not on Windows
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS says "no limit" and takes no more than 10,240
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from problem
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {port}")
    return port


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem
