"""The progress of a run as it is shown, and the reason given for its speed."""

import io
import json
import sys

import pytest

from throttled_openai import BudgetStats, Stats, WindowStats
from throttled_openai._commands.run import progress
from throttled_openai.batch._status import reason_of, status_of
from throttled_openai.batch._tally import Histogram, Tally


def budget(*windows, waiting=5, in_flight=3, room=10, name="gpt-4o", tokens=20.0):
    return BudgetStats(name, waiting, in_flight, room, 100, 90, 1, 500, windows, tokens)


def window(dimension, spendable, limit=600.0, period=60.0):
    return WindowStats(dimension, period, limit, spendable, "announced")


def stats(*budgets):
    return Stats(sum(each.waiting for each in budgets), sum(each.in_flight for each in budgets), budgets)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (budget(window("requests", 0.3), window("tokens", 500)), "request limit binds"),
        (budget(window("requests", 30), window("tokens", 9)), "token limit binds"),
        (budget(window("requests", 0, period=86_400.0)), "request limit, per day, binds"),
        (budget(in_flight=10), "room binds: 10 in flight"),
        (budget(), "the pace is being learnt"),
        (budget(waiting=0), "nothing waits: the input or this machine is the bottleneck"),
        (budget(in_flight=0, waiting=0), "beginning"),
    ],
)
def test_a_run_says_what_holds_it_back(found, says):
    assert reason_of(stats(found)) == says


def test_of_several_models_it_is_the_one_that_most_wait_for():
    busy = budget(window("tokens", 0), waiting=50, name="large")
    assert reason_of(stats(budget(), busy)) == "token limit of large binds"


def test_the_time_left_is_that_of_the_limit_until_there_is_a_rate():
    tally = Tally(total=700, before=100)
    found = status_of(tally, stats(budget(window("requests", 0), window("tokens", 0, limit=6000.0))))
    assert found.seconds_left == 600 / (6000 / 60 / 20)
    assert found.rpm_limit == 600
    assert found.tpm_limit == 6000
    assert "100 of 700 done (14%)" in str(found)
    assert str(found).endswith("2 min left (token limit binds)")


def test_lines_come_from_the_first_second_on(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.progress()
    found = status_of(Tally(total=5), stats(budget()))
    for tenth in range(200):
        now[0] = tenth / 10
        shown.show(found)
    assert len(capsys.readouterr().err.splitlines()) == 4  # 0.5, 2, 5 and 15 s


def test_json_is_a_line_each(capsys):
    shown = progress.progress(as_json=True)
    shown._due = [0.0]
    shown.show(status_of(Tally(total=5), stats(budget())))
    shown.say("stopped")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["total"], first["waiting"]) == ("progress", 5, 5)
    assert second == {"event": "message", "message": "stopped"}


def test_on_a_terminal_all_is_shown_in_place(monkeypatch):
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    shown = progress.progress()
    shown.show(status_of(Tally(total=700, before=70), stats(budget(window("requests", 0)))))
    shown.say("a warning")
    shown.close()
    said = sys.stderr.getvalue()
    for word in ("70 of 700 (10.0%)", "failed", "in flight", "requests/min", "request limit binds", "a warning"):
        assert word in said


def test_without_rich_a_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert type(progress.progress()) is progress.Plain


def test_quantiles_are_within_eight_percent():
    found = Histogram()
    for number in range(1, 1001):
        found.add(number / 100)
    assert found.quantile(0.5) == pytest.approx(5.0, rel=0.08)
    assert found.quantile(0.99) == pytest.approx(9.9, rel=0.08)
    assert found.quantile(1.0) == found.most == 10.0
    assert Histogram().quantile(0.5) == 0.0


def test_samples_of_a_long_run_stay_few_and_add_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("throttled_openai.batch._tally.time.monotonic", lambda: now[0])
    tally = Tally(began=0.0)
    for second in range(1, 20_001):
        now[0] = float(second)
        tally.success()
        tally.sample(stats(budget(window("requests", 0))))
    samples = tally.all_samples()
    assert len(samples) < 1000
    assert sum(each.seconds for each in samples) == pytest.approx(20_000)
    assert sum(each.done * each.seconds for each in samples) == pytest.approx(20_000)
    assert tally.now().calls_per_minute == pytest.approx(60)
