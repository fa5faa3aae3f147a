"""The bench sends what it was asked to, measures what the server did, and recommends by it."""

import argparse
import asyncio
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import URL, Says, Script, http_client, refuses, throttled
from support import virtual_run
from throttled_openai import cli
from throttled_openai.bench import _cli as bench
from throttled_openai.bench._call import Call, hooks
from throttled_openai.bench._chart import Chart, Line, ticks
from throttled_openai.bench._endpoint import Endpoint
from throttled_openai.bench._figures import Percentiles, Window, figures, percentile, timeline
from throttled_openai.bench._load import Load, Prompts, arrivals
from throttled_openai.bench._page import page
from throttled_openai.bench._sweep import ENOUGH, Goals, Point, following, recommend
from throttled_openai.simulator import Fault, Simulator, spawn

KEY = "sk-bench-secret"
ANYTHING = Goals()

about = pytest.approx


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    """Whatever the environment of the tests has, no test reaches a real account."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def simulator(**options):
    """Answers in exactly a second: its head after 0.3 s, and five events at equal distances."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, "completion_tokens": 2, "seed": 1, **options})


def planned(*arguments):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.plan_of(parser.parse_args(["--model=m", f"--base-url={URL}", "--seed=7", *arguments]))


def on(server, plan):
    """The plan with its client in front of a server in memory."""

    class Here(bench.Plan):
        def client(self):
            http = http_client(server, event_hooks=hooks())
            return throttled(server, http_client=http, max_retries=0, **self.limits)

    return Here(**{name: getattr(plan, name) for name in bench.Plan.__dataclass_fields__})


def measured(server, *arguments, stop_after=None):
    """The plan and its steps, in virtual time."""
    plan, steps = on(server, planned(*arguments)), []

    async def run():
        await asyncio.wait_for(bench.measure(plan, steps), stop_after)

    try:
        virtual_run(run())
    except TimeoutError:
        assert stop_after is not None
    return plan, steps


def figures_of(server, *arguments):
    _, (step,) = measured(server, *arguments)
    return step.figures()


# Percentiles


durations = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(durations, st.floats(0, 1), st.floats(0, 1))
def test_percentiles_lie_within_the_values_and_never_fall(values, one, other):
    ordered = sorted(values)
    low, high = sorted([one, other])
    assert ordered[0] <= percentile(ordered, low) <= percentile(ordered, high) + 1e-9 <= ordered[-1] + 1e-9


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_percentiles_are_those_of_the_standard_library(values):
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    ordered = sorted(values)
    assert [percentile(ordered, share / 100) for share in range(1, 100)] == about(cuts, rel=1e-9, abs=1e-9)


@given(durations)
def test_the_summary_is_in_order(values):
    told = Percentiles.of([*values, None])
    assert told.p50 <= told.p90 <= told.p99 <= told.max == max(values)
    assert min(values) <= told.mean <= max(values)


def test_of_nothing_there_is_no_summary():
    assert Percentiles.of([None, None]) is None


# One call


def test_latency_begins_when_the_answered_attempt_leaves():
    call = Call(due_at=1.0, asked_at=2.0, sent_at=5.0, first_at=5.5, done_at=8.5, output_tokens=7)
    assert (call.latency, call.to_first_token, call.per_output_token) == (3.5, 0.5, 0.5)
    assert (call.queued, call.from_due) == (3.0, 7.5)


@given(
    st.floats(0, 100),
    st.floats(0, 100),
    st.none() | st.floats(0, 1),
    st.lists(st.floats(0, 200), min_size=1, max_size=8),
)
def test_an_answer_counts_once_however_its_time_is_divided(sent_at, took, first, cuts):
    first_at = None if first is None else sent_at + first * took
    call = Call(0.0, 0.0, sent_at, first_at, sent_at + took)
    edges = [-1.0, *sorted(cuts), 1000.0]
    shares = [call.came_within(start, end) for start, end in itertools.pairwise(edges)]
    assert math.fsum(shares) == about(1.0, abs=1e-6)
    seconds = [call.seconds_within(start, end) for start, end in itertools.pairwise(edges)]
    assert math.fsum(seconds) == about(took, abs=1e-6)


