"""The demonstration counts right, asks before it spends, and ends cleanly."""

import asyncio
import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from throttled_openai._commands import main as cli
from throttled_openai._commands.demo import cli as _cli
from throttled_openai._commands.demo import race as _race
from throttled_openai._commands.demo.contender import CONTENDERS
from throttled_openai._commands.demo.race import PROMPT, RacePlan
from throttled_openai._commands.demo.result import Result, conclusion, footnotes, ideal, table
from throttled_openai._commands.demo.tally import Tally, progress, server_seconds
from throttled_openai._commands.terminal import show
from throttled_openai.simulator import Fault, spawn

GATHER, SEMAPHORE, THROTTLED = CONTENDERS

LOST = Result(GATHER, 1000, 298, 2404, 9.84, 19.5, (("RateLimitError", 700), ("APITimeoutError", 2)))
SLOW = Result(SEMAPHORE, 1000, 1000, 0, 51.2, 19.5)
FAST = Result(THROTTLED, 1000, 1000, 0, 20.0, 19.5)


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    """No test reaches a real account."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def unsent(monkeypatch):
    def race(plan, tallies):
        raise AssertionError("something was sent")

    monkeypatch.setattr(_cli, "race", race)


def answer(monkeypatch, text):
    def answered():
        if text is None:
            raise EOFError
        return text

    monkeypatch.setattr("builtins.input", answered)
    monkeypatch.setattr(sys, "stdin", Terminal())


class Terminal:
    def isatty(self):
        return True


# Arithmetic and words


def test_the_ideal_is_a_burst_at_once_then_the_rate_then_one_answer():
    assert ideal(1000, 50.0, 0.5) == 19.5


def test_the_ideal_of_less_than_a_burst_is_one_answer():
    assert ideal(20, 50.0, 0.5) == 0.5


@pytest.mark.parametrize(("told", "seconds"), [("604", 0.604), ("", 0.0), ("-1", 0.0), ("soon", 0.0), ("²", 0.0)])
def test_the_latency_is_what_the_server_says(told, seconds):
    assert server_seconds({"openai-processing-ms": told}) == seconds


def test_a_server_that_does_not_say_has_no_latency():
    assert server_seconds({}) == 0.0


async def answered(tally, *statuses, **headers):
    for status in statuses:
        await tally.answered(httpx.Response(status, headers={"openai-processing-ms": "500", **headers}))


def test_every_429_is_counted_and_is_no_answer():
    tally = Tally(GATHER, 100, 50.0, _ended=2.0)
    asyncio.run(answered(tally, 429, 200, 429))
    asyncio.run(answered(tally, 503, **{"openai-processing-ms": "9000"}))
    assert tally.refused == 2
    assert tally.result().ideal == 1.5


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "rate"),
    [("500", "499", "120ms", 500 / 60), ("10000", "9999", "8.64s", None)],
    ids=["a minute's", "a day's, which says nothing about pace"],
)
def test_the_rate_is_read_from_the_answers(limit, remaining, reset, rate):
    tally = Tally(GATHER, 100, None)
    headers = {"limit": limit, "remaining": remaining, "reset": reset}
    asyncio.run(answered(tally, 200, **{f"x-ratelimit-{name}-requests": value for name, value in headers.items()}))
    assert tally.rate == rate


def test_the_share_is_ideal_over_seconds():
    assert FAST.share == 0.975


@pytest.mark.parametrize(
    "result",
    [
        LOST,
        Result(GATHER, 1000, 500, 0, 5.0, 19.5),
        Result(GATHER, 1000, 1000, 0, 5.0, None),
    ],
    ids=["lost calls", "interrupted", "limit unknown"],
)
def test_no_share_where_it_would_mean_nothing(result):
    assert result.share is None


def test_the_table_is_aligned():
    assert table([LOST, SLOW, FAST]).splitlines() == [
        "                                done  failed   429s  seconds  of ideal",
        "AsyncOpenAI + gather             298     702  2,404      9.8         -",
        "AsyncOpenAI + Semaphore(10)    1,000       0      0     51.2       38%",
        "ThrottledAsyncOpenAI + gather  1,000       0      0     20.0       98%",
    ]


def test_the_footnotes_name_lost_calls_and_their_error():
    assert footnotes([LOST, SLOW]).splitlines() == [
        "-: AsyncOpenAI + gather lost 702 calls, most often to RateLimitError (700 times).",
        "of ideal: the shortest time the limit allows, a second's worth of it at once, / seconds.",
    ]


def test_the_footnotes_name_unfinished_calls():
    assert footnotes([Result(GATHER, 1000, 400, 3, 5.0, 19.5)]) == (
        "-: AsyncOpenAI + gather was interrupted; 600 calls were not finished."
    )


def test_a_share_above_the_ideal_is_explained():
    assert "Above 100%" in footnotes([Result(GATHER, 200, 200, 0, 1.0, 10.0)])


def test_the_conclusion_is_two_sentences_of_the_numbers():
    assert conclusion([LOST, SLOW, FAST]).splitlines() == [
        "Sent all at once, 702 of 1,000 calls were lost; ten at a time, all came through in 51.2 s without a 429.",
        (
            "ThrottledAsyncOpenAI got the same calls all at once, and all came through in 20.0 s without a 429: "
            "98% of the speed the limit allows."
        ),
    ]


def test_the_conclusion_claims_nothing_that_did_not_happen():
    good = Result(GATHER, 10, 10, 1, 0.6, 0.6)
    bad = Result(THROTTLED, 10, 9, 4, 0.6, 0.6, (("APITimeoutError", 1),))

    first, second = conclusion([good, bad]).splitlines()

    assert first == "Sent all at once, all came through in 0.6 s with one 429."
    assert second == "ThrottledAsyncOpenAI got the same calls all at once, and 1 of 10 calls were lost."


def test_progress_is_one_line():
    tally = Tally(GATHER, 1000, 50.0, done=312, refused=642, _began=1.0, _ended=5.2)
    for _ in range(188):
        tally.fail(ValueError())
    assert progress(tally) == "AsyncOpenAI + gather            312/1000 done, 188 failed, 642 × 429   4.2 s"  # noqa: RUF001


def test_progress_fits_a_terminal_of_80_columns():
    tally = Tally(THROTTLED, 1000, 50.0, done=298, refused=2404, _began=0.0, _ended=99.9)
    for _ in range(702):
        tally.fail(ValueError())
    assert len(progress(tally)) <= 79


def test_on_a_terminal_progress_stays_in_its_row(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "11")
    show("a line that is too long", sys.stdout)
    show("short", sys.stdout, last=True)
    assert capsys.readouterr().out == "\ra line tha\rshort     \n"


# A real account


def test_a_live_race_needs_a_key(unsent, capsys):
    assert cli.main(["demo", "--live", "gpt-4o-mini", "--yes"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["n", "", "no", "what?", None])
def test_without_a_yes_nothing_is_sent(text, unsent, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    answer(monkeypatch, text)
    assert cli.main(["demo", "--live", "gpt-4o-mini"]) == 1
    assert re.search(r"Send them\? \[y/N\] \n?Nothing was sent\.", capsys.readouterr().out)


def test_without_a_terminal_nothing_is_sent(unsent, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123
    with sys.stdin:
        assert cli.main(["demo", "--live", "gpt-4o-mini"]) == 1
    assert "--yes" in capsys.readouterr().out


def test_it_says_what_it_will_send(monkeypatch):
    said = _cli.announcement(RacePlan(200, "gpt-4o-mini", None, live=True))
    # "Say hello in one word." is 22 bytes: 5 tokens, 1 message, 2; and 16 of answer.
    for fact in (
        "600 calls (3 x 200)",
        "gpt-4o-mini at OpenAI",
        PROMPT,
        "16 tokens",
        "14,400",
        "costs money",
        "429s",
    ):
        assert fact in said
    assert "learns" in said


def test_it_names_another_provider(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere/v1")
    said = _cli.announcement(RacePlan(200, "gpt-4o-mini", 500, live=True))
    assert "at http://elsewhere/v1" in said
    assert "rpm=500" in said


def test_a_live_race_runs_at_the_announced_limit(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(_race, "REST", 0.0)
    answer(monkeypatch, "Y")
    with spawn(rpm=6000, latency=0.05) as base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        assert cli.main(["demo", "--live", "gpt-4o-mini", "--calls=20"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows[THROTTLED.name][:2] == ["20", "0"]
    assert rows[THROTTLED.name][4].endswith("%")


def test_without_an_announced_limit_there_is_no_share(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(_race, "REST", 0.0)
    with spawn(latency=0.05) as base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        assert cli.main(["demo", "--live", "gpt-4o-mini", "--calls=5", "--yes"]) == 0
    assert {cells[4] for cells in rows_of(capsys.readouterr().out).values()} == {"-"}


def test_a_live_race_in_which_nothing_is_answered_ends_after_the_first_run(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with spawn(faults=[Fault.parse("status:status=404")], latency=0.05) as base_url:
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        assert cli.main(["demo", "--live", "gpt-5-nope", "--calls=3", "--yes"]) == 1
    said = capsys.readouterr().out
    assert list(rows_of(said)) == [GATHER.name]
    assert "Error code: 404" in said
    assert "lost 3 calls, most often to NotFoundError (3 times)" in said


# The whole command


def rows_of(output):
    """The table's cells by contender."""
    names = "|".join(re.escape(contender.name) for contender in CONTENDERS)
    rows = re.findall(rf"^({names})((?:  +[\d,.%-]+){{5}})\r?$", output, re.MULTILINE)
    return {name: cells.split() for name, cells in rows}


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "throttled_openai", "demo", *arguments],
        # A proxy that leads nowhere: the simulator is not behind it.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONIOENCODING": "utf-8",
            "HTTP_PROXY": "http://127.0.0.1:9",
        },
        **options,
    )


