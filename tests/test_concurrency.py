"""The adaptive limit on attempts in flight."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai._core.concurrency import HEADROOM, START, START_SECONDS, ConcurrencyLimit


def limit_of(ceiling=1000):
    """A limit that does not go by latency; that is `test_knee`."""
    limit = ConcurrencyLimit(ceiling)
    limit.ignore_latency()
    return limit


def congest(limit, times=1, *, in_flight=16, event=True, overload=False, restart=False):
    for _ in range(times):
        limit.congested(in_flight, event=event, overload=overload, restart=restart)


def succeed(limit, times=1, *, latency=0.5, binding=True):
    for _ in range(times):
        limit.succeeded(0.0, latency, 1.0, binding=binding)


def test_it_starts_at_16_or_at_its_ceiling():
    assert START == 16
    assert ConcurrencyLimit(1000).value(None) == 16
    assert ConcurrencyLimit(5).value(None) == 5


@pytest.mark.parametrize(("rate", "value"), [(0.05, 16), (1, 16), (50, 50 * START_SECONDS), (1e9, 1000)])
def test_a_known_rate_starts_with_ten_seconds_of_it(rate, value):
    limit = ConcurrencyLimit(1000)
    limit.expect(rate)
    assert limit.value(rate) == value
    limit.expect(1)
    assert limit.value(1) == value  # and what has been is not taken back


def test_a_rate_that_becomes_known_after_a_failure_does_not_undo_the_decrease():
    limit = limit_of()
    congest(limit)
    limit.expect(50)
    assert limit.value(50) == 14


# --- decrease -------------------------------------------------------------------------------------


def test_echoes_do_not_shrink_it_however_many_there_are():
    limit = limit_of()
    congest(limit)
    congest(limit, 100, event=False)
    assert limit.value(None) == 14  # 10 % less


@pytest.mark.parametrize(("in_flight", "value"), [(1000, 900), (50, 45), (8, 7), (1, 7)])
def test_a_decrease_starts_from_what_was_used_but_one_of_a_nearly_idle_client_from_8(in_flight, value):
    limit = limit_of()
    limit.expect(100)
    congest(limit, in_flight=in_flight)
    assert limit.value(None) == value


def test_the_more_attempts_fail_the_deeper_the_cut_but_never_more_than_half():
    limit = limit_of()
    limit.expect(100)
    cuts = []
    for _ in range(6):
        before = limit._limit
        congest(limit, 10, event=False)
        congest(limit, in_flight=10_000)
        cuts.append(1 - limit._limit / before)
    assert cuts == sorted(cuts)
    assert 0.3 < cuts[0] < cuts[-1] <= 0.5


def test_successes_make_the_next_cut_smaller():
    limit = limit_of()
    limit.expect(100)
    congest(limit, 50, event=False)
    succeed(limit, 50, binding=False)
    congest(limit, in_flight=1000)
    assert limit.value(None) == 900


def test_a_restart_begins_again_from_one_call():
    limit = limit_of()
    congest(limit, overload=True, restart=True)
    assert limit.value(None) == 1


# --- growth ---------------------------------------------------------------------------------------


def test_it_grows_only_while_it_is_what_holds_calls_back():
    limit = limit_of()
    succeed(limit, 1000, binding=False)
    assert limit.value(None) == 16
    succeed(limit, 2)
    assert limit.value(None) == 17


@pytest.mark.parametrize(("latency", "successes"), [(0.1, 160), (1.0, 16), (10.0, 16)])
def test_it_doubles_in_a_second_or_a_round_trip_whichever_is_longer(latency, successes):
    limit = limit_of()
    succeed(limit, successes, latency=latency)
    assert limit.value(None) in (31, 32)


def test_after_a_failure_it_comes_back_fast_and_grows_slowly_near_the_point_where_it_failed():
    limit = limit_of()
    limit.expect(10)
    congest(limit, in_flight=100, restart=True)
    successes = []
    for point in (50, 90, 100):
        successes.append(0)
        while limit.value(None) < point:
            succeed(limit)
            successes[-1] += 1
    assert successes == [49, 80, pytest.approx(200, abs=1)]  # 1, 0.5 and 0.05 for each


def test_far_beyond_the_point_where_it_failed_it_grows_freely_again():
    limit = limit_of()
    congest(limit, in_flight=16)
    while limit.value(None) < 24:
        succeed(limit)
    succeed(limit, 24, latency=1.0)
    assert limit.value(None) >= 47


def test_it_never_grows_above_its_ceiling():
    limit = limit_of(20)
    succeed(limit, 1000)
    assert limit.value(None) == 20
    assert limit.value(1e6) == 20


# --- Little's law ---------------------------------------------------------------------------------


def test_refusals_of_a_rate_never_take_it_below_what_the_rate_needs():
    limit = limit_of()
    succeed(limit, latency=2.0)
    congest(limit, 50)
    assert limit.value(10) == HEADROOM * 10 * 2 + 2 == 27
    assert limit.value(0.05) == 2  # three a minute
    assert limit.value(None) == 1  # without a rate there is no floor


def test_an_overload_takes_it_below_until_the_limit_has_recovered():
    limit = limit_of()
    succeed(limit, latency=2.0)
    congest(limit, overload=True)
    assert limit.value(10) == 14
    succeed(limit, latency=2.0)
    assert limit.value(10) == 27


# --- promises -------------------------------------------------------------------------------------

failures = st.lists(st.tuples(st.integers(1, 200), st.booleans(), st.booleans(), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(failures, st.integers(1, 100), st.floats(0.01, 30), st.booleans())
def test_after_any_run_of_failures_it_is_at_least_1_and_recovers_to_the_ceiling(failures, ceiling, latency, hosted):
    limit = ConcurrencyLimit(ceiling)
    if hosted:
        limit.ignore_latency()
    for in_flight, event, overload, restart in failures:
        congest(limit, in_flight=in_flight, event=event, overload=overload, restart=restart)
        assert 1 <= limit.value(None) <= ceiling
    at = 0.0
    for _ in range(20_000):
        if limit.value(None) == ceiling:
            break
        at += latency
        limit.succeeded(at - latency, latency, limit.value(None), binding=True)
    assert limit.value(None) == ceiling
    assert math.isclose(limit.latency or latency, latency)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1000))
def test_whatever_latencies_are_seen_it_stays_between_1_and_its_ceiling(seed, ceiling):
    random, limit, at = Random(seed), ConcurrencyLimit(ceiling), 0.0
    for _ in range(2000):
        latency = random.choice([0.0, 1e-6, random.lognormvariate(0, 2), 1e4])
        limit.succeeded(at, latency, random.uniform(1, 2000), binding=random.random() < 0.5)
        at += random.expovariate(1)
        if random.random() < 0.01:
            congest(limit, in_flight=random.randint(1, 50), event=True, overload=True)
        assert 1 <= limit.value(None) <= ceiling
        assert 1 <= limit.value(random.choice([0.05, 10.0, 1e6])) <= ceiling
