"""Runs whose requests are sent by several worker processes."""

import os
import signal
import sys
from pathlib import Path

import openai
import pytest

from batches import command, everyone, ids, lines, lines_in, results, told, wait_for
from throttled_openai._commands.run.settings import _share_of
from throttled_openai._limits import Limits
from throttled_openai._stats import BudgetStats, Stats, WindowStats
from throttled_openai.batch._processes import together
from throttled_openai.batch._worker import Failed
from throttled_openai.errors import AccountBlocked, AdmissionTimeout
from throttled_openai.simulator import Fault, spawn

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(lines(300))
    return path


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = [int(each) for each in children.read_text().split()]
    return [each for each in found if b"resource_tracker" not in _command_of(each)]


def _command_of(number):
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b"resource_tracker"


def test_two_processes_do_every_line_once_with_its_answer(server, source, output):
    code, _, err = told("run", source, "-o", output, "--base-url", server, "--processes", "2")
    assert code == 0, err
    assert "300 requests served and 0 failed" in err
    assert sorted(ids(output)) == everyone(300)
    assert all(each["response"]["body"]["usage"]["total_tokens"] for each in results(output))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_worker_that_is_killed_costs_no_line(server, source, output):
    process = command("run", source, "-o", output, "--base-url", server, "--processes", "2", "--rpm", "3000")
    wait_for(lambda: lines_in(output) >= 20)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "has ended" in err
    assert sorted(ids(output)) == everyone(300)


def test_an_interrupt_of_the_whole_group_waits_for_what_is_in_flight(server, source, output):
    process = command(
        "run", source, "-o", output, "--base-url", server, "--processes", "2", "--rpm", "600", start_new_session=True
    )
    wait_for(lambda: lines_in(output) >= 5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    done = len(ids(output))
    assert 5 <= done < 300
    code, _, err = told("run", source, "-o", output, "--base-url", server, "--processes", "2", "--quiet")
    assert (code, err) == (0, "")
    assert sorted(ids(output)) == everyone(300)


def test_a_bill_ends_the_run_of_all_processes(source, output):
    with spawn(latency=0.01, faults=[Fault(status=429, code="insufficient_quota", message="pay")]) as url:
        code, _, err = told("run", source, "-o", output, "--base-url", url, "--processes", "2")
    assert code == 1
    assert "the account has to be paid for first (insufficient_quota)" in err


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("AccountBlocked", AccountBlocked),
        ("AdmissionTimeout", AdmissionTimeout),
        ("APITimeoutError", openai.APITimeoutError),
        ("APIConnectionError", openai.APIConnectionError),
        ("KeyError", openai.OpenAIError),
    ],
)
def test_an_error_comes_back_from_a_worker_with_its_class_message_and_code(kind, expected):
    error = Failed(1, kind, "because", "a_code", "ConnectError").error()
    assert type(error) is expected
    assert str(error) == "because"
    if kind != "KeyError":
        assert (error.code, type(error.__cause__).__name__) == ("a_code", "ConnectError")


def test_each_process_has_its_share_of_the_limits():
    assert _share_of({"rpm": 600, "tpm": 1000}, 4) == {"rpm": 150, "tpm": 250}
    both = Limits(rpm=60, burst=2.0)
    shares = _share_of({"limits": {"a": both, "b": both, "c": Limits(tpm=10)}}, 2)["limits"]
    assert shares == {"a": Limits(rpm=30, burst=2.0), "b": Limits(rpm=30, burst=2.0), "c": Limits(tpm=5)}
    assert shares["a"] is shares["b"]


def test_figures_of_all_processes_are_added():
    def part(rpm, admitted, tokens):
        window = WindowStats("requests", 60.0, rpm, 1.0)
        budget = BudgetStats("m", 1, 2, 3, admitted, admitted, 0, 0, (window,), tokens)
        return Stats(1, 2, (budget,))

    whole = together([part(300, 10, 100.0), part(300, 30, 200.0)])
    (budget,) = whole.budgets
    assert (whole.waiting, whole.in_flight, budget.admitted, budget.concurrency_limit) == (2, 4, 40, 6)
    assert budget.windows == (WindowStats("requests", 60.0, 600, 2.0),)
    assert budget.tokens_per_call == 175.0
