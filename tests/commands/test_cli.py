"""The command line: what it takes, what it returns."""

import errno
import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from throttled_openai._commands import main as cli
from throttled_openai._commands.demo import cli as _cli
from throttled_openai._commands.demo.contender import CONTENDERS
from throttled_openai._commands.demo.race import RacePlan
from throttled_openai._commands.demo.tally import Tally

FULL = Path("/dev/full")


def test_without_arguments_it_helps(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: throttled-openai ")
    assert "demo" in said
    assert "simulate" in said


def test_the_version_is_what_a_bug_report_needs(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("throttled-openai ")
    assert f"openai {openai.__version__}, Python {sys.version.split()[0]}" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["demo", "--calls=0"],
        ["demo", "--calls=many"],
        ["demo", "--rpm=-1"],
        ["demo", "--live"],
        ["simulate", "--fault=nonsense"],
        ["simulate", "--port=70000"],
        ["simulate", "--port=-1"],
        ["simulate", "--port=eighty"],
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: throttled-openai" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "says"),
    [
        (["dmo"], "[-h]", "there is no command 'dmo'; did you mean 'demo'?"),
        (["simulator"], "[-h]", "did you mean 'simulate'?"),
        (["--verson"], "[-h]", "did you mean '--version'?"),
        (["demo", "--cals=5"], "demo", "unrecognized arguments: --cals=5; did you mean '--calls'?"),
        (["bench", "--modle", "m"], "bench", "unrecognized arguments: --modle; did you mean '--model'?"),
        (["simulate", "--prot", "6"], "simulate", "did you mean '--port'?"),
        (["demo", "--zzz"], "demo", "unrecognized arguments: --zzz\n"),
    ],
)
def test_mistyped_commands_and_options_are_named(arguments, usage, says, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: throttled-openai {usage}")
    assert says in said


def test_options_may_be_shortened_as_before(monkeypatch):
    asked = []
    monkeypatch.setattr(_cli, "race", lambda plan, tallies: asked.append(plan.calls))
    cli.main(["demo", "--cal", "7"])
    assert asked == [7]


@pytest.mark.parametrize(
    ("problem", "code", "says"),
    [
        (BrokenPipeError(errno.EPIPE, "gone"), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot write: No space left on device"),
    ],
)
def test_a_closed_or_full_output_prints_no_traceback(problem, code, says, monkeypatch, capsys):
    dropped = []

    def full(arguments):
        raise problem

    monkeypatch.setattr(_cli, "run", full)
    monkeypatch.setattr(cli, "_drop_output", lambda: dropped.append(True))
    assert cli.main(["demo"]) == code
    assert says in capsys.readouterr().err
    assert dropped == [True]


def test_other_faults_are_not_hidden(monkeypatch):
    def lost(arguments):
        raise OSError(errno.ENOENT, "gone")

    monkeypatch.setattr(_cli, "run", lost)
    with pytest.raises(OSError, match="gone"):
        cli.main(["demo"])


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_help_on_a_full_disk_says_so():
    command = [sys.executable, "-m", "throttled_openai"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env.pop("PYTHONUNBUFFERED", None)
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "throttled-openai: cannot write: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--host=no..such"], ["--port=PORT"]])
def test_simulate_exits_with_1_if_the_port_is_taken(arguments, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["simulate", *(argument.replace("PORT", port) for argument in arguments)]) == 1
    assert capsys.readouterr().err.startswith("simulate: cannot listen on ")


def test_a_simulator_that_cannot_be_is_2(capsys):
    assert cli.main(["simulate", "--rpm=-1"]) == 2
    assert capsys.readouterr().err.startswith("simulate: ")


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ([], RacePlan(1000, "gpt-4o", 3000, live=False)),
        (["--calls=7", "--rpm=60"], RacePlan(7, "gpt-4o", 60, live=False)),
        (["--live=gpt-4o-mini", "--yes"], RacePlan(200, "gpt-4o-mini", None, live=True)),
        (["--live=gpt-4o-mini", "--yes", "--rpm=500", "--calls=9"], RacePlan(9, "gpt-4o-mini", 500, live=True)),
    ],
)
def test_the_demo_does_what_it_is_asked(arguments, plan, monkeypatch):
    asked = []

    def race(plan, tallies):
        asked.append(plan)

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(_cli, "race", race)
    cli.main(["demo", *arguments])
    assert asked == [plan]


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (1, 1)])
def test_the_demo_has_failed_if_the_throttled_client_loses_calls(lost, code, monkeypatch):
    def race(plan, tallies):
        for contender in CONTENDERS:
            tally = Tally(contender, 10, 1.0, done=10 - lost, _ended=1.0)
            tally.failures.update(["RateLimitError"] * lost)
            tallies.append(tally)

    monkeypatch.setattr(_cli, "race", race)
    assert cli.main(["demo"]) == code


def test_ctrl_c_is_130_wherever_it_comes(monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_cli, "run", interrupted)
    assert cli.main(["demo"]) == 130


def test_simulate_serves():
    command = [sys.executable, "-W", "error", "-m", "throttled_openai", "simulate", "--port=0", "--quiet"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            url = process.stdout.readline().strip()
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(url.removesuffix("/v1") + "/simulator/stats", timeout=10) as answer:
                assert json.load(answer)["attempts"] == 0
        finally:
            process.terminate()
