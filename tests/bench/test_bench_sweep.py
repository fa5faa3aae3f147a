"""Which concurrency is measured next, and which is recommended."""

import math

from hypothesis import given
from hypothesis import strategies as st

from benched import ANYTHING, about, measured, simulator
from throttled_openai._commands.bench.measure import report_of
from throttled_openai._commands.bench.sweep import ENOUGH, Goals, Point, following, recommend


def queueing(slots, latency=1.0):
    """The figures of a server that runs `slots` calls at once and queues the others."""

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
def test_the_recommendation_meets_the_goals(slots, most):
    server = queueing(slots)
    found = recommend(swept(server, Goals(latency=most)), Goals(latency=most))
    assert found.point.latency_p99 <= most
    assert found.point.concurrency <= server(slots).concurrency * most


def test_the_goal_of_the_first_token_counts_too():
    points = [Point(1, 1.0, 1.0, 1.0, 0.2), Point(2, 2.0, 1.0, 1.0, 0.4), Point(4, 4.0, 1.0, 1.0, 0.8)]
    assert recommend(points, Goals(first_token=0.5)).point.concurrency == 2
    assert recommend(points, Goals(first_token=0.1)) is None


def test_a_concurrency_with_refusals_is_not_recommended():
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
    report = report_of(plan, steps)
    assert report.recommendation.point.concurrency == 16
    assert report.recommendation.point.throughput == about(16.0, rel=0.01)
    assert report.code == "ThrottledAsyncOpenAI(max_concurrency=16)"
    assert steps[5].figures().latency.p50 == about(2.0)


def test_the_recommendation_has_the_limit_that_was_announced():
    plan, steps = measured(simulator(rpm=6000), "--sweep=4,8", "--duration=4")
    report = report_of(plan, steps)
    assert report.code == "ThrottledAsyncOpenAI(max_concurrency=8, rpm=6000)"
    assert "limits: 6,000 requests/min (announced)" in report.as_text()