def answered(sent_at, done_at, tokens=0, first_at=None):
    return Call(sent_at, sent_at, sent_at, first_at, done_at, 1, 0, tokens, counted="usage")


def test_a_stream_over_the_edge_counts_for_its_part_inside():
    calls = [answered(-2.0, 1.0, 10, -1.0), answered(0.0, 2.0, 10, 1.0), answered(0.0, 4.0, 10, 2.0)]
    found = figures(calls, Window(0.0, 2.0))
    assert (found.done, found.calls_per_second, found.output_tokens_per_second) == (2, 0.75, 7.5)
    assert found.mean_in_flight == 2.5


def test_a_whole_answer_counts_where_it_ends():
    calls = [answered(-1.0, 0.0), answered(0.0, 1.0), answered(1.0, 2.0), answered(1.0, 2.1)]
    assert figures(calls, Window(0.0, 2.0)).calls_per_second == 1.0


def test_the_timeline_adds_up():
    calls = [answered(0.0, 2.5, 5, 0.0), answered(0.5, 1.0, 5), answered(1.0, 9.0, 5, 2.0)]
    moments = timeline(calls, 0.0, 2.5)
    assert [moment.at_seconds for moment in moments] == [0.0, 1.25]
    inside = 1 + 1 + 0.5 / 7
    assert sum(moment.calls_per_second * 1.25 for moment in moments) == about(inside)


@given(st.floats(0.001, 500))
def test_moments_are_equally_wide_and_the_last_one_is_no_sliver(seconds):
    places = [moment.at_seconds for moment in timeline([answered(0.0, seconds)], 0.0, seconds)]
    assert 1 <= len(places) <= 60
    assert [later - earlier for earlier, later in itertools.pairwise([*places, seconds])] == about(
        [seconds / len(places)] * len(places)
    )
    assert len(places) == 1 or seconds / len(places) >= 1 - 1e-6


def test_what_did_not_end_is_unfinished_and_what_failed_is_named():
    failed = Call(0.0, 0.0, 0.0, None, 1.0, failure="APITimeoutError")
    found = figures([failed, Call(0.0, 0.0, 0.5), answered(0.0, 1.0)], Window(0.0, 2.0), refused_attempts=2)
    assert (found.done, found.failed, found.unfinished) == (1, {"APITimeoutError": 1}, 1)
    assert found.trouble == about(4 / 3)
    assert found.latency.max == 1.0
    assert found.mean_in_flight == about((1.0 + 1.5 + 1.0) / 2)  # one that never ended was with the server too


# What is sent


@given(st.floats(0.1, 200), st.floats(0.5, 30), st.integers(0, 1000))
def test_arrivals_are_as_many_as_the_rate_says(rate, seconds, seed):
    at = arrivals(rate, seconds, seed)
    assert len(at) == round(rate * seconds)
    assert at == sorted(at) == arrivals(rate, seconds, seed)
    assert all(0 <= instant < seconds for instant in at)


