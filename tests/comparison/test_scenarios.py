"""The comparison in benchmarks: its arithmetic, its files, and the figures this library must reach in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comparison import rival as rivals
from comparison import scenario as scenarios
from comparison.figures import quantile
from comparison.scenario import Scenario, Work

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# By scenario: time over ideal and attempts refused, at most. Virtual time: seed 1 always comes to the
# same, so a little more than that. `overload` and `self_hosted` have to find a number out first.
GATE = {
    "requests": (1.02, 2),
    "tokens": (1.03, 4),
    "overload": (1.25, 16),
    "unknown": (1.04, 12),
    "announced": (1.03, 8),
    "wrong": (1.02, 18),
    "neighbour": (1.03, 20),
    "changing": (1.02, 4),
    "streaming": (1.03, 2),
    "gpt_4o_tier_1": (1.02, 1),
    "gpt_4o_tier_5": (1.10, 4),
    "embeddings": (1.02, 2),
    "self_hosted": (1.10, 0),
    "four_clients": (1.03, 2),
}

ORDER = {"settings": {}, "seed": 1, "speed": "virtual", "scale": 1.0}


def play(*orders):
    """In a process of its own: it makes the time of all libraries virtual."""
    lines = "".join(json.dumps({**ORDER, **order}) + "\n" for order in orders)
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "compare.py", "worker"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_goodput_and_refusals_are_what_they_were():
    records = {record["scenario"]: record for record in play(*({"rival": "ours", "scenario": name} for name in GATE))}
    assert {name: record.get("broken") for name, record in records.items()} == dict.fromkeys(GATE)
    worse = {
        name: (records[name]["done"], records[name]["over_ideal"], records[name]["refused"])
        for name, (over_ideal, refused) in GATE.items()
        if records[name]["over_ideal"] is None
        or records[name]["over_ideal"] > over_ideal
        or records[name]["refused"] > refused
    }
    assert not worse


def test_a_run_is_the_same_each_time_and_accounts_for_every_call():
    order = {"rival": "plain", "scenario": "overload", "settings": {"max_retries": 2}}
    first, again = play(order), play(order)
    assert first == again
    [record] = first
    assert record["done"] + record["failed"] + record["unfinished"] == record["calls"] == 300
    assert record["failed"] == record["failures"]["RateLimitError"] == record["lost_to_refusals"] > 0
    assert record["attempts"] == record["done"] + record["refused"]
    assert record["over_ideal"] is None
    assert record["series"]["done"][-1] == record["done"]
    assert record["series"]["refused"][-1] == record["refused"]


def test_a_clock_bound_in_one_run_works_in_the_next():
    code = """
import sys
from comparison.server import simulator
from comparison.worker import CLOCK
first, second = simulator().VirtualTimeLoop(), simulator().VirtualTimeLoop()
second.jump(7.0)
CLOCK.follow(first)
from time import monotonic
before = monotonic()
CLOCK.follow(second)
print(before, monotonic())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.0", "7.0"]


def test_a_run_that_breaks_says_so_and_the_next_one_is_done():
    broken, done = play(
        {"rival": "ours", "scenario": "requests", "settings": {"no such": 1}},
        {"rival": "ours", "scenario": "embeddings"},
    )
    assert "TypeError" in broken["broken"]
    assert done["done"] == 250


@pytest.mark.parametrize("name", scenarios.names())
def test_a_scenario_says_what_it_is_and_its_calls_are_drawn_with_the_seed(name):
    scenario = scenarios.read(name)
    calls = scenario.calls(1)
    assert scenario.says
    assert calls == scenario.calls(1)
    assert len(calls) == scenario.work.calls
    assert {call.size for call in calls} <= set(scenario.work.sizes)
    assert [call.arguments["extra_headers"]["X-Client-Request-Id"] for call in calls[:2]] == ["0", "1"]
    assert set(scenario.speeds) <= {"virtual", "real"}


def test_a_scenario_in_part_has_that_share_of_its_calls_and_never_none():
    whole, tenth = scenarios.read("requests"), scenarios.read("requests", 0.1)
    assert tenth.work.calls == whole.work.calls / 10
    assert (tenth.server, tenth.configured) == (whole.server, whole.configured)
    assert scenarios.read("requests", 1e-9).work.calls == 1


@pytest.mark.parametrize("name", rivals.names())
def test_a_rival_says_how_it_is_installed_and_run(name):
    rival = rivals.read(name)
    assert rival.requirements
    assert rival.variants
    assert 1 <= len(rival.choices()) <= 24


def ideal(server, *, calls=100, tokens=0, per_second=None, changes=()):
    work = Work(calls) if per_second is None else Work(calls, per_second=per_second)
    scenario = Scenario("some", "some", work, {"latency": 0.5, **server}, changes=changes)
    return scenario.ideal(scenario.calls(1), tokens)


@pytest.mark.parametrize(
    ("server", "more", "seconds"),
    [
        ({}, {}, 0.5),
        ({"rpm": 100}, {}, 0.5),  # a full minute's bucket
        ({"rpm": 60}, {}, 40.5),  # 60 at once, 40 at one a second
        ({"rpm": 60, "initial_level": 0.0}, {}, 100.5),
        ({"rpm": 60, "burst": 1.0}, {}, 99.5),
        ({"rpm": 6000, "tpm": 600, "burst": 1.0}, {"tokens": 1010}, 100.5),
        ({"rpm": 60, "burst": 1.0, "neighbour_rpm": 12.0}, {}, 99 / 0.8 + 0.5),
        ({"rpm": 60, "burst": 1.0, "neighbour_rpm": 50.0}, {}, 99 / 0.5 + 0.5),  # no more than half
        ({"rpm": 60, "burst": 1.0}, {"changes": ((9.0, {"rpm": 600}),)}, 9 + 90 / 10 + 0.5),
        ({"max_in_flight": 10, "latency_sigma": 0.0}, {}, 5.0),
        ({"slots": 10, "latency_sigma": 0.0, "slowdown": 1.0}, {}, 5.0 * 1.9),
    ],
)
def test_the_ideal_is_the_slowest_of_what_bounds_a_client_that_knows_everything(server, more, seconds):
    assert ideal(server, **more) == pytest.approx(seconds)


def test_the_ideal_is_no_sooner_than_the_last_call_is_asked():
    calls = Scenario("some", "some", Work(100, per_second=2.0), {}).calls(1)
    assert ideal({}, per_second=2.0) == calls[-1].at + 0.5
    assert 45 < calls[-1].at < 50


def test_a_quantile_is_a_value_that_was_there():
    assert quantile([], 0.5) is None
    assert [quantile([3.0, 1.0, 2.0, 4.0], share) for share in (0.01, 0.25, 0.5, 0.51, 0.99, 1.0)] == [1, 1, 2, 3, 4, 4]
