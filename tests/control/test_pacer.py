"""The pacer: how much may leave at once, and how that grows while all goes well and shrinks when it does not."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import now, pass_time, virtual, virtual_run
from throttled_openai._control.pacer import GROWTH, HELD, LEAST_BURST, WHOLE_BURST, Pacer
from throttled_openai._control.rate_learner import BETA, FLOOR_SHARE
from throttled_openai._limits import BURST

# Seconds between two looks of a budget.
STEP = 0.05


def pace(ceiling=10.0, burst=None, *, announced=None):
    """The pace of 10 units a second that the user allows."""
    made = Pacer(ceiling, burst)
    if announced is not None:
        made.announced(announced)
    return made


def spend(pace, amount=1.0):
    pace.spend(amount, now())


def press(pace, seconds):
    """Take everything that may leave, for that time or until nothing is held back; units a second."""
    left, end = 0, now() + seconds
    while now() < end and pace.level < math.inf:
        pass_time(STEP)
        pace.pass_time(STEP, pace.pressed(STEP), now())
        left += burst_of(pace)
    return left / seconds


def burst_of(pace, most=100_000):
    """How many units leave at once."""
    left = 0
    while pace.delay(1.0) <= 0 and left < most:
        whole = 1 if pace.level == math.inf else max(1, math.floor(pace.level + 1e-9))
        spend(pace, whole)
        left += whole
    return left


# --- bursts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ceiling", "burst", "at_once"),
    [
        (100.0, None, 85),  # 0.85 s
        (100.0, 0.2, 20),  # what the user configured
        (100.0, 60.0, 6000),
        (0.05, None, 1),  # never less than one
        (0.05, 60.0, 3),
        (None, None, 1000),  # where no limit is known nothing is held back
    ],
)
@virtual
async def test_the_burst_that_may_leave_at_once(ceiling, burst, at_once):
    assert burst_of(pace(ceiling, burst), most=1000 if ceiling is None else 100_000) == at_once


@virtual
async def test_the_rest_leaves_at_the_rate():
    made = pace(10.0)
    burst_of(made)
    assert press(made, 100) == pytest.approx(10, rel=0.01)


@virtual
async def test_an_amount_above_the_burst_leaves_debt_only_where_no_server_window_keeps_it():
    alone, announced = pace(10.0), pace(10.0, announced=10.0)
    for made in (alone, announced):
        assert made.delay(100.0) == 0
        spend(made, 100)
    assert alone.delay(1.0) == pytest.approx((100 - 8.5 + 1) / 10)
    assert announced.delay(1.0) == pytest.approx(0.1)
    for made in (alone, announced):
        made.give_back(100, now(), charged=False)
        assert made.level == pytest.approx(8.5)


@pytest.mark.parametrize(("ceiling", "level"), [(10.0, 7.5), (None, math.inf)])
@virtual
async def test_what_is_charged_although_it_was_refused_is_not_given_back_where_a_limit_is_known(ceiling, level):
    made = pace(ceiling)
    spend(made)
    made.give_back(1.0, now(), charged=True)
    assert made.level == level


# --- growth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ceiling", "announced", "burst", "grows_to"),
    [
        (None, 10.0, None, math.inf),  # a whole minute: the server window holds back
        (10.0, 10.0, None, math.inf),
        (20.0, 10.0, None, math.inf),
        (10.0, 20.0, None, 8.5),  # the user wants less than there is
        (10.0, None, None, 8.5),  # and without announcements it is not known
        (10.0, 10.0, 2.0, 20.0),  # what the user says stays
    ],
)
@virtual
async def test_while_it_is_pressed_the_burst_grows_to_a_minute_where_headers_show_one(
    ceiling, announced, burst, grows_to
):
    made = pace(ceiling, burst, announced=announced)
    press(made, 60)
    pass_time(60)
    assert made.level == pytest.approx(grows_to)


@virtual
async def test_the_burst_grows_by_a_quarter_of_itself_for_each_second_of_pressing():
    made = pace(10.0, announced=10.0)
    seconds = math.log(WHOLE_BURST / BURST) / GROWTH
    press(made, seconds / 2)
    pass_time(60)
    assert made.level == pytest.approx(10 * BURST * math.exp(GROWTH * seconds / 2), rel=0.1)
    press(made, seconds / 2 + 1)
    assert made.level == math.inf


@virtual
async def test_the_burst_does_not_grow_while_nothing_presses():
    made = pace(10.0, announced=10.0)
    for _ in range(1000):
        pass_time(STEP)
        made.pass_time(STEP, made.pressed(STEP), now())
    assert burst_of(made) == 8


@virtual
async def test_a_ceiling_the_server_has_outgrown_is_kept_although_the_burst_was_a_minute():
    made = pace(10.0, announced=10.0)
    press(made, 60)
    assert made.level == math.inf
    made.announced(100.0)
    assert (made.rate, burst_of(made)) == (10, 8)
    assert press(made, 60) == pytest.approx(10, rel=0.02)


# --- refusals -------------------------------------------------------------------------------------


@virtual
async def test_an_unexplained_refusal_halves_the_burst_and_each_holds_it_twice_as_long():
    made = pace(1000.0, announced=1000.0)
    sizes = []
    for _ in range(4):
        made.refused(1.0, None, now(), event=True)
        made.learner.forget()
        pass_time(10)
        made.pass_time(10, 0.0, now())
        sizes.append(round(made.level / 1000, 4))
    assert sizes == [BURST / 2, BURST / 4, pytest.approx(BURST / 8, abs=1e-4), LEAST_BURST]
    press(made, HELD * 8 - 11)
    pass_time(60)
    assert made.level == 1000 * LEAST_BURST
    press(made, 20)
    pass_time(60)
    assert made.level > 1000 * LEAST_BURST


@virtual
async def test_a_burst_that_had_grown_whole_begins_again_below_its_first_size():
    made = pace(1000.0, announced=1000.0)
    press(made, 30)
    made.refused(1.0, None, now(), event=True)
    pass_time(60)
    assert made.level == 1000 * BURST / 2


@virtual
async def test_a_burst_the_user_gave_is_not_halved():
    made = pace(100.0, 2.0)
    made.refused(1.0, None, now(), event=True)
    pass_time(60)
    assert made.level == 200


@pytest.mark.parametrize(("retry_after", "level"), [(None, 0.0), (0.5, 5 - 50), (0.05, 0.0)])
@virtual
async def test_a_refusal_empties_it_to_where_the_attempt_may_go_again_at_retry_after(retry_after, level):
    made = pace(100.0, 1.0)
    made.refused(5.0, retry_after, now(), event=True)
    assert made.level == level
    assert made.delay(5.0) == pytest.approx(retry_after or 0.05)


@virtual
async def test_a_refusal_never_raises_the_level():
    made = pace(100.0, 1.0)
    spend(made, 500)
    made.refused(5.0, 0.01, now(), event=True)
    assert made.level == -400


@virtual
async def test_an_echo_lowers_the_level_but_neither_burst_nor_rate():
    made = pace(None)
    made.refused(1.0, None, now(), event=False)
    assert made.rate is None
    made = pace(100.0)
    made.refused(1.0, 0.5, now(), event=False)
    assert (made.rate, made.delay(1.0)) == (100, 0.5)
    pass_time(60)
    assert made.level == 85


# --- what is learnt -------------------------------------------------------------------------------


@virtual
async def test_where_no_limit_is_known_a_refusal_teaches_one():
    made = pace(None)
    for _ in range(40):
        pass_time(STEP)
        spend(made)
    made.refused(1.0, None, now(), event=True)
    assert made.learning
    assert made.rate == pytest.approx(0.5 * BETA * 20, rel=0.1)  # half of what was sent


@virtual
async def test_what_was_learnt_never_goes_beyond_what_is_known_and_is_forgotten_half_as_far_above():
    made = pace(10.0)
    made.refused(1.0, None, now(), event=True)
    for _ in range(40):
        pass_time(0.5)
        spend(made)
        made.learner.press(0.5)
    made.refused(1.0, None, now(), event=True)
    assert made.rate == pytest.approx(BETA * 2)
    rates = []
    for _ in range(60):
        press(made, 10)
        rates.append(made.rate)
    assert max(rates) == 10
    assert rates == sorted(rates)
    assert not made.learning


@virtual
async def test_an_announced_limit_replaces_what_was_learnt():
    made = pace(None)
    spend(made)
    made.refused(1.0, None, now(), event=True)
    made.announced(7.0)
    assert (made.rate, made.learning) == (7, False)


@virtual
async def test_a_rate_that_only_refusals_have_taught_starts_with_the_least_burst():
    """Nothing is known of the window behind it."""
    made = pace(None)
    for _ in range(50):
        pass_time(0.01)
        spend(made)
    made.refused(1.0, None, now(), event=True)
    pass_time(60)
    assert made.level == pytest.approx(LEAST_BURST * made.rate)


# --- another loop ---------------------------------------------------------------------------------


def test_on_another_loop_debt_stays():
    made = Pacer(10.0, None)

    async def first():
        pass_time(3)
        spend(made, 31)

    async def second():
        made.rebind(same_clock=False)
        assert made.delay(1.0) == pytest.approx((31 - 8.5 + 1) / 10)

    virtual_run(first())
    virtual_run(second())


# --- promises -------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), st.sampled_from([0.01, 0.05, 0.3, 2.0, 90.0])),
        st.tuples(st.just("spend"), st.integers(1, 60)),
        st.tuples(st.just("give back"), st.integers(1, 60)),
        st.tuples(st.just("announce"), st.sampled_from([None, 1.0, 10.0, 100.0])),
        st.tuples(st.just("refuse"), st.tuples(st.sampled_from([None, 0.1, 30.0]), st.booleans())),
    ),
    max_size=50,
)


def take(made, step, what):
    if step == "sleep":
        pass_time(what)
        made.pass_time(what, made.pressed(what), now())
    elif step == "spend":
        spend(made, what)
    elif step == "give back":
        made.give_back(what, now(), charged=what % 2 == 0)
    elif step == "announce":
        made.announced(what)
    else:
        made.refused(1.0, what[0], now(), event=what[1])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps, st.sampled_from([None, 0.05, 10.0]), st.sampled_from([None, 1.0, 60.0]))
def test_the_rate_is_never_above_what_is_known_nor_below_its_floor_and_the_level_fits_the_bucket(steps, ceiling, burst):
    async def walk():
        made = Pacer(ceiling, burst)
        for step, what in steps:
            take(made, step, what)
            if made.known is not None:
                assert BETA * FLOOR_SHARE * made.known <= made.rate * (1 + 1e-9) <= made.known * (1 + 2e-9)
            if made.rate is not None and made.level < math.inf:
                seconds = WHOLE_BURST if burst is None else burst
                assert made.level <= max(1.0, seconds * made.rate) * (1 + 1e-6)
            assert 0 <= made.delay(1.0) < math.inf

    virtual_run(walk())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.03, 0.5, 20.0]), st.integers(1, 30)), min_size=1, max_size=40),
    st.sampled_from([0.05, 1.0, 10.0]),
    st.sampled_from([None, 1.0, 60.0]),
)
def test_in_any_window_no_more_than_the_burst_and_its_refill_leave_and_one_oversize_amount(pauses, ceiling, burst):
    async def walk():
        made, left = Pacer(ceiling, burst), []
        for pause, amount in pauses:
            pass_time(pause)
            pass_time(made.delay(amount))
            made.pass_time(pause, made.pressed(pause), now())
            spend(made, amount)
            left.append((now(), amount))
        return left

    left = virtual_run(walk())
    capacity = max(1.0, (BURST if burst is None else burst) * ceiling)
    for first, (start, _) in enumerate(left):
        spent = oversize = 0.0
        for at, amount in left[first:]:
            spent += amount
            oversize = max(oversize, amount - capacity)
            assert spent <= capacity + ceiling * (at - start) + oversize + 1e-3


@virtual
async def test_a_wait_does_not_become_longer_when_a_lower_limit_is_announced():
    made = pace(100.0)
    made.refused(1.0, 1.5, now(), event=False)
    assert made.delay(1.0) == pytest.approx(1.5)
    made.announced(1.0)
    assert made.delay(1.0) <= 1.5 + 1.0
