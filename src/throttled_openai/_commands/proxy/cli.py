"""The command `proxy`: listens, serves until Ctrl-C, and then lets the calls in flight end."""
# ruff: noqa: T201  # a command talks

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import ipaddress
import logging
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._clients.install import checked
from throttled_openai._clients.shared import shared
from throttled_openai._commands.argument_types import port
from throttled_openai._commands.exec import add_options, options_in
from throttled_openai._commands.open_files import allow_open_files
from throttled_openai._stats import spell

from .app import Proxy
from .record import label_of

if TYPE_CHECKING:
    import argparse

    from throttled_openai._commands.parser import Parser

_OPENAI: Final = "https://api.openai.com/v1"
_LOOPBACK: Final = "127.0.0.1"
# Seconds. Clients keep idle connections for less, so it is not the proxy that closes one just as it is used.
_KEEP_ALIVE: Final = 120
_BACKLOG: Final = 4096


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Programs use the address that is printed as their base URL, with their own keys, which pass through. Each key "
        "has budgets and queues of its own. Time in the queue counts for a program's own timeout, so raise that, or "
        "set --max-wait. GET /-/stats shows what waits and why. The first Ctrl-C lets the calls in flight end, the "
        "second does not."
    )
    parser.add_argument("--upstream", metavar="URL", default=_OPENAI, help=f"the API (default: {_OPENAI})")
    parser.add_argument("--host", help=f"address to listen on (default: {_LOOPBACK}, for this machine only)")
    parser.add_argument("--port", type=port, default=8080, help="port to listen on; 0: any free one (default: 8080)")
    add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print no line for each call")
    parser.set_defaults(fail=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C. The first line on stdout is the base URL; everything else goes to stderr."""
    if importlib.util.find_spec("uvicorn") is None:
        print('throttled-openai proxy: needs uvicorn: pip install "throttled-openai[proxy]"', file=sys.stderr)
        return 1
    allow_open_files()  # before the throttles look at it
    try:
        options = checked(options_in(arguments))
        proxy = Proxy(arguments.upstream, _nothing if arguments.quiet else _say, **options)
    except (TypeError, ValueError, ImportError) as error:
        raise SystemExit(arguments.fail(str(error))) from error
    try:
        sockets = listen(arguments.host or _LOOPBACK, arguments.port)
    except (OSError, UnicodeError) as error:
        host, reason = arguments.host or _LOOPBACK, getattr(error, "strerror", None) or str(error)
        used = getattr(error, "errno", None) == errno.EADDRINUSE
        print(
            f"throttled-openai proxy: cannot listen on {host}:{arguments.port}: {reason}"
            f"{'; choose another --port' if used else ''}",
            file=sys.stderr,
        )
        return 1
    _warn_of_others(arguments.host)
    logger, handler = logging.getLogger("throttled_openai"), _Said()
    logger.addHandler(handler)
    began = time.monotonic()
    try:
        _serve(proxy, sockets)
    finally:
        logger.removeHandler(handler)
    _summarise(time.monotonic() - began)
    return 0


def listen(host: str, number: int) -> list[socket.socket]:
    """Sockets that listen on `host`; for the loopback address also on its IPv6 form, to which `localhost` may lead."""
    family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    found = [_listening(family, address)]
    if host == _LOOPBACK:
        with contextlib.suppress(OSError):  # without IPv6, or in use there
            found.append(_listening(socket.AF_INET6, ("::1", found[0].getsockname()[1])))
    return found


def _listening(family: int, address: Any) -> socket.socket:
    # Not `socket.create_server`, which names no protocol: asyncio then leaves Nagle's algorithm on, so that the body
    # of an answer waits up to 40 ms for the acknowledgement of its headers.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where it would let another program take the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def config_of(proxy: Proxy) -> Any:
    """The settings of the server below the proxy, which itself says nothing and adds nothing."""
    import uvicorn  # noqa: PLC0415  # an extra

    return uvicorn.Config(
        proxy,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",  # what goes wrong is in our own lines
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
    )


def _serve(proxy: Proxy, sockets: list[socket.socket]) -> None:
    import uvicorn  # noqa: PLC0415  # an extra

    config = config_of(proxy)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            super().handle_exit(sig, frame)
            if loops:
                loops[0].call_soon_threadsafe(stop)

    server, loops = Server(config), []

    def stop() -> None:
        proxy.stop()
        if proxy.under_way and not server.force_exit:
            _say(f"stopping; {len(proxy.under_way)} calls are under way; Ctrl-C again does not wait for them")

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        host, number = sockets[0].getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{number}{proxy.upstream.path}"
        print(address, flush=True)
        _say(f"calls go to {proxy.upstream}; export OPENAI_BASE_URL={address}")
        try:
            await server.serve(sockets=sockets)
        finally:
            loops.clear()
            await proxy.aclose()

    # The server has its own handlers while it runs, and then raises the signals that it received once more.
    with _handling(server.handle_exit), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())


@contextlib.contextmanager
def _handling(handler: Any) -> Any:
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, before, strict=True):
            signal.signal(number, earlier)


def _warn_of_others(host: str | None) -> None:
    if host is None or host == "localhost":
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    _say(f"warning: {host} may be reached by other machines: they can send calls, and their keys are not encrypted")


def _summarise(seconds: float) -> None:
    for account, stats in shared.stats():
        if not stats.budgets:  # nothing of it ran a model
            continue
        _say(
            f"{account.host}, key {label_of(account)}: {stats.succeeded:,} requests succeeded in {spell(seconds)}; "
            f"{stats.refused:,} refusals on the way"
        )
        for budget in stats.budgets:
            _say(f"    {budget}")


class _Said(logging.Handler):
    """Warnings of the throttle, such as a long wait."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _nothing(_: str) -> None:
    pass
