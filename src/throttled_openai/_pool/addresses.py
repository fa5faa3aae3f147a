"""Addresses: a host may have several, and the first that answers is used (RFC 8305, "happy eyeballs").

asyncio has this too, but not on uvloop, and on Python 3.12.0 to 3.12.7 and 3.13.0 it fails with eager tasks.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Seconds after which the next address is tried as well, as in anyio.
DELAY: Final = 0.25


async def connect(make: Callable[[], Any], host: str, port: int) -> Any:
    """A protocol from `make`, connected to `host`. Raises `OSError`, and resolvers' errors for invalid names."""
    attempts = [functools.partial(_attempt, make, address, port) for address in await _addresses(host, port)]
    return await attempts[0]() if len(attempts) == 1 else await first(attempts)


async def _addresses(host: str, port: int) -> list[str]:
    """The addresses of `host` in the resolver's order, alternating between the families."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, dict[str, None]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, {})[str(address[0])] = None
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*families.values()))
    return [address for address in in_turn if address is not None]


async def _attempt(make: Callable[[], Any], address: str, port: int) -> Any:
    _, protocol = await asyncio.get_running_loop().create_connection(make, address, port)
    return protocol


async def first(attempts: Sequence[Callable[[], Any]]) -> Any:
    """The first protocol that connects. Each attempt begins when the one before has failed, or `DELAY` after it."""
    waiting = list(reversed(attempts))
    running: set[asyncio.Task[Any]] = set()
    failures: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.pop()()))
            delay = DELAY if waiting else None
            done, _ = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                failure = task.exception()
                if failure is None:
                    return task.result()
                failures.append(failure)
    finally:
        await _give_up(running)
    raise OSError("; ".join(map(str, failures)) or "the host has no address")


async def _give_up(attempts: set[asyncio.Task[Any]]) -> None:
    for attempt in attempts:
        attempt.cancel()
    if attempts:
        await asyncio.wait(attempts)
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().abort()
