"""Percentiles, and the times of one call."""

import itertools
import math
import statistics

from hypothesis import given
from hypothesis import strategies as st

from benched import about
from throttled_openai._commands.bench.call import TimedCall
from throttled_openai._commands.bench.figures import MeasuredWindow, Percentiles, figures, percentile, timeline

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


def test_no_values_have_no_percentiles():
    assert Percentiles.of([None, None]) is None


# One call.


def test_latency_begins_when_the_answered_attempt_leaves():
    call = TimedCall(due_at=1.0, asked_at=2.0, sent_at=5.0, first_at=5.5, done_at=8.5, output_tokens=7)
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
    call = TimedCall(0.0, 0.0, sent_at, first_at, sent_at + took)
    edges = [-1.0, *sorted(cuts), 1000.0]
    shares = [call.share_within(start, end) for start, end in itertools.pairwise(edges)]
    assert math.fsum(shares) == about(1.0, abs=1e-6)
    seconds = [call.seconds_within(start, end) for start, end in itertools.pairwise(edges)]
    assert math.fsum(seconds) == about(took, abs=1e-6)


def answered(sent_at, done_at, tokens=0, first_at=None):
    return TimedCall(sent_at, sent_at, sent_at, first_at, done_at, 1, 0, tokens, counted="usage")


def test_a_stream_over_the_edge_counts_for_its_part_inside():
    calls = [answered(-2.0, 1.0, 10, -1.0), answered(0.0, 2.0, 10, 1.0), answered(0.0, 4.0, 10, 2.0)]
    found = figures(calls, MeasuredWindow(0.0, 2.0))
    assert (found.done, found.calls_per_second, found.output_tokens_per_second) == (2, 0.75, 7.5)
    assert found.mean_in_flight == 2.5


def test_an_unstreamed_answer_counts_when_it_ends():
    calls = [answered(-1.0, 0.0), answered(0.0, 1.0), answered(1.0, 2.0), answered(1.0, 2.1)]
    assert figures(calls, MeasuredWindow(0.0, 2.0)).calls_per_second == 1.0


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


def test_unended_calls_are_unfinished_and_failures_are_named():
    failed = TimedCall(0.0, 0.0, 0.0, None, 1.0, failure="APITimeoutError")
    found = figures(
        [failed, TimedCall(0.0, 0.0, 0.5), answered(0.0, 1.0)], MeasuredWindow(0.0, 2.0), refused_attempts=2
    )
    assert (found.done, found.failed, found.unfinished) == (1, {"APITimeoutError": 1}, 1)
    assert found.trouble == about(4 / 3)
    assert found.latency.max == 1.0
    assert found.mean_in_flight == about((1.0 + 1.5 + 1.0) / 2)  # one that never ended was with the server too
