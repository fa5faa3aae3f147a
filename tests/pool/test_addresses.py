"""The addresses of a host: which is tried when, in virtual time, and the first connection that opens."""

import asyncio
import socket
import sys

import pytest

from pooled import direct, error
from scripted import families, now
from servers import Server, real
from support import virtual
from throttled_openai._pool import addresses as _addresses
from throttled_openai._pool.addresses import DELAY, first


class Attempts:
    """Attempts that take the given seconds, and succeed or fail."""

    def __init__(self, *outcomes):
        self.begun = {}
        self.aborted = []
        self.cancelled = []
        self.all = [
            lambda nth=nth, outcome=outcome: self._attempt(nth, *outcome) for nth, outcome in enumerate(outcomes)
        ]

    async def _attempt(self, nth, seconds, failure=None):
        self.begun[nth] = now()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.append(nth)
            raise
        if failure is not None:
            raise failure
        return Connected(self, nth)


class Connected:
    def __init__(self, attempts, nth):
        self.nth = nth
        self._attempts = attempts

    def abort(self):
        self._attempts.aborted.append(self.nth)


@virtual
async def test_an_address_has_its_delay_for_itself():
    attempts = Attempts((0.2,), (0.0,))
    assert (await first(attempts.all)).nth == 0
    assert attempts.begun == {0: 0.0}


@virtual
async def test_the_next_address_is_tried_when_the_first_does_not_answer():
    attempts = Attempts((60.0,), (60.0,), (0.1,))
    assert (await first(attempts.all)).nth == 2
    assert attempts.begun == {0: 0.0, 1: DELAY, 2: 2 * DELAY}
    assert now() == 2 * DELAY + 0.1
    assert sorted(attempts.cancelled) == [0, 1]


@virtual
async def test_the_next_address_is_tried_as_soon_as_the_first_fails():
    attempts = Attempts((0.1, OSError("refused")), (0.1,))
    assert (await first(attempts.all)).nth == 1
    assert now() == 0.2


@virtual
async def test_a_slow_address_may_still_be_the_first():
    attempts = Attempts((0.3,), (60.0,))
    assert (await first(attempts.all)).nth == 0
    assert now() == 0.3


@virtual
async def test_the_error_names_every_failure():
    attempts = Attempts((0.1, OSError("refused")), (0.1, OSError("unreachable")))
    with pytest.raises(OSError, match="refused; unreachable"):
        await first(attempts.all)
    with pytest.raises(OSError, match="no address"):
        await first([])


@virtual
async def test_of_two_connections_at_once_one_is_closed():
    attempts = Attempts((DELAY + 0.1,), (0.1,))
    connected = await first(attempts.all)
    assert attempts.aborted == [1 - connected.nth]


@virtual
async def test_nothing_goes_on_after_a_cancellation():
    attempts = Attempts((60.0,), (60.0,))
    task = asyncio.create_task(first(attempts.all))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(attempts.cancelled) == [0, 1]


def found(*addresses):
    """A resolver that finds these."""

    async def getaddrinfo(host, port, **_):
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [(family, socket.SOCK_STREAM, 6, "", (at, port)) for family, at in zip(families, addresses, strict=True)]

    return getaddrinfo


@virtual
async def test_families_take_turns(monkeypatch):
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", found("::1", "::2", "::2", "::3", "1.1.1.1", "2.2.2.2"), raising=False)
    assert await _addresses._addresses("somewhere", 80) == ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]
    assert await _addresses._addresses("1.2.3.4", 80) == ["1.2.3.4"]


# On every kind of loop.


def plainly(main):
    asyncio.run(main())


def eager(main):
    if sys.version_info < (3, 12):
        pytest.skip("tasks are eager from Python 3.12 on")

    async def eagerly():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await asyncio.create_task(main())

    asyncio.run(eagerly())


def on_uvloop(main):
    uvloop = pytest.importorskip("uvloop", reason="there is none for Windows")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@families
@pytest.mark.parametrize("run", [plainly, eager, on_uvloop])
def test_a_name_is_connected_on_every_loop(family, run):
    async def main():
        async with Server() as server, direct(family) as client:
            url = f"http://localhost:{server.port}/"  # often two addresses, the first of which does not listen
            answers = await asyncio.gather(*(client.get(url) for _ in range(5)))
            assert {answer.status_code for answer in answers} == {200}
        async with direct(family) as client:
            with pytest.raises(error(family, "ConnectError")):
                await client.get(url)

    run(main)


@families
@real
async def test_an_address_that_does_not_listen_is_passed_over(family, monkeypatch):
    async with Server() as server, direct(family) as client:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", found("::1", "127.0.0.2", "127.0.0.1"), raising=False)
        assert (await client.get(f"http://somewhere:{server.port}/")).status_code == 200