def test_arrivals_are_random():
    at = arrivals(10, 500, 3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    # Of a Poisson process mean and deviation of the gaps are the same.
    assert statistics.stdev(gaps) == about(statistics.mean(gaps), rel=0.1)
    assert arrivals(10, 500, 4) != at


def test_no_two_prompts_begin_alike():
    prompts = Prompts(128, 5)
    made = [prompts.next() for _ in range(500)]
    assert len({prompt[:40] for prompt in made}) == 500
    assert {len(prompt.split()) for prompt in made} == {128}
    assert Prompts(128, 6).next() != Prompts(128, 5).next() == made[0]


def test_prompts_of_ones_own_go_round():
    prompts = Prompts(0, 1, ["one", "two"])
    assert [prompts.next() for _ in range(3)] == ["one", "two", "one"]


def test_a_rate_sends_as_many_as_it_says_whatever_becomes_of_them():
    server = simulator(latency=7.0)
    found = figures_of(server, "--rate=10", "--duration=30")
    assert server.attempts == 301  # with the one before all others
    assert (found.done, found.unfinished) == (300, 0)
    assert found.seconds == 30
    assert found.latency.p50 == about(7.0)
    assert found.latency.max == about(7.0)


def test_the_warm_up_of_a_rate_does_not_change_what_counts():
    server = simulator()
    _, (step,) = measured(server, "--rate=10", "--calls=50", "--warm-up-calls=20", "--warm-up=1")
    assert server.attempts == 71
    assert step.figures().done == 50
    cold = Load(rate=10, calls=50, seed=3)
    warm = Load(rate=10, calls=50, seed=3, warm_up=1, warm_up_calls=20)
    assert [at - 2.0 for at in warm.arrivals[20:]] == about(cold.arrivals)


def test_so_many_are_in_flight():
    server = simulator()
    _, (step,) = measured(server, "--concurrency=4", "--duration=10", "--warm-up=2")
    found = step.figures()
    assert server.peak_in_flight == 4
    assert found.calls_per_second == about(4.0)
    assert found.mean_in_flight == about(4.0)
    assert found.output_tokens_per_second == about(8.0)
    assert found.queued.max == about(0.0)
    # The head after 0.3 s; then [role, part, part, end, usage, done] 0.7 / 6 apart.
    assert found.first_token.p50 == about(0.3 + 2 * 0.7 / 6)
    assert found.per_output_token.p50 == about(4 * 0.7 / 6)
    assert found.latency.p99 == about(1.0)
    assert found.mean_output_tokens == 2
    assert step.concurrency_limit == 4
    assert step.limits == ()


def test_so_many_calls_count():
    server = simulator()
    found = figures_of(server, "--concurrency=4", "--calls=40", "--warm-up-calls=8")
    assert server.attempts == 49
    assert found.done == 40


def test_what_was_only_to_follow_others_is_not_sent():
    server = simulator(rpm=600)
    _, (step,) = measured(server, "--duration=10")
    found = step.figures()
    (limit,) = step.limits
    assert (limit.limit, limit.dimension, limit.announced) == (600, "requests", True)
    assert found.unfinished == 0
    assert found.done == server.succeeded - 1
    # Its bucket is larger than it refills: 10 a second, and the more from the minute.
    assert found.calls_per_second > 9
    assert found.latency.max == about(1.0)


def test_a_rate_above_the_limit_shows_in_what_users_wait():
    server = simulator()
    found = figures_of(server, "--rate=10", "--duration=10", "--rpm=300")
    assert found.done == 100
    assert found.latency.max == about(1.0)  # the server's
    assert found.latency_from_due.max == about(found.queued.max + 1.0)
    assert found.queued.max > 7  # 100 calls at 5 a second, where the last ones are due after 10 s


def test_whole_answers_have_no_first_token():
    found = figures_of(simulator(), "--no-stream", "--concurrency=1", "--calls=3")
    assert found.first_token is found.per_output_token is None
    assert found.latency.p50 == about(1.0)
    assert found.mean_output_tokens == 2


def test_embeddings_have_no_output():
    server = simulator()
    found = figures_of(server, "--endpoint=embeddings", "--concurrency=1", "--calls=3")
    assert {attempt.endpoint for attempt in server.log} == {"embeddings"}
    assert found.output_tokens_per_second == 0.0
    assert found.mean_prompt_tokens == 128


# What goes wrong


def test_refused_attempts_are_counted():
    server = simulator(max_in_flight=4, announce=False)
    _, (step,) = measured(server, "--concurrency=8", "--duration=10")
    found = step.figures()
    assert found.refused_attempts == server.refused > 0
    assert found.failed == {}
    assert found.latency.max == about(1.0)  # not the refused attempt's, nor the wait after it


def test_failed_calls_are_counted_by_class_and_not_tried_again():
    server = simulator()
    server.faults = [Fault("status", status=500, first=1, last=3), Fault("disconnect", first=4, last=4)]
    _, (step,) = measured(server, "--concurrency=1", "--calls=10")
    found = step.figures()
    assert server.attempts == 11
    assert found.done == 6
    assert found.failed == {"InternalServerError (500)": 3, "APIConnectionError (RemoteProtocolError)": 1}
    assert found.trouble == 0.4


def test_a_server_that_hangs_is_not_waited_for_for_ever():
    server = simulator()
    server.faults = [Fault("hang", first=5, last=5)]
    _, (step,) = measured(server, "--concurrency=2", "--duration=10")
    found = step.figures()
    assert found.unfinished == 1
    assert found.seconds == 10
    # One of the two slots is lost from the third second on.
    assert 10 <= found.done <= 14


def test_a_step_whose_calls_never_end_is_not_recommended():
    server = simulator()
    server.faults = [Fault("hang", first=50, share=0.5)]
    plan, steps = measured(server, "--sweep=2,8", "--duration=20")
    assert steps[1].figures().unfinished > 0
    assert bench.report_of(plan, steps).recommendation.point.concurrency == 2


def test_calls_longer_than_what_counts_are_not_measured():
    server = simulator(latency=30.0)
    with pytest.raises(bench.FirstCallError, match=r"took 30\.0 s, longer than the 5 s .* --duration of 300"):
        measured(server, "--sweep=auto", "--duration=5")
    assert server.attempts == 1
    # Those that come at their own rate begin in time, whenever they end.
    plan, steps = measured(simulator(latency=30.0), "--rate=2", "--duration=5")
    report = bench.report_of(plan, steps)
    assert report.parts[0].figures.done == 10
    assert "Calls took up to 30.0 s (median of a step), much of the 5.0 s that count" in report.as_text()


def test_in_short_calls_nothing_is_rough():
    plan, steps = measured(simulator(), "--concurrency=4", "--duration=10")
    assert "rough" not in bench.report_of(plan, steps).as_text()


def test_so_few_calls_are_not_swept_with_more_in_flight():
    assert planned("--sweep=auto", "--calls=100").most == 10
    assert planned("--sweep=2,10", "--calls=100").sweep == (2, 10)
    with pytest.raises(bench.UsageError, match=r"100 calls in a step are too few to see 11 in flight: .* of 110"):
        planned("--sweep=2,11", "--calls=100")
    with pytest.raises(bench.UsageError, match="of 10 or more"):
        planned("--sweep=auto", "--calls=9")


def test_ctrl_c_keeps_what_was_measured():
    server = simulator()
    plan, steps = measured(server, "--sweep=2,4", "--duration=10", "--warm-up=0", stop_after=16.5)
    first, second = (step.figures() for step in steps)
    assert (first.done, first.unfinished) == (20, 0)
    assert second.unfinished == 4
    assert second.done in {17, 18, 19, 20}
    assert server.in_flight == 0
    report = bench.report_of(plan, steps, interrupted=True)
    assert report.recommendation.point.concurrency == 2  # the other step was not whole
    assert json.loads(report.as_json())["interrupted"] is True
    assert "Interrupted" in report.as_text()


def test_an_interrupted_first_step_recommends_nothing():
    plan, steps = measured(simulator(), "--sweep=2,4", "--duration=10", stop_after=5)
    report = bench.report_of(plan, steps, interrupted=True)
    assert report.recommendation is None
    assert "Interrupted before there was anything to recommend." in report.as_text()


# What servers do not take


def stream(*words):
    frame = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    choices = ({"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words)
    events = "".join(f"data: {json.dumps({**frame, 'choices': [choice]})}\n\n" for choice in choices)
    return Says(200, f"{events}data: [DONE]\n\n".encode(), {"content-type": "text/event-stream"}, delay=1.0)


def thinks(*deltas, tokens, reasoning):
    """A stream with usage: half a second of thought, then a chunk each."""
    frame = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5,
             "completion_tokens_details": {"reasoning_tokens": reasoning}}  # fmt: skip
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events = [json.dumps({**frame, **chunk}) for chunk in [*chunks, {"choices": [], "usage": usage}]]
    body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
    return Says(200, body, {"content-type": "text/event-stream"}, delay=0.5)


@pytest.mark.parametrize(
    ("deltas", "hidden"),
    [
        ([{"content": "yes"}, {"content": "."}], 40),
        ([{"reasoning_content": "hm"}, {"content": "yes"}], 0),
        ([{"reasoning": "hm"}, {"content": "yes"}], 0),
    ],
)
def test_reasoning_that_the_server_keeps_to_itself_is_no_token_between_the_first_and_the_last(deltas, hidden):
    answer = thinks(*deltas, tokens=42, reasoning=40)
    _, (step,) = measured(Script(answer, answer), "--concurrency=1", "--calls=1")
    (call,) = step.calls
    assert (call.output_tokens, call.hidden_tokens) == (42, hidden)
    slow = Call(0.0, 0.0, 0.0, 1.0, 3.0, output_tokens=42, hidden_tokens=hidden)
    assert slow.per_output_token == about(2.0 / (41 - hidden))


def complains(of, status=400):
    return refuses(f"Unknown parameter: '{of}'.", code="unknown_parameter", kind="invalid_request_error", status=status)


def test_without_usage_chunks_are_counted_and_the_report_says_so():
    server = Script(complains("stream_options", 422), *[stream("", "one", "two", "three") for _ in range(4)])
    plan, steps = measured(server, "--concurrency=1", "--calls=3")
    assert ["stream_options" in seen.json for seen in server.seen] == [True, False, False, False, False]
    found = steps[0].figures()
    assert (found.mean_output_tokens, found.output_tokens_counted_by) == (3.0, "chunks")
    report = bench.report_of(plan, steps)
    assert "reports no usage" in report.as_text()
    assert json.loads(report.as_json())["settings"]["left_out"] == ["stream_options"]


@pytest.mark.parametrize(
    ("base_url", "first", "second"),
    [
        ("http://server/v1", "max_tokens", "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens", "max_tokens"),
    ],
)
def test_the_other_name_of_the_most_tokens_is_tried(base_url, first, second):
    server = Script(complains(first), stream("yes"))
    endpoint = Endpoint(base_url, "m", max_tokens=9)

    async def probe():
        async with throttled(server, max_retries=0) as client:
            await endpoint.probe(client, "hi")

    virtual_run(probe())
    assert [seen.json.get(first) for seen in server.seen] == [9, None]
    assert server.seen[1].json[second] == 9


def test_where_the_first_call_fails_nothing_more_is_sent():
    server = Script(*[complains("model") for _ in range(3)])
    with pytest.raises(bench.FirstCallError, match=r"measured: BadRequestError \(400, unknown_parameter\)$"):
        measured(server, "--rate=10", "--duration=10")
    assert len(server.seen) == 2  # the second without what servers may not know


def test_more_of_the_body_is_sent():
    server = Script(*[stream("yes") for _ in range(2)])
    plan, _ = measured(server, '--extra={"ignore_eos": true, "system": "SECRET"}', "--calls=1", "--concurrency=1")
    assert server.seen[1].json["ignore_eos"] is True
    assert plan.settings()["extra"] == {"ignore_eos": True, "system": "..."}


# The recommendation


def queueing(slots, latency=1.0):
    """What a server comes to that runs so many at once and lets others wait."""

    def measure(concurrency):
        took = latency * max(1.0, concurrency / slots)
        return Point(concurrency, concurrency / took, took, 1.5 * took, 0.3 * took)

    return measure


def swept(server, goals=ANYTHING, most=1024):
    points = []
    while (concurrency := following(points, goals, most)) is not None:
        assert concurrency <= most
        assert concurrency not in [point.concurrency for point in points]
        points.append(server(concurrency))
    return points


@given(st.integers(1, 900))
def test_the_sweep_finds_the_slots_of_a_server(slots):
    points = swept(queueing(slots))
    found = recommend(points, ANYTHING)
    assert len(points) <= 2 * math.log2(slots) + 5
    assert found.point.throughput >= ENOUGH * slots or slots > 1024
    assert found.point.concurrency <= max(1.3 * slots, slots + 1)


@given(st.integers(2, 900), st.floats(1.6, 6))
def test_what_is_recommended_meets_the_goals(slots, most):
    server = queueing(slots)
    found = recommend(swept(server, Goals(latency=most)), Goals(latency=most))
    assert found.point.latency_p99 <= most
    assert found.point.concurrency <= server(slots).concurrency * most


def test_the_goal_of_the_first_token_counts_too():
    points = [Point(1, 1.0, 1.0, 1.0, 0.2), Point(2, 2.0, 1.0, 1.0, 0.4), Point(4, 4.0, 1.0, 1.0, 0.8)]
    assert recommend(points, Goals(first_token=0.5)).point.concurrency == 2
    assert recommend(points, Goals(first_token=0.1)) is None


def test_what_is_refused_is_not_recommended():
    points = [Point(4, 4.0, 1.0, 1.0), Point(8, 8.0, 1.0, 1.0, trouble=0.02)]
    assert recommend(points, ANYTHING).point.concurrency == 4
    assert following(points, ANYTHING, 1024) == 6


def test_nearly_the_best_with_fewer_is_recommended():
    points = [Point(16, 15.3, 1.0, 1.0), Point(32, 16.0, 2.0, 2.0), Point(8, 8.0, 1.0, 1.0)]
    found = recommend(points, ANYTHING)
    assert (found.point.concurrency, found.best.concurrency) == (16, 32)
    assert str(found) == (
        "16 in flight: 15.3 calls/s, 96% of the most (16.0 with 32 in flight), with a p99 latency of 1.00 s."
    )


def test_of_no_points_nothing_is_recommended():
    assert recommend([], ANYTHING) is None
    assert following([], ANYTHING, 8) == 1


def test_a_sweep_finds_the_slots_of_the_simulator():
    plan, steps = measured(simulator(slots=16), "--sweep=auto", "--duration=5")
    assert [step.load.concurrency for step in steps] == [1, 2, 4, 8, 16, 32, 12, 14]
    report = bench.report_of(plan, steps)
    assert report.recommendation.point.concurrency == 16
    assert report.recommendation.point.throughput == about(16.0, rel=0.01)
    assert report.code == "ThrottledAsyncOpenAI(max_concurrency=16)"
    assert steps[5].figures().latency.p50 == about(2.0)


def test_the_recommendation_has_the_limit_that_was_announced():
    plan, steps = measured(simulator(rpm=6000), "--sweep=4,8", "--duration=4")
    report = bench.report_of(plan, steps)
    assert report.code == "ThrottledAsyncOpenAI(max_concurrency=8, rpm=6000)"
    assert "limits: 6,000 requests/min (announced)" in report.as_text()


# The report


@pytest.fixture(scope="module")
def sweep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        plan, steps = measured(simulator(slots=4), "--sweep=2,4,8", "--duration=4", "--slo-latency=1.5")
    return bench.report_of(plan, steps)


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
    assert set(told) == {"settings", "versions", "interrupted", "steps", "recommendation", "notes"}
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


class Page(HTMLParser):
    """Whether every element is closed, and what it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes
        if name != "meta":
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.names.append(name)
        self.attributes += attributes

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        self.text.append(text)


def test_the_page_needs_nothing_but_itself(sweep):
    text = page(sweep)
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "a"} & set(found.names)
    assert not {name for name, _ in found.attributes if name in {"src", "href"} or name.startswith("on")}
    assert text.replace(URL, "").count("http") == 0
    assert "url(" not in text
    assert found.names.count("svg") == 5
    assert "4 in flight" in "".join(found.text)
    assert "ThrottledAsyncOpenAI(max_concurrency=4)" in found.text


def test_the_page_of_one_step(sweep):
    plan, steps = measured(simulator(), "--rate=5", "--duration=4")
    found = Page(page(bench.report_of(plan, steps)))
    assert found.names.count("svg") == 2
    assert "latency from when due" in found.text


def test_the_page_says_what_was_asked_for_also_where_that_was_none():
    plan, steps = measured(simulator(), "--concurrency=1", "--calls=1", "--no-stream", "--seed=0")
    text = page(bench.report_of(plan, steps))
    assert "<td>stream</td><td>no</td>" in text
    assert "<td>seed</td><td>0</td>" in text


@pytest.mark.parametrize("name", ["<b>&", '"><script>'])
def test_names_are_escaped(name):
    plan, steps = measured(simulator(), "--concurrency=1", "--calls=1", f"--model={name}")
    found = Page(page(bench.report_of(plan, steps)))
    assert name in "".join(found.text)
    assert "script" not in found.names


def test_neither_prompts_nor_keys_are_in_the_report(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("PRIVATE one\n\nPRIVATE two\n")
    server = simulator()
    server.faults = [Fault(status=400, code="bad", message=f"PRIVATE {KEY}", first=2, last=2)]
    plan, steps = measured(server, f"--prompt={prompts}", "--concurrency=1", "--calls=3")
    report = bench.report_of(plan, steps)
    said = report.as_text() + report.as_json() + page(report) + bench.announcement(plan)
    assert "BadRequestError (400, bad)" in said
    assert "PRIVATE" not in said
    assert KEY not in said


def test_nothing_secret_of_the_address_is_shown():
    assert bench.shown("https://me:secret@host:8000/v1?key=secret") == "https://host:8000/v1"
    assert bench.shown("http://[::1]:8000/v1") == "http://[::1]:8000/v1"


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


# The command


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate=1", "--concurrency=2"],
        ["--rate=1", "--sweep=auto"],
        ["--concurrency=4", "--max-concurrency=8"],
        ["--sweep=1,2", "--max-concurrency=8"],
        ["--slo-latency=1"],
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
def test_what_cannot_be_meant_is_refused_at_once(arguments, capsys, monkeypatch):
    monkeypatch.setattr(bench, "measure", None)
    assert cli.main(["bench", "--model=m", f"--base-url={URL}", "--yes", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("bench: ")
    assert said.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
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
    monkeypatch.setattr(bench, "measure", None)
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
def test_only_what_may_cost_money_is_asked_about(host, near):
    assert bench.is_near(f"http://{host}/v1") is near


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
    said = bench.announcement(planned(*arguments))
    for fact in facts:
        assert fact in said
    assert "costs money" not in said
    assert "costs money" in bench.announcement(planned("--base-url=https://api.provider.com/v1", *arguments))


def test_the_tokens_it_announces_are_the_most_there_can_be():
    # 128 words of three letters are 511 bytes: 127 tokens, 1 message, 2; and 64 of answer.
    said = bench.announcement(planned("--rate=1", "--calls=10"))
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


def test_a_server_that_is_not_there_is_1(capsys):
    assert cli.main(["bench", "--base-url=http://127.0.0.1:9/v1", "--model=m", "--yes"]) == 1
    said = capsys.readouterr()
    assert "nothing was measured: APIConnectionError (ConnectError)" in said.err
    assert said.out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_prints_and_writes_what_was_measured(tmp_path):
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
