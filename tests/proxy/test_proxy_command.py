"""`throttled-openai proxy` as a process: what it says, when it starts, when it cannot, and how it ends."""

import asyncio
import contextlib
import signal
import socket
import sys

import httpx
import pytest

from proxied import CHAT_BODY, KEY, until
from servers import Server, after, real
from throttled_openai._commands.main import main
from throttled_openai._commands.proxy.cli import listen

HEADERS = {"authorization": f"Bearer {KEY}"}


@contextlib.asynccontextmanager
async def command(*arguments):
    """The running command; the test reads its output."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "throttled_openai", "proxy", "--port", "0", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield running, (await running.stdout.readline()).decode().strip()
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()


@real
async def test_it_serves_until_ctrl_c_and_sums_up():
    async with Server() as server, command("--upstream", server.url, "--rpm", "600") as (running, url):
        assert url.endswith("/v1")
        async with httpx.AsyncClient(headers=HEADERS) as http:
            assert (await http.post(f"{url}/chat/completions", json=CHAT_BODY)).status_code == 200
        running.send_signal(signal.SIGINT)
        told = (await running.stderr.read()).decode()
        assert await running.wait() == 0
        assert f"export OPENAI_BASE_URL={url}" in told
        assert "200 POST /v1/chat/completions gpt-4o key=" in told
        assert "1 requests succeeded" in told
        assert "600 requests/min" in told
        assert KEY not in told
        assert "Traceback" not in told


@real
async def test_a_call_in_flight_ends_before_it_stops_and_one_that_waits_is_told():
    async with Server(after(0.7)) as server, command("--upstream", server.url, "--rpm", "1") as (running, url):
        async with httpx.AsyncClient(headers=HEADERS, timeout=20) as http:
            flying = asyncio.create_task(http.post(f"{url}/chat/completions", json=CHAT_BODY))
            await until(lambda: server.asked)
            waiting = asyncio.create_task(http.post(f"{url}/chat/completions", json=CHAT_BODY))
            await asyncio.sleep(0.2)
            running.terminate()
            assert (await waiting).status_code == 503
            assert not flying.done()
            assert (await flying).status_code == 200
        assert await running.wait() == 0
        assert "2 calls are under way" in (await running.stderr.read()).decode()


@real
async def test_a_second_ctrl_c_does_not_wait():
    async with Server(after(60)) as server, command("--upstream", server.url) as (running, url):
        async with httpx.AsyncClient(headers=HEADERS, timeout=20) as http:
            flying = asyncio.create_task(http.post(f"{url}/chat/completions", json=CHAT_BODY))
            await until(lambda: server.asked)
            running.send_signal(signal.SIGINT)
            await asyncio.sleep(0.2)
            running.send_signal(signal.SIGINT)
            assert await running.wait() == 0
            with contextlib.suppress(httpx.TransportError):
                assert (await flying).status_code == 502
        assert "Traceback" not in (await running.stderr.read()).decode()


def test_a_port_in_use_is_told_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["proxy", "--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert told == f"throttled-openai proxy: cannot listen on 127.0.0.1:{port}: {told.partition(f'{port}: ')[2]}"
    assert "choose another --port" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rpm", "0"], "rpm must be positive"),
        (["--upstream", "nowhere"], "upstream must be the URL of an API"),
        (["--rmp", "1"], "--rpm"),
        (["--port", "x"], "whole number"),
        (["--max-wait", "x"], "invalid float"),
    ],
)
def test_a_wrong_option_is_told(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["proxy", *arguments])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("THROTTLED_OPENAI_RPM", "0"), ("THROTTLED_OPENAI_TPM", "many")])
def test_options_are_read_from_the_environment(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main(["proxy"])
    assert name[-3:] in capsys.readouterr().err.upper()


def test_a_host_that_does_not_exist_is_told(capsys):
    assert main(["proxy", "--host", "nowhere.invalid", "--port", "0"]) == 1
    assert "cannot listen on nowhere.invalid" in capsys.readouterr().err


def test_it_listens_on_this_machine_only_on_both_of_its_addresses():
    found = listen("127.0.0.1", 0)
    try:
        hosts = [each.getsockname()[0] for each in found]
        assert hosts[0] == "127.0.0.1"
        assert set(hosts) <= {"127.0.0.1", "::1"}
        assert len({each.getsockname()[1] for each in found}) == 1
    finally:
        for each in found:
            each.close()


@real
async def test_a_host_that_others_reach_is_warned_of():
    async with command("--upstream", "http://127.0.0.1:9/v1", "--host", "0.0.0.0") as (running, url):
        assert url.startswith("http://0.0.0.0:")
        running.send_signal(signal.SIGINT)
        assert "may be reached by other machines" in (await running.stderr.read()).decode()


def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["proxy"]) == 1
    assert 'pip install "throttled-openai[proxy]"' in capsys.readouterr().err
