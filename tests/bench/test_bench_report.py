"""The report as text, JSON and HTML."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benched import KEY, Page, about, measured, simulator
from scripted import URL
from throttled_openai._commands.bench import cli as _cli
from throttled_openai._commands.bench.address import redacted_url
from throttled_openai._commands.bench.chart import Chart, Line, ticks
from throttled_openai._commands.bench.measure import report_of
from throttled_openai._commands.bench.page import page
from throttled_openai.simulator import Fault


@pytest.fixture(scope="module")
def sweep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        plan, steps = measured(simulator(slots=4), "--sweep=2,4,8", "--duration=4", "--slo-latency=1.5")
    return report_of(plan, steps)


def test_the_table_is_aligned(sweep):
    lines = sweep.as_text().splitlines()
    assert lines[:2] == ["m at http://server/v1", "chat, streamed, 135 tokens of prompt, 2 of answer"]
    rows = lines[4:8]
    assert len({len(row) for row in rows}) == 1
    assert " ".join(rows[0].split()) == "in flight done failed refused calls/s tokens/s each p50 p99 p50 p90 p99"
    assert [row.split()[0] for row in rows[1:]] == ["2", "4", "8"]
    assert lines[3].endswith("latency, s")
    assert lines[3].index("first token, s") + len("first token, s") == rows[0].index("p99") + len("p99")


def test_json_has_settings_versions_steps_and_the_recommendation(sweep):
    told = json.loads(sweep.as_json())
    assert set(told) == {
        "settings",
        "date",
        "host",
        "command",
        "versions",
        "interrupted",
        "steps",
        "recommendation",
        "notes",
    }
    assert set(told["versions"]) == {"throttled-openai", "openai", "python"}
    assert told["settings"]["latency_goal_seconds"] == 1.5
    assert told["recommendation"]["max_concurrency"] == 4
    assert [step["load"]["concurrency"] for step in told["steps"]] == [2, 4, 8]
    for step in told["steps"]:
        assert step["done"] > 0
        assert set(step["latency_seconds"]) == {"mean", "p50", "p90", "p99", "max"}
        assert step["latency_from_due_seconds"] is None
        assert step["timeline"][0]["at_seconds"] == 0.0
    assert told["steps"][1]["calls_per_second"] == about(4.0)


def test_the_page_needs_nothing_but_itself(sweep):
    text = page(sweep)
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "a"} & set(found.names)
    assert not {name for name, _ in found.attributes if name in {"src", "href"} or name.startswith("on")}
    assert text.replace(URL, "").count("http") == 0
    assert "url(" not in text
    assert found.names.count("svg") == 6
    assert "4 in flight" in "".join(found.text)
    assert "ThrottledAsyncOpenAI(max_concurrency=4)" in found.text


def test_the_page_of_one_step(sweep):
    plan, steps = measured(simulator(), "--rate=5", "--duration=4")
    found = Page(page(report_of(plan, steps)))
    assert found.names.count("svg") == 2
    assert "latency from when due" in found.text


def test_the_page_shows_settings_that_are_false_or_0():
    plan, steps = measured(simulator(), "--concurrency=1", "--calls=1", "--no-stream", "--seed=0")
    text = page(report_of(plan, steps))
    assert "<td>stream</td><td>no</td>" in text
    assert "<td>seed</td><td>0</td>" in text


@pytest.mark.parametrize("name", ["<b>&", '"><script>'])
def test_names_are_escaped(name):
    plan, steps = measured(simulator(), "--concurrency=1", "--calls=1", f"--model={name}")
    found = Page(page(report_of(plan, steps)))
    assert name in "".join(found.text)
    assert "script" not in found.names


def test_neither_prompts_nor_keys_are_in_the_report(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("PRIVATE one\n\nPRIVATE two\n")
    server = simulator()
    server.faults = [Fault(status=400, code="bad", message=f"PRIVATE {KEY}", first=2, last=2)]
    plan, steps = measured(server, f"--prompt={prompts}", "--concurrency=1", "--calls=3")
    report = report_of(plan, steps)
    said = report.as_text() + report.as_json() + page(report) + _cli.announcement(plan)
    assert "BadRequestError (400, bad)" in said
    assert "PRIVATE" not in said
    assert KEY not in said


def test_nothing_secret_of_the_address_is_shown():
    assert redacted_url("https://me:secret@host:8000/v1?key=secret") == "https://host:8000/v1"
    assert redacted_url("http://[::1]:8000/v1") == "http://[::1]:8000/v1"


@given(st.floats(1e-6, 1e9))
def test_ticks_are_round_and_reach_the_top(top):
    made = ticks(top)
    assert made[0] == 0
    assert made[-1] >= top * (1 - 1e-6)
    assert 3 <= len(made) <= 7


def test_a_chart_of_nothing_is_nothing():
    assert not str(Chart("Title", "across", [Line("a", [], "#000")]))


def test_a_chart_of_one_point_can_be_drawn():
    Page(str(Chart("Title", "across", [Line("a", [(4.0, 0.0)], "#000")], doubling=True, marked=4.0)))