def test_the_throttled_client_loses_nothing():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with start("--calls=60", "--rpm=3000", **pipes) as process:
        said, noise = process.communicate(timeout=60)
    assert process.returncode == 0
    assert noise == ""
    rows = rows_of(said)
    assert list(rows) == [contender.name for contender in CONTENDERS]
    assert rows[THROTTLED.name][:2] == ["60", "0"]
    assert "--live gpt-4o-mini" in said.splitlines()[-1]


def test_ctrl_c_shows_the_results_so_far_and_leaves_no_process():
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    ours, theirs = pty.openpty()
    # Ten calls a second: the second contender needs at least 1.5 s, and shows its progress after 0.2 s.
    process = start("--calls=20", "--rpm=600", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    with process, open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123  # a descriptor
        said = read_until(terminal, SEMAPHORE.name)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the simulator gets it too
        said += read_until(terminal, None)
        assert process.wait(timeout=30) == 130

    rows = rows_of(said)
    assert list(rows) == [GATHER.name, SEMAPHORE.name]
    assert rows[SEMAPHORE.name][1] == "0"
    assert f"{SEMAPHORE.name} was interrupted" in said
    assert "Traceback" not in said
    assert "Warning" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def read_until(terminal, text):
    """The output of the terminal until it shows `text`; None: until it is closed."""
    shown = b""
    while text is None or text.encode() not in shown:
        try:
            piece = terminal.read(65536)
        except OSError:  # Linux, where others read nothing
            piece = b""
        if not piece:
            break
        shown += piece
    return shown.decode("utf-8", "replace")
