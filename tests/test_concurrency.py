"""The adaptive limit on attempts in flight."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai._core.concurrency import HEADROOM, START, START_SECONDS, ConcurrencyLimit


def congest(limit, at, *, in_flight=16, overload=False, restart=False, admitted_at=None):
    sent = at if admitted_at is None else admitted_at
    return limit.congested(sent, at, in_flight, overload=overload, restart=restart)


def succeed(limit, times=1, *, latency=0.5, binding=True):
    for _ in range(times):
        limit.succeeded(latency, binding=binding)


def test_it_starts_at_16_or_at_its_ceiling():
    assert START == 16
    assert ConcurrencyLimit(1000).value(None) == 16
    assert ConcurrencyLimit(5).value(None) == 5


def test_a_known_rate_starts_with_ten_seconds_of_it():
    limit = ConcurrencyLimit(1000)
    limit.expect(0.1)
    assert limit.value(0.1) == 16
    limit.expect(50)
    assert limit.value(50) == 50 * START_SECONDS
    limit.expect(1)
    assert limit.value(1) == 500
    limit.expect(1e9)
    assert limit.value(1e9) == 1000


def test_a_rate_that_becomes_known_after_a_failure_does_not_undo_the_decrease():
    limit = ConcurrencyLimit(1000)
    congest(limit, at=1)
    limit.expect(50)
    assert limit.value(50) == 14


# --- decrease -------------------------------------------------------------------------------------


def test_ten_refusals_of_one_overload_are_one_decrease():
    limit = ConcurrencyLimit(1000)
    events = [congest(limit, at=1 + i / 100, admitted_at=i / 100) for i in range(10)]
    assert events == [True] + 9 * [False]
    assert limit.value(None) == 14  # 10 % less


def test_an_attempt_admitted_at_the_very_instant_of_the_decrease_is_an_echo():
    limit = ConcurrencyLimit(1000)
    assert congest(limit, at=1, admitted_at=0)
    assert not congest(limit, at=2, admitted_at=1)
    assert congest(limit, at=2, admitted_at=1.001)


def test_a_decrease_starts_from_what_was_used():
    limit = ConcurrencyLimit(1000)
    limit.expect(100)
    congest(limit, at=1, in_flight=50)
    assert limit.value(None) == 45


def test_the_more_attempts_fail_the_deeper_the_cut_but_never_more_than_half():
    limit = ConcurrencyLimit(1000)
    for i in range(100):
        congest(limit, at=1 + i / 1000, admitted_at=0)  # one event; all fail
    before = limit.value(None)
    congest(limit, at=2, in_flight=before)
    assert limit.value(None) == before // 2 == 7


def test_the_limit_is_never_below_1():
    limit = ConcurrencyLimit(1000)
    for i in range(200):
        congest(limit, at=i, in_flight=1, overload=True)
        assert limit.value(None) >= 1
    assert limit.value(None) == 1


def test_a_restart_begins_again_from_one_call():
    limit = ConcurrencyLimit(1000)
    congest(limit, at=1, restart=True)
    assert limit.value(None) == 1


# --- growth ---------------------------------------------------------------------------------------


def test_it_grows_only_while_it_is_what_holds_calls_back():
    limit = ConcurrencyLimit(1000)
    succeed(limit, 1000, binding=False)
    assert limit.value(None) == 16
    succeed(limit, 2)
    assert limit.value(None) == 17


def test_it_doubles_at_most_once_a_second_whatever_the_latency():
    fast, slow = ConcurrencyLimit(1000), ConcurrencyLimit(1000)
    # 16 in flight of 0.1 s for one second: 160 successes
    succeed(fast, 160, latency=0.1)
    assert fast.value(None) in (31, 32)
    # 16 in flight of 10 s: one round trip
    succeed(slow, 16, latency=10)
    assert slow.value(None) == 32


def test_it_grows_slowly_near_the_point_where_it_last_failed():
    limit = ConcurrencyLimit(1000)
    limit.expect(10)
    congest(limit, at=1, in_flight=100)
    assert limit.value(None) == 90
    succeed(limit, 100)
    assert limit.value(None) in (94, 95)


def test_it_never_grows_above_its_ceiling():
    limit = ConcurrencyLimit(20)
    succeed(limit, 1000)
    assert limit.value(None) == 20
    assert limit.value(1e6) == 20


# --- Little's law ---------------------------------------------------------------------------------


def test_refusals_of_a_rate_never_take_it_below_what_the_rate_needs():
    limit = ConcurrencyLimit(1000)
    succeed(limit, latency=2.0)
    for i in range(50):
        congest(limit, at=i)
    assert limit.value(10) == HEADROOM * 10 * 2 + 2 == 27
    assert limit.value(None) == 1  # without a rate there is no floor


def test_an_overload_takes_it_below_until_the_limit_has_recovered():
    limit = ConcurrencyLimit(1000)
    succeed(limit, latency=2.0)
    congest(limit, at=1, overload=True)
    assert limit.value(10) == 14
    succeed(limit, latency=2.0)
    assert limit.value(10) == 27


# --- promises -------------------------------------------------------------------------------------

failures = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200), st.booleans(), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(failures, st.integers(1, 100), st.floats(0.01, 30))
def test_after_any_run_of_failures_it_recovers_to_the_ceiling(failures, ceiling, latency):
    limit = ConcurrencyLimit(ceiling)
    now = 0.0
    for pause, in_flight, overload, restart in failures:
        now += pause
        congest(limit, at=now, in_flight=in_flight, overload=overload, restart=restart)
        assert 1 <= limit.value(None) <= ceiling
    for _ in range(20_000):
        if limit.value(None) == ceiling:
            break
        succeed(limit, latency=latency)
    assert limit.value(None) == ceiling
    assert math.isclose(limit.latency or latency, latency)
