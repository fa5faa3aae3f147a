"""`throttled-openai proxy` as a command: what it says, when it starts, when it cannot, and how it ends."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from proxied import CHAT_BODY, KEY, until
from servers import Server, after
from throttled_openai._commands.main import main
from throttled_openai._commands.proxy.cli import listen


def commanded(use, *arguments, answer=None):
    """The exit code of the command, run here with `arguments` while `use(server, chat)` runs in another thread.

    `chat()` is one call. The command is interrupted when `use` returns.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started, ended, failures = threading.Event(), threading.Event(), []
    upstream = {}

    async def converse():
        async with Server(answer) as server, httpx.AsyncClient(timeout=20) as http:
            upstream["url"] = server.url
            started.set()
            url = f"http://127.0.0.1:{port}"
            await until(lambda: listens(port))

            async def chat():
                headers = {"authorization": f"Bearer {KEY}"}
                return await http.post(f"{url}/v1/chat/completions", json=CHAT_BODY, headers=headers)

            await use(server, chat)
            if not ended.is_set():
                interrupt()
            await until(ended.is_set)

    def run():
        try:
            asyncio.run(asyncio.wait_for(converse(), 30))
        except BaseException as failure:  # noqa: BLE001  # raised in the main thread
            failures.append(failure)
            interrupt()
            time.sleep(0.2)
            interrupt()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        code = main(["proxy", "--upstream", upstream["url"], "--port", str(port), *arguments])
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]
    return code


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_until_ctrl_c_and_sums_up(capsys):
    async def use(server, chat):
        assert (await chat()).status_code == 200

    assert commanded(use, "--rpm", "600", "--host", "0.0.0.0") == 0
    out, told = capsys.readouterr()
    url = out.strip()
    assert url.startswith("http://0.0.0.0:")
    assert url.endswith("/v1")
    assert f"export OPENAI_BASE_URL={url}" in told
    assert "may be reached by other machines" in told
    assert "200 POST /v1/chat/completions gpt-4o key=" in told
    assert "1 requests succeeded" in told
    assert "600 requests/min" in told
    assert KEY not in told
    assert "Traceback" not in told


def test_a_call_in_flight_ends_before_it_stops_and_one_that_waits_is_told(capsys):
    async def use(server, chat):
        flying = asyncio.create_task(chat())
        await until(lambda: server.asked)
        waiting = asyncio.create_task(chat())
        await asyncio.sleep(0.1)
        interrupt(signal.SIGTERM)
        assert (await waiting).status_code == 503
        assert not flying.done()
        assert (await flying).status_code == 200

    before = signal.getsignal(signal.SIGTERM)
    assert commanded(use, "--rpm", "1", "--quiet", answer=after(0.5)) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    told = capsys.readouterr().err
    assert "2 calls are under way" in told
    assert "POST" not in told


def test_a_second_ctrl_c_does_not_wait(capsys):
    async def use(server, chat):
        flying = asyncio.create_task(chat())
        await until(lambda: server.asked)
        interrupt()
        await asyncio.sleep(0.2)
        assert not flying.done()
        interrupt()
        with contextlib.suppress(httpx.TransportError):
            assert (await flying).status_code == 502

    assert commanded(use, answer=after(60)) == 0
    assert "Traceback" not in capsys.readouterr().err


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
        assert {each.proto for each in found} == {socket.IPPROTO_TCP}  # or asyncio does not turn Nagle's algorithm off
    finally:
        for each in found:
            each.close()


def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["proxy"]) == 1
    assert 'pip install "throttled-openai[proxy]"' in capsys.readouterr().err
