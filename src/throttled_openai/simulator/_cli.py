"""The command line: arguments to settings and back, and the command that serves until Ctrl-C."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Final, get_args

from ._charge import ChargeKind
from ._dialects import DialectName
from ._fault import Fault
from ._server import Simulator
from ._settings import Settings
from ._tcp import serve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Switches turn off what is on by default; their names say so.
_SWITCHES: Final = {
    "announce": "--no-headers",
    "retry_after": "--no-retry-after",
    "explain_refusals": "--no-explanations",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all of the simulator's options to `parser`; `run` takes what it parses."""
    usual = Settings()
    add = parser.add_argument
    add("--rpm", type=float, metavar="N", help="requests per minute and model (default: unlimited)")
    add("--tpm", type=float, metavar="N", help="tokens per minute and model (default: unlimited)")
    add("--rpd", type=float, metavar="N", help="requests per day and model; the headers show these")
    add("--tpd", type=float, metavar="N", help="tokens per day and model")
    add("--shared-limit", metavar="START", help="models whose names start so share their limits")
    add("--burst", type=float, default=usual.burst, metavar="SECONDS", help="of the limit at once (default: 60)")
    add("--show-burst", action="store_true", help="the headers show that bucket, not a minute's")
    add("--fixed-window", type=float, metavar="SECONDS", help="count in windows of the clock (default: refill)")
    add("--latency", type=float, default=usual.latency, metavar="SECONDS", help="median (default: 0.5)")
    add("--latency-sigma", type=float, default=usual.latency_sigma, metavar="SIGMA", help="lognormal (default: 0.2)")
    add("--network", type=float, default=usual.network, metavar="SECONDS", help="one way; only in memory (default: 0)")
    add("--network-sigma", type=float, default=usual.network_sigma, metavar="SIGMA", help="lognormal (default: 0.5)")
    add("--slots", type=int, metavar="N", help="run this many at once, the others wait in line (default: all)")
    add("--slowdown", type=float, default=usual.slowdown, metavar="SHARE", help="with all slots taken (default: 0)")
    add("--seed", type=int, default=usual.seed, metavar="N", help="of latencies and faults (default: 0)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=8000, help="0: any free one (default: 8000)")
    add("--no-headers", dest="announce", action="store_false", help="send no x-ratelimit-* headers")
    add("--no-retry-after", dest="retry_after", action="store_false", help="do not say when to come back")
    add("--no-explanations", dest="explain_refusals", action="store_false", help="refuse without limits and numbers")
    add("--dialect", choices=get_args(DialectName), default=usual.dialect, help="whose headers (default: openai)")
    add("--max-in-flight", type=int, metavar="N", help="refuse more than this at once, without numbers")
    add("--overload-status", type=int, default=usual.overload_status, metavar="STATUS", help="429 (default) or 503")
    add("--overload-code", metavar="CODE", help="of those refusals, such as slow_down")
    add("--overload-wait", type=float, metavar="SECONDS", help="that those refusals name (default: none)")
    add("--slow-down-above", type=float, metavar="N", help="requests per second that may come all of a sudden")
    add("--charge", choices=get_args(ChargeKind), default=usual.charge, help="tokens of what (default: estimate)")
    add("--refund", action="store_true", help="give unused reserves back")
    add("--charge-refused-requests", action="store_true", help="a 429 takes a request too")
    add("--neighbour-rpm", type=float, default=0.0, metavar="N", help="what others take (default: 0)")
    add("--neighbour-tpm", type=float, default=0.0, metavar="N", help="what others take (default: 0)")
    add("--completion-tokens", type=int, default=usual.completion_tokens, metavar="N", help="per answer (default: 16)")
    add("--initial-level", type=float, default=usual.initial_level, metavar="SHARE", help="full at start (default: 1)")
    add("--quiet", action="store_true", help="print the URL and nothing else")
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
    """Serve until Ctrl-C. The first line on stdout is the base URL; all else goes to stderr."""
    try:
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    except ValueError as problem:
        print(f"simulate: {problem}", file=sys.stderr)
        return 2
    simulator = Simulator(settings, faults=arguments.faults)
    try:
        asyncio.run(_serve(simulator, arguments.host, arguments.port, quiet=arguments.quiet))
    except _CannotListenError as problem:
        print(f"simulate: cannot listen on {arguments.host}:{arguments.port}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if arguments.quiet:
            return 0
        seen = simulator.counters
        print(
            f"{seen.attempts} attempts: {seen.succeeded} succeeded, {seen.refused} refused, {seen.failed} failed, "
            f"{seen.abandoned + seen.in_flight} abandoned; at most {seen.peak_in_flight} in flight",
            file=sys.stderr,
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m throttled_openai.simulator",
        description="A rate-limited server with OpenAI's interface, for tests, benchmarks and people without a key.",
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def arguments_of(settings: Settings, faults: Iterable[Fault]) -> list[str]:
    """Return the command line that gives these settings."""
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
    """Nobody can serve there; says why."""


async def _serve(simulator: Simulator, host: str, port: int, *, quiet: bool) -> None:
    _raise_file_limit()
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serve(simulator, host=host, port=port))
        except (OSError, UnicodeError) as problem:  # UnicodeError: of a name that cannot be one
            raise _CannotListenError(problem) from problem
        print(url, flush=True)
        if not quiet:
            print(f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any", file=sys.stderr, flush=True)
        await asyncio.get_running_loop().create_future()


def _raise_file_limit() -> None:
    """Each connection is an open file; 1,024 is a common limit, and far below what clients open."""
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
