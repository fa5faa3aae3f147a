"""The command line: what it takes, what it returns."""

import json
import os
import subprocess
import sys
import urllib.request

import openai
import pytest

from throttled_openai import cli, demo


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
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: throttled-openai" in capsys.readouterr().err


def test_a_simulator_that_cannot_be_is_2(capsys):
    assert cli.main(["simulate", "--rpm=-1"]) == 2
    assert capsys.readouterr().err.startswith("simulate: ")


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        ([], demo.Plan(1000, "gpt-4o", 3000, live=False)),
        (["--calls=7", "--rpm=60"], demo.Plan(7, "gpt-4o", 60, live=False)),
        (["--live=gpt-4o-mini", "--yes"], demo.Plan(200, "gpt-4o-mini", None, live=True)),
        (["--live=gpt-4o-mini", "--yes", "--rpm=500", "--calls=9"], demo.Plan(9, "gpt-4o-mini", 500, live=True)),
    ],
)
def test_the_demo_does_what_it_is_asked(arguments, plan, monkeypatch):
    asked = []

    def race(plan, tallies):
        asked.append(plan)

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(demo, "race", race)
    cli.main(["demo", *arguments])
    assert asked == [plan]


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (1, 1)])
def test_the_demo_has_failed_if_the_throttled_client_loses_calls(lost, code, monkeypatch):
    def race(plan, tallies):
        for contender in demo.CONTENDERS:
            tally = demo.Tally(contender, 10, 1.0, done=10 - lost, _ended=1.0)
            tally.failures.update(["RateLimitError"] * lost)
            tallies.append(tally)

    monkeypatch.setattr(demo, "race", race)
    assert cli.main(["demo"]) == code


def test_ctrl_c_is_130_wherever_it_comes(monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
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
