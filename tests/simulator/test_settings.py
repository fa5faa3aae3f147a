"""Settings, the log, and the command line."""

import argparse
import json
import re
import socket
import subprocess
import sys
from dataclasses import asdict, fields

import httpx
import pytest

from simulated import chat, post
from throttled_openai.simulator import Fault, Settings, Simulator, spawn
from throttled_openai.simulator._cli import add_arguments, arguments_of
from throttled_openai.simulator._settings import SettingsOptions


def test_the_log_has_each_attempt_and_its_outcome():
    server = Simulator(rpm=1, keep_log=2)
    post(server, chat(10))
    post(server, chat(10), now=1.0, headers={"x-stainless-retry-count": "2", "x-client-request-id": "7"})
    post(server, chat(20, model="b"), now=2.0)
    assert [asdict(attempt) for attempt in server.log] == [
        {
            "at": 1.0,
            "model": "gpt-4o",
            "endpoint": "chat/completions",
            "status": 429,
            "tokens": 10,
            "retry_count": 2,
            "dimension": "requests",
            "fault": None,
            "call": "7",
        },
        {
            "at": 2.0,
            "model": "b",
            "endpoint": "chat/completions",
            "status": 200,
            "tokens": 20,
            "retry_count": 0,
            "dimension": None,
            "fault": None,
            "call": None,
        },
    ]


def test_its_repr_is_a_status_line():
    server = Simulator(rpm=1, tpm=30_000)
    post(server, chat(10))
    post(server, chat(10))
    assert repr(server) == "<Simulator [0 in flight, 1 succeeded, 1 refused | 1 rpm, 30,000 tpm]>"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rpm": 0}, "rpm must be at least 1, got 0"),
        ({"tpm": float("nan")}, "tpm must be a finite number, got nan"),
        ({"burst": 0}, "burst must be at least 0.001, got 0"),
        ({"burst": 61}, "burst must be at most 60, got 61"),
        ({"latency": -1}, "latency must be at least 0, got -1"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1, got 0"),
        ({"max_in_flight": 1.5}, "max_in_flight must be a whole number, got 1.5"),
        ({"overload_status": 200}, "overload_status must be at least 400, got 200"),
        ({"overload_wait": -1}, "overload_wait must be at least 0, got -1"),
        ({"overload_code": ""}, "overload_code must be a word, got ''"),
        ({"initial_level": 2}, "initial_level must be at most 1, got 2"),
        ({"announce": "no"}, "announce must be true or false, got 'no'"),
        ({"network": -0.1}, "network must be at least 0, got -0.1"),
        ({"fixed_window": 61}, "fixed_window must be at most 60, got 61"),
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"slots": 1.5}, "slots must be a whole number, got 1.5"),
        ({"slowdown": None}, "slowdown must be a finite number, got None"),
        ({"rpd": 0}, "rpd must be at least 1, got 0"),
        ({"neighbour_rpm": "many"}, "neighbour_rpm must be a finite number, got 'many'"),
        ({"dialect": "latin"}, "dialect must be one of openai, azure, groq"),
        ({"charge": "nothing"}, "charge must be one of estimate, reserve, usage, got 'nothing'"),
        ({"refund": 1}, "refund must be true or false, got 1"),
        ({"shared_limit": ""}, "shared_limit must be the start of a model's name, got ''"),
        ({"shared_limit": 4}, "shared_limit must be the start of a model's name, got 4"),
    ],
)
def test_invalid_settings_say_why(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Simulator(**options)


def test_the_options_are_the_settings():
    assert set(SettingsOptions.__annotations__) == {field.name for field in fields(Settings)}


def test_the_command_line_can_express_every_setting():
    settings = Settings(
        rpm=500,
        tpm=30_000,
        rpd=10_000,
        tpd=1_000_000,
        shared_limit="gpt-4.1",
        burst=1.0,
        show_burst=True,
        fixed_window=10.0,
        latency=0.25,
        latency_sigma=0.0,
        network=0.02,
        network_sigma=0.1,
        slots=4,
        slowdown=0.5,
        seed=7,
        announce=False,
        retry_after=False,
        explain_refusals=False,
        dialect="azure",
        max_in_flight=9,
        overload_status=503,
        overload_code="slow_down",
        overload_wait=2.0,
        slow_down_above=10.0,
        charge="reserve",
        refund=True,
        charge_refused_requests=True,
        neighbour_rpm=100.0,
        neighbour_tpm=5000.0,
        completion_tokens=3,
        initial_level=0.5,
    )
    assert all(getattr(settings, field.name) != field.default for field in fields(Settings))
    faults = [Fault("hang", share=0.5), Fault("status", status=503)]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    parsed = parser.parse_args(arguments_of(settings, faults))
    assert Settings(**{field.name: getattr(parsed, field.name) for field in fields(Settings)}) == settings
    assert parsed.faults == faults


def test_everything_can_be_set_over_http():
    server = Simulator()
    options = {"rpd": 100, "slots": 2, "charge": "usage", "shared_limit": "gpt", "fixed_window": 1.0, "network": 0.1}
    reply = server.receive("POST", "/simulator/settings", {}, json.dumps(options).encode(), 0.0)
    assert json.loads(reply.pieces[0]) == asdict(Settings(**options))


# The process and the command.


def test_it_runs_in_a_process_of_its_own():
    with spawn(rpm=2, latency=0.0, faults=[Fault(status=503, first=1)]) as url:
        assert url.endswith("/v1")
        with httpx.Client() as client:
            statuses = [client.post(f"{url}/chat/completions", json=chat(10)).status_code for _ in range(3)]
            assert statuses == [200, 503, 429]
            root = url.removesuffix("/v1")
            stats = client.get(f"{root}/simulator/stats").json()
            assert (stats["succeeded"], stats["failed"], stats["refused"]) == (1, 1, 1)
            assert client.post(f"{root}/simulator/settings", json={"rpm": 600}).json()["rpm"] == 600
            assert client.get(f"{root}/simulator/stats").json()["models"]["gpt-4o"]["requests"] < 600
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_its_process_serves_every_attempt_with_its_clients_id():
    with spawn(rpm=1, latency=0.0) as url, httpx.Client() as client:
        for name in ("a", "b"):
            client.post(f"{url}/chat/completions", json=chat(10), headers={"X-Client-Request-Id": name})
        attempts = client.get(f"{url.removesuffix('/v1')}/simulator/log").json()["attempts"]
        assert [(each["call"], each["status"], each["dimension"]) for each in attempts] == [
            ("a", 200, None),
            ("b", 429, "requests"),
        ]


def test_a_process_that_cannot_start_is_an_error_here():
    with pytest.raises(ValueError, match="rpm must be at least 1"), spawn(rpm=0):
        pass


def test_the_command_says_why_it_cannot_serve():
    command = [sys.executable, "-m", "throttled_openai.simulator"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = subprocess.run([*command, f"--port={port}"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr
    wrong = subprocess.run([*command, "--rpm=0"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "simulate: rpm must be at least 1, got 0.0\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_ends_the_command_with_one_line():
    import signal

    command = [sys.executable, "-m", "throttled_openai.simulator", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert process.stderr.readline() == f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=any\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert said.startswith("0 attempts: 0 succeeded")
    assert said.count("\n") == 1
