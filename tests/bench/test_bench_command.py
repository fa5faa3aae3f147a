"""The command: usage, questions, and what it writes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benched import KEY, Page, planned
from scripted import URL
from throttled_openai._commands import main as cli
from throttled_openai._commands.bench import cli as _cli
from throttled_openai._commands.bench.address import is_near
from throttled_openai.simulator import spawn


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate=1", "--concurrency=2"],
        ["--rate=1", "--sweep=auto"],
        ["--concurrency=4", "--max-concurrency=8"],
        ["--sweep=1,2", "--max-concurrency=8"],
        ["--slo-latency=1"],
        ["--concurrency=1", "--burstiness=2"],
        ["--sweep=auto", "--no-stream", "--slo-ttft=1"],
        ["--endpoint=embeddings", "--max-tokens=9"],
        ["--prompt=/nowhere/at/all"],
        ["--json=/nowhere/at/all.json"],
        ["--base-url=localhost:8000"],
        ["--base-url=http://localhost:99999/v1"],
        ["--base-url=http://localhost:abc/v1"],
        ["--base-url=http://[::1/v1"],
        ["--sweep=2,64", "--calls=100"],
        ["--concurrency=100000000"],
        ["--rate=0.01", "--duration=1"],
    ],
)
def test_invalid_arguments_are_refused_at_once(arguments, capsys, monkeypatch):
    monkeypatch.setattr(_cli, "measure", None)
    assert cli.main(["bench", "--model=m", f"--base-url={URL}", "--yes", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("bench: ")
    assert said.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model=m", "--goodput=ttft"],
        ["--model=m", "--goodput=ttft:200 ttft:300"],
        ["--model=m", "--percentiles=50,101"],
        ["--model=m", "--rate=0"],
        ["--model=m", "--rate=inf"],
        ["--model=m", "--rate=ten"],
        ["--model=m", "--calls=1.5"],
        ["--model=m", "--calls=0"],
        ["--model=m", "--sweep=1,two"],
        ["--model=m", "--sweep=0,1"],
        ["--model=m", "--warm-up=-1"],
        ["--model=m", "--extra=[]"],
        ["--model=m", "--extra={"],
        ["--model=m", "--endpoint=nonsense"],
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "usage: throttled-openai bench" in said
    assert "_" not in said.splitlines()[-1]  # no name of a function of ours


def test_openai_needs_a_key(monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert cli.main(["bench", "--model=m", "--yes"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_without_a_yes_nothing_is_sent(monkeypatch, capsys):
    monkeypatch.setattr(_cli, "measure", None)
    with open(os.devnull) as nobody:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nobody)
        assert cli.main(["bench", "--model=m", "--base-url=https://api.provider.com/v1"]) == 1
    said = capsys.readouterr()
    assert "--yes" in said.err
    assert said.err.endswith("Nothing was sent.\n")
    assert said.out == ""


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("192.168.1.7:8000", True),
        ("vllm:8000", True),
        ("gpu.local", True),
        ("8.8.8.8", False),
        ("[2001:4860::1]", False),
        ("api.openai.com", False),
    ],
)
def test_it_asks_only_before_calls_that_may_cost_money(host, near):
    assert is_near(f"http://{host}/v1") is near


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--rate=10", "--duration=30"], ["300 calls to m at http://server/v1: 10 calls a second", "at most about"]),
        (["--concurrency=8", "--calls=50"], ["50 calls to m", "8 in flight"]),
        (["--sweep=1,2,4", "--calls=50"], ["50 calls in each of 3 steps", "1, 2, 4 in flight"]),
        (["--sweep=auto"], ["20 s and 2 s of warm-up in each step", "at most 1,0"]),
        ([], ["As many calls as fit into 20 s", "as many as the client admits"]),
    ],
)
def test_it_says_what_it_will_send(arguments, facts):
    said = _cli.announcement(planned(*arguments))
    for fact in facts:
        assert fact in said
    assert "costs money" not in said
    assert "costs money" in _cli.announcement(planned("--base-url=https://api.provider.com/v1", *arguments))


def test_the_announced_tokens_are_an_upper_bound():
    # 128 words of three letters are 511 bytes: 127 tokens, 1 message, 2; and 64 of answer.
    said = _cli.announcement(planned("--rate=1", "--calls=10"))
    assert "each at most about 194 tokens, at most about 1,940 tokens in all" in said


def test_the_command_measures_a_server(tmp_path, capsys):
    files = [tmp_path / "found.json", tmp_path / "found.html"]
    with spawn(latency=0.05, completion_tokens=2) as url:
        code = cli.main([
            "bench", f"--base-url={url}", "--model=m", "--sweep=1,4", "--duration=1", "--warm-up=0.2",
            f"--json={files[0]}", f"--html={files[1]}",
        ])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0
    assert "In your code: ThrottledAsyncOpenAI(max_concurrency=" in said.out
    assert "1 in flight: " in said.err
    assert KEY not in said.out + said.err
    one, four = json.loads(files[0].read_text())["steps"]
    assert 0 < one["latency_seconds"]["p50"] < 1
    assert one["time_to_first_token_seconds"]["p50"] < one["latency_seconds"]["p50"]
    assert four["done"] > one["done"] > 0
    Page(files[1].read_text())


def test_an_unreachable_server_is_exit_code_1(capsys):
    assert cli.main(["bench", "--base-url=http://127.0.0.1:9/v1", "--model=m", "--yes"]) == 1
    said = capsys.readouterr()
    assert (
        "nothing was measured: APIConnectionError (ConnectError); does a server run at http://127.0.0.1:9/v1?"
        in said.err
    )
    assert said.out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_prints_and_writes_the_results_so_far(tmp_path):
    found = tmp_path / "found.json"
    with spawn(latency=0.05, completion_tokens=2) as url:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "throttled_openai", "bench", f"--base-url={url}", "--model=m",
             "--concurrency=2", "--duration=60", f"--json={found}", "--yes"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        with process:
            for line in process.stderr:  # the first line of progress, after 5 s
                if line.startswith("2 in flight"):
                    break
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            said, noise = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in noise
    told = json.loads(found.read_text())
    assert told["interrupted"] is True
    assert told["steps"][0]["done"] > 10
