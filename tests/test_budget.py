"""The budget: buckets and a pause, told by attempts, announcements and refusals."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import Limits, announcement, now, refusal, virtual, virtual_run
from throttled_openai._core.budget import FIRST_PAUSE, LONGEST_OVERLOAD_PAUSE, LONGEST_PAUSE, PAUSE_JITTER, Budget
from throttled_openai._core.durations import DAY, MINUTE


def accepted(**limits):
    """A budget whose server has accepted a call, so that its whole burst may leave."""
    budget = Budget(Limits(**limits))
    budget.succeeded()
    return budget


def level(budget, dimension="tokens", period=MINUTE):
    return budget.buckets[dimension, period].level


def refuse(budget, told, tokens=1.0, *, event=True, jitter=0.0):
    """One attempt of `tokens` that the server refuses at once."""
    reservation = budget.reserve(tokens, now())
    budget.refund(reservation, request=False)
    budget.refused(told, reservation, now(), event=event, jitter=jitter)


# --- spending -------------------------------------------------------------------------------------


@virtual
async def test_an_attempt_goes_when_every_bucket_has_room():
    budget = accepted(rpm=60, tpm=600, burst=10)  # 10 requests and 100 tokens at once
    assert budget.delay(100, now()) == 0
    budget.reserve(100, now())
    assert budget.delay(0, now()) == 0
    assert budget.delay(20, now()) == 2
    for _ in range(9):
        budget.reserve(0, now())
    assert budget.delay(0, now()) == 1
    assert budget.delay(20, now()) == 2


@virtual
async def test_asking_takes_nothing_from_any_bucket_and_reserving_takes_from_all():
    budget = accepted(rpm=60, tpm=600, rpd=1000, tpd=100_000, burst=10)
    budget.delay(500, now())
    assert [bucket.level for bucket in budget.buckets.values()] == [10, 1000, 100, 100_000]
    budget.reserve(30, now())
    assert [bucket.level for bucket in budget.buckets.values()] == [9, 999, 70, 99_970]


@virtual
async def test_before_the_server_accepted_anything_only_a_tenth_of_a_second_leaves_at_once():
    budget = Budget(Limits(rpm=6000, tpm=600_000))
    assert (level(budget, "requests"), level(budget)) == (10, 1000)
    budget.reserve(400, now())
    budget.succeeded()
    assert (level(budget, "requests"), level(budget)) == (84, 8100)  # 0.85 s of the limits


@virtual
async def test_a_burst_that_is_given_may_leave_from_the_first_call_on():
    budget = Budget(Limits(rpm=6000, tpm=600_000, burst=2))
    assert (level(budget, "requests"), level(budget)) == (200, 20_000)


@virtual
async def test_at_least_one_request_may_leave_however_small_the_limit():
    budget = Budget(Limits(rpm=1))
    assert budget.delay(10, now()) == 0
    budget.reserve(10, now())
    assert budget.delay(10, now()) == 60


@virtual
async def test_a_day_is_a_bucket_of_its_own_that_may_be_spent_at_once():
    budget = Budget(Limits(rpd=4))
    for _ in range(4):
        assert budget.delay(1, now()) == 0
        budget.reserve(1, now())
    assert budget.delay(1, now()) == DAY / 4
    assert budget.request_rate is None  # it says nothing about a minute


@virtual
async def test_a_refund_gives_back_the_tokens_and_the_request_only_if_it_was_never_sent():
    budget = accepted(rpm=60, tpm=600, burst=10)
    first, second = budget.reserve(40, now()), budget.reserve(30, now())
    budget.refund(first, request=False)
    assert (level(budget, "requests"), level(budget)) == (8, 70)
    budget.refund(second, request=True)
    assert (level(budget, "requests"), level(budget)) == (9, 100)


# --- announcements --------------------------------------------------------------------------------


@virtual
async def test_announced_limits_are_adopted_where_none_are_configured():
    budget = Budget()
    assert budget.delay(1e9, now()) == 0
    budget.observe(announcement(rpm=600, tpm=6000), None, now())
    assert (budget.request_rate, budget.token_rate, budget.largest_announced) == (10, 100, 6000)
    assert [(window.limit, window.announced) for window in budget.stats()] == [(600, True), (6000, True)]


@virtual
async def test_a_configured_limit_is_a_ceiling_for_the_announced_one():
    budget = Budget(Limits(rpm=60))
    for announced, rate in [(600, 1), (30, 0.5), (600, 1)]:
        budget.observe(announcement(rpm=announced), None, now())
        assert budget.request_rate == rate


@virtual
async def test_an_announced_day_stands_beside_the_minute():
    budget = accepted(rpm=60)
    budget.observe(announcement(rpm=100, rpm_left=2, period=DAY), None, now())
    assert budget.request_rate == 1
    budget.reserve(0, now())
    await asyncio.sleep(10)
    budget.reserve(0, now())
    assert budget.delay(0, now()) == pytest.approx(DAY / 100 - 10)


@virtual
async def test_remaining_lowers_the_level():
    budget = accepted(tpm=600, burst=60)
    budget.observe(announcement(tpm=600, tpm_left=250), None, now())
    assert level(budget) == 250


@virtual
async def test_remaining_never_raises_the_level():
    budget = accepted(tpm=600, burst=60)
    first = budget.reserve(500, now())
    budget.observe(announcement(tpm=600, tpm_left=599), first, now())
    assert level(budget) == 100


@virtual
async def test_remaining_is_taken_off_what_was_sent_since_and_added_what_was_refilled():
    budget = accepted(rpm=600, tpm=6000, burst=60)  # 10 requests and 100 tokens a second
    first = budget.reserve(1, now())
    for _ in range(5):
        budget.reserve(20, now())
    await asyncio.sleep(2)
    budget.observe(announcement(rpm=600, rpm_left=100, tpm=6000, tpm_left=1000), first, now())
    assert level(budget, "requests") == 100 + 2 * 10 - 5
    assert level(budget) == 1000 + 2 * 100 - 5 * 20


@virtual
async def test_remaining_refills_to_the_limit_at_most():
    budget = accepted(tpm=600, burst=60)
    first = budget.reserve(0, now())
    await asyncio.sleep(50)
    budget.reserve(100, now())
    budget.observe(announcement(tpm=600, tpm_left=590), first, now())
    assert level(budget) == 500


@virtual
async def test_what_was_sent_since_and_refused_is_not_taken_off():
    budget = accepted(tpm=600, burst=60)
    first = budget.reserve(10, now())
    second = budget.reserve(300, now())
    budget.refund(second, request=False)
    budget.observe(announcement(tpm=600, tpm_left=400), first, now())
    assert level(budget) == 400


@virtual
async def test_what_was_refunded_of_an_earlier_attempt_is_not_added_to_remaining():
    """The server had not counted the refused attempt when it told what remains."""
    budget = accepted(tpm=600, burst=60)
    refused = budget.reserve(100, now())
    accepted_one = budget.reserve(100, now())
    budget.refund(refused, request=False)
    budget.observe(announcement(tpm=600, tpm_left=400), accepted_one, now())
    assert level(budget) == 400


@virtual
async def test_an_announcement_that_was_overtaken_does_not_bring_back_an_old_limit():
    budget = Budget()
    first = budget.reserve(1, now())
    await asyncio.sleep(1)
    second = budget.reserve(1, now())
    budget.observe(announcement(rpm=1200), second, now())
    budget.observe(announcement(rpm=600), first, now())
    assert budget.request_rate == 20


@virtual
async def test_an_announced_limit_that_changes_keeps_what_was_used():
    budget = accepted(tpm=600, burst=60)
    budget.observe(announcement(tpm=300), budget.reserve(200, now()), now())
    assert (level(budget), budget.token_rate) == (100, 5)


# --- refusals -------------------------------------------------------------------------------------


@virtual
async def test_a_refused_attempt_may_go_again_exactly_at_retry_after():
    budget = accepted(tpm=600, burst=60)
    refuse(budget, refusal("tokens", 12.0), tokens=50)
    assert budget.delay(50, now()) == 12
    await asyncio.sleep(12)
    assert budget.delay(50, now()) == 0
    budget.reserve(50, now())
    assert budget.delay(50, now()) == 5  # at the rate again, not as a herd


@virtual
async def test_a_refusal_for_tokens_does_not_pause_small_attempts():
    budget = accepted(tpm=600, burst=60)
    refuse(budget, refusal("tokens", 2.0), tokens=50)
    assert budget.paused_until == -math.inf
    assert budget.delay(50, now()) == 2
    assert budget.delay(30, now()) == 0


@virtual
async def test_a_refusal_for_tokens_pauses_where_there_is_no_token_bucket():
    budget = accepted(rpm=60)
    refuse(budget, refusal("tokens", 2.0))
    assert budget.delay(1, now()) == 2


@virtual
async def test_a_refusal_for_requests_empties_the_request_bucket_only():
    budget = accepted(rpm=60, tpm=600, burst=60)
    refuse(budget, refusal("requests"), tokens=50)
    assert level(budget, "requests") == 0
    assert level(budget) == 600


@virtual
async def test_a_refusal_that_names_nothing_empties_the_buckets_of_the_minute():
    budget = accepted(rpm=60, tpm=600, rpd=100, burst=60)
    refuse(budget, refusal())
    assert [bucket.level for bucket in budget.buckets.values()] == [0, 98 + 1, 0]


@virtual
async def test_a_refusal_of_the_day_is_for_the_bucket_of_the_day():
    budget = accepted(rpm=60, rpd=100, burst=60)
    refuse(budget, refusal("requests", period=DAY))
    assert level(budget, "requests") == 59
    assert level(budget, "requests", DAY) == 0


@virtual
async def test_a_refusal_never_raises_a_level():
    budget = accepted(tpm=600, burst=60)
    budget.reserve(1000, now())
    refuse(budget, refusal("tokens", 1.0), tokens=50)
    assert level(budget) == -400


@virtual
async def test_a_pause_only_extends():
    budget = Budget()
    refuse(budget, refusal(None, 10.0))
    assert budget.paused_until == 10
    await asyncio.sleep(1)
    refuse(budget, refusal(None, 5.0))
    assert budget.delay(1, now()) == 9
    refuse(budget, refusal(None, 20.0))
    assert budget.delay(1, now()) == 20


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@virtual
async def test_a_pause_the_server_asks_for_is_stretched_and_never_shortened(jitter):
    budget = Budget()
    refuse(budget, refusal(None, 10.0), jitter=jitter)
    assert 10 <= budget.paused_until == 10 * (1 + PAUSE_JITTER * jitter) < 11


@virtual
async def test_pauses_without_retry_after_double_up_to_the_longest():
    budget = Budget()
    pauses = []
    for _ in range(9):
        refuse(budget, refusal("requests"))
        pauses.append(budget.delay(1, now()))
        await asyncio.sleep(100)
    half = FIRST_PAUSE / 2  # no jitter: half of it
    assert pauses == [half, 2 * half, 4 * half, 8 * half, 16 * half, 32 * half, *3 * [LONGEST_PAUSE / 2]]


@virtual
async def test_one_refusal_that_says_nothing_does_not_pause_but_the_next_does():
    budget = Budget()
    refuse(budget, refusal())
    assert budget.delay(1, now()) == 0
    refuse(budget, refusal())
    assert budget.delay(1, now()) == FIRST_PAUSE / 2


@virtual
async def test_overload_pauses_less_long_and_leaves_the_buckets_alone():
    budget = accepted(rpm=60, burst=60)
    for _ in range(20):
        refuse(budget, refusal(kind="overload"))
    assert budget.delay(1, now()) == LONGEST_OVERLOAD_PAUSE / 2
    assert level(budget, "requests") == 40


@virtual
async def test_echoes_of_an_event_do_not_lengthen_the_pause():
    budget = Budget()
    refuse(budget, refusal("requests"))
    for _ in range(20):
        refuse(budget, refusal("requests"), event=False)
    assert budget.delay(1, now()) == FIRST_PAUSE / 2


@virtual
async def test_a_success_starts_the_doubling_anew():
    budget = Budget()
    for _ in range(4):
        refuse(budget, refusal("requests"))
    await asyncio.sleep(100)
    budget.succeeded()
    refuse(budget, refusal("requests"))
    assert budget.delay(1, now()) == FIRST_PAUSE / 2


# --- another loop ---------------------------------------------------------------------------------


def test_on_another_loop_debts_and_limits_stay_and_pauses_are_forgotten():
    budget = Budget(Limits(tpm=600))

    async def first():
        await asyncio.sleep(1000)
        budget.observe(announcement(rpm=60), None, now())
        budget.reserve(101, now())
        refuse(budget, refusal(None, 500.0, kind="overload"))

    async def second():
        budget.rebind(same_clock=False)
        assert budget.delay(0, now()) == 10
        budget.observe(announcement(rpm=120), None, now())  # not older than what the first loop was told at 1000
        assert budget.request_rate == 2

    virtual_run(first())
    virtual_run(second())


# --- promises -------------------------------------------------------------------------------------

amounts = st.integers(0, 300)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("sleep"), st.integers(0, 30)),
        st.tuples(st.just("spend"), amounts),
        st.tuples(st.just("refund"), st.booleans()),
        st.tuples(st.just("observe"), st.tuples(st.integers(1, 1200), st.integers(0, 1200))),
        st.tuples(st.just("refuse"), st.sampled_from([(None, None), ("tokens", 3.0), ("requests", 0.5)])),
        st.tuples(st.just("succeed"), st.none()),
    ),
    max_size=30,
)


async def take(budget, open_ones, step, what):
    reservation = open_ones.pop() if step in ("refund", "refuse") and open_ones else None
    if step == "sleep":
        await asyncio.sleep(what)
    elif step == "spend":
        open_ones.append(budget.reserve(what, now()))
    elif step == "observe":
        limit, left = what
        told = announcement(tpm=limit, tpm_left=min(limit, left))
        budget.observe(told, open_ones[0] if open_ones else None, now())
    elif step == "succeed":
        budget.succeeded()
    elif reservation is not None:
        budget.refund(reservation, request=what is True)
        if step == "refuse":
            budget.refused(refusal(*what), reservation, now(), event=True, jitter=0.5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps)
def test_no_level_is_ever_above_its_capacity_and_only_time_and_refunds_raise_one(steps):
    async def walk():
        budget, open_ones = Budget(Limits(rpm=60, tpm=600, rpd=1000, burst=30)), []
        for step, what in steps:
            before = {key: (bucket.level, bucket.capacity) for key, bucket in budget.buckets.items()}
            await take(budget, open_ones, step, what)
            for key, bucket in budget.buckets.items():
                was, capacity = before[key]
                assert bucket.level <= bucket.capacity
                if step in ("spend", "observe", "succeed"):
                    assert bucket.level - was <= max(0.0, bucket.capacity - capacity) + 1e-6
            assert budget.delay(100, now()) >= 0

    virtual_run(walk())
