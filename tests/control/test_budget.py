"""The budget: pacers, server windows and pauses, moved by attempts, announcements and refusals."""

import itertools
import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import NOTHING, Limits, announcement, now, pass_time, refusal, virtual, virtual_run
from throttled_openai._control.backoff import FIRST_PAUSE, LONGEST_OVERLOAD_PAUSE, LONGEST_PAUSE, PAUSE_JITTER
from throttled_openai._control.budget import Budget
from throttled_openai._limits import BURST
from throttled_openai._protocol.durations import DAY, MINUTE
from throttled_openai._protocol.headers import Announcement, Window

BOTH = ("requests", "tokens")


def accepted(told=NOTHING, **limits):
    """A budget whose server has accepted a call of nothing, and announced `told`; a hundred seconds later."""
    budget = Budget(Limits(**limits))
    first = budget.reserve(0, now())
    for _ in range(2):  # announced once, it would be doubtful
        budget.observe(told, first, now())
    budget.succeeded(first, now())
    pass_time(100)
    return budget


def pacer_level(budget, dimension="tokens"):
    return budget.pacers[dimension].level


def window_level(budget, dimension="tokens", period=MINUTE):
    return budget.windows[dimension, period].level


def refuse(budget, told, tokens=1.0, *, headers=NOTHING, jitter=0.0):
    """One attempt of `tokens` that the server refuses at once; whether it is a new event."""
    return budget.refused(told, headers, budget.reserve(tokens, now()), now(), jitter=jitter)


# --- spending -------------------------------------------------------------------------------------


@virtual
async def test_an_attempt_goes_when_everything_has_room():
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
async def test_what_is_held_for_another_is_left_in_every_bucket_of_tokens():
    budget = accepted(announcement(tpm=600, tpm_left=600), rpm=60, burst=60)
    budget.reserve(0, now())
    full = budget.token_level()
    assert budget.delay(100, now(), held=full - 100) == 0
    assert budget.delay(100, now(), held=full) == 0  # a bucket cannot be more than full
    budget.reserve(400, now())
    assert budget.delay(100, now(), held=150) == pytest.approx((250 - (full - 400)) / 10)


@virtual
async def test_asking_takes_nothing_and_reserving_takes_from_all():
    def levels():
        paces = [pacer_level(budget, dimension) for dimension in BOTH]
        return paces + [window_level(budget, dimension, DAY) for dimension in BOTH]

    budget = accepted(rpm=60, tpm=600, rpd=1000, tpd=100_000, burst=10)
    before = levels()
    budget.delay(500, now())
    assert levels() == before
    budget.reserve(30, now())
    assert [was - level for was, level in zip(before, levels(), strict=True)] == [1, 30, 1, 30]


@pytest.mark.parametrize("limits", [{}, {"rpm": 600_000}, {"tpm": 10**9}], ids=str)
@virtual
async def test_until_the_server_answers_the_attempts_that_have_left_double_every_50_ms(limits):
    budget, left = Budget(Limits(**limits)), []
    while len(left) < 64:
        pass_time(budget.delay(1, now()))
        left.append(budget.reserve(1, now()))
    after = [sum(one.at <= 0.05 * doublings + 1e-6 for one in left) for doublings in range(7)]
    assert after == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("answer", ["success", "refusal"])
@virtual
async def test_any_answer_ends_the_doubling(answer):
    budget = Budget()
    first = budget.reserve(1, now())
    assert budget.delay(1, now()) > 0
    if answer == "success":
        budget.succeeded(first, now())
        assert budget.delay(1, now()) == 0
    else:
        budget.refused(refusal(None, 1.0), NOTHING, first, now(), jitter=0.0)
        assert budget.delay(1, now()) == 1


@virtual
async def test_a_burst_that_is_given_may_leave_from_the_first_call_on():
    budget = Budget(Limits(rpm=6000, tpm=600_000, burst=2))
    for _ in range(200):
        assert budget.delay(100, now()) == 0
        budget.reserve(100, now())
    assert budget.delay(0, now()) == 0.01


@pytest.mark.parametrize("rpm", [1, 3, 0.5])
@virtual
async def test_at_least_one_request_may_leave_however_small_the_limit(rpm):
    budget = Budget(Limits(rpm=rpm))
    assert budget.delay(10, now()) == 0
    budget.reserve(10, now())
    assert budget.delay(10, now()) == pytest.approx(60 / rpm)


@virtual
async def test_a_day_is_a_bucket_of_its_own_that_may_be_spent_at_once():
    budget = accepted(rpd=100)
    left = 0
    while budget.delay(1, now()) == 0:
        budget.reserve(1, now())
        left += 1
    assert left == 97  # one has left before, and 2 are kept back
    assert budget.delay(1, now()) <= DAY / 100
    assert budget.request_rate is None  # it says nothing about a minute


@virtual
async def test_a_refund_gives_back_the_tokens_and_the_request_only_if_it_was_never_sent():
    budget = accepted(rpm=60, tpm=600, tpd=10_000, burst=10)
    pass_time(1000)
    day = window_level(budget, "tokens", DAY)
    first, second = budget.reserve(40, now()), budget.reserve(30, now())
    budget.refund(first, request=False)
    assert (pacer_level(budget, "requests"), pacer_level(budget), window_level(budget, "tokens", DAY)) == (
        8,
        70,
        day - 30,
    )
    budget.refund(second, request=True)
    assert (pacer_level(budget, "requests"), pacer_level(budget), window_level(budget, "tokens", DAY)) == (9, 100, day)


# --- announcements --------------------------------------------------------------------------------


@virtual
async def test_announced_limits_are_adopted_where_none_are_configured():
    budget = Budget()
    assert budget.delay(1e9, now()) == 0
    budget.observe(announcement(rpm=600, tpm=6000), None, now())
    assert budget.largest_announced == math.inf  # which may be a mistake
    budget.observe(announcement(rpm=600, tpm=6000), None, now())
    assert (budget.request_rate, budget.token_rate, budget.largest_announced) == (10, 100, 6000)
    assert [(window.limit, window.announced) for window in budget.stats()] == [(600, True), (6000, True)]


@virtual
async def test_a_configured_limit_is_a_ceiling_for_the_announced_one():
    budget = Budget(Limits(rpm=60))
    for announced, rate in [(600, 1), (30, 0.5), (600, 1)]:
        budget.observe(announcement(rpm=announced), None, now())
        assert budget.request_rate == rate


def busy(budget, seconds, told, tokens=0):
    """Everything that may leave in that time, each attempt answered at once."""
    left, end = 0, now() + seconds
    while now() < end:
        if (delay := budget.delay(tokens, now())) > 0:
            pass_time(min(delay, 0.1))
            continue
        reservation = budget.reserve(tokens, now())
        left += 1
        budget.observe(told(left), reservation, now())
        budget.succeeded(reservation, now())
    return left


@virtual
async def test_a_ceiling_is_kept_when_the_server_raises_its_limit_above_it():
    """Also where the burst had grown to a minute while both were the same."""
    budget = Budget(Limits(rpm=600))
    busy(budget, 60, lambda left: announcement(rpm=600, rpm_left=500))
    assert busy(budget, 60, lambda left: announcement(rpm=60_000, rpm_left=59_000)) <= 600 + 10


@virtual
async def test_a_ceiling_a_day_is_kept_where_the_server_allows_more():
    budget = Budget(Limits(rpd=10))
    assert busy(budget, 60, lambda left: announcement(rpm=1000, rpm_left=1000 - left, period=DAY)) <= 10


@virtual
async def test_of_a_day_others_have_used_up_no_more_is_sent_than_is_left():
    budget = Budget(Limits(rpd=1000))
    assert busy(budget, 60, lambda left: announcement(rpm=1000, rpm_left=max(0, 20 - left), period=DAY)) <= 21


@virtual
async def test_an_announced_day_stands_beside_the_minute():
    budget = accepted(rpm=60)
    for _ in range(2):  # once might be a mistake
        budget.observe(announcement(rpm=100, rpm_left=4, period=DAY), None, now())
    assert budget.request_rate == 1
    for _ in range(2):
        assert budget.delay(0, now()) == 0
        budget.reserve(0, now())
        pass_time(10)
    assert budget.delay(0, now()) == pytest.approx(DAY / 100 - 20)


@virtual
async def test_a_day_that_was_announced_once_holds_calls_for_a_second_until_it_is_left_out_or_announced_again():
    budget = accepted(rpm=60)
    odd = announcement(rpm=1, rpm_left=0, period=DAY)
    budget.observe(odd, None, now())
    budget.reserve(0, now())
    assert budget.delay(0, now()) == 1
    budget.observe(odd, None, now())
    assert budget.delay(0, now()) > DAY / 2
    for _ in range(4):
        budget.observe(announcement(rpm=60, rpm_left=50), None, now())
    assert budget.delay(0, now()) <= 1
    assert ("requests", DAY) not in budget.windows


@virtual
async def test_no_more_than_eight_limits_of_a_dimension_are_remembered():
    budget = Budget(Limits(rpd=1000))
    for period in range(1, 100):
        budget.observe(announcement(rpm=1000 + period, rpm_left=1000, period=float(period)), None, now())
        assert len(budget.windows) <= 9
    assert window_level(budget, "requests", DAY) > 0  # the configured one stays


@pytest.mark.parametrize("left", [0, 250, 600])
@virtual
async def test_the_first_snapshot_sets_the_level(left):
    budget = Budget()
    first = budget.reserve(1, now())
    pass_time(2)
    budget.observe(announcement(tpm=600, tpm_left=left), first, now())
    assert window_level(budget) == pytest.approx(min(598, left - 2 + 20))


@virtual
async def test_remaining_is_taken_off_what_was_sent_since_and_added_what_was_refilled():
    budget = Budget()
    first = budget.reserve(1, now())
    for _ in range(5):
        budget.reserve(20, now())
    pass_time(2)
    budget.observe(announcement(rpm=600, rpm_left=100, tpm=6000, tpm_left=1000), first, now())
    assert window_level(budget, "requests") == pytest.approx(100 - 2 + 2 * 10 - 5)
    assert window_level(budget) == pytest.approx(1000 - 15 + 2 * 100 - 5 * 20)


@pytest.mark.parametrize("order", [range(16), range(15, -1, -1), Random(1).sample(range(16), 16)], ids=str)
@virtual
async def test_what_left_before_the_first_announcement_is_believed_once(order):
    """Sixteen calls leave, and all their answers tell the same story of a server half empty."""
    budget = Budget()
    reservations = [budget.reserve(10, now()) for _ in range(16)]
    pass_time(1)
    for number in order:
        told = announcement(rpm=600, rpm_left=99 - number, tpm=60_000, tpm_left=990 - 10 * number)
        budget.observe(told, reservations[number], now())
    assert window_level(budget, "requests") == pytest.approx(84 - 2 + 10)
    assert window_level(budget) == pytest.approx(840 - 150 + 1000)


@virtual
async def test_a_snapshot_as_predicted_changes_nothing():
    budget = accepted(announcement(rpm=600, rpm_left=300, tpm=6000, tpm_left=3000))
    reservation = budget.reserve(100, now())
    pass_time(3)
    budget.reserve(50, now())
    before = window_level(budget, "requests"), window_level(budget)
    level = {
        checkpoint.window.limit: checkpoint.level + checkpoint.window.reserve
        for _, checkpoint in reservation.checkpoints
    }
    for _ in range(3):
        budget.observe(announcement(rpm=600, rpm_left=level[600], tpm=6000, tpm_left=level[6000]), reservation, now())
    assert (window_level(budget, "requests"), window_level(budget)) == pytest.approx(before)


@virtual
async def test_what_was_sent_since_and_refused_is_not_taken_off():
    budget = accepted(announcement(tpm=600, tpm_left=600), burst=60)
    first = budget.reserve(10, now())
    second = budget.reserve(300, now())
    budget.refund(second, request=False)
    before = window_level(budget)
    budget.observe(announcement(tpm=600, tpm_left=before + 2), first, now())
    assert window_level(budget) == pytest.approx(before)


@virtual
async def test_what_was_refunded_of_an_earlier_attempt_is_not_added_to_remaining():
    """The server never counted the refused attempt, and says so."""
    budget = accepted(announcement(tpm=60_000, tpm_left=60_000))
    budget.reserve(40_000, now())
    refused = budget.reserve(10_000, now())
    pass_time(5)
    accepted_one = budget.reserve(10, now())
    budget.refund(refused, request=False)
    before = window_level(budget)
    budget.observe(announcement(tpm=60_000, tpm_left=before + 150), accepted_one, now())
    assert window_level(budget) == pytest.approx(before)


@virtual
async def test_a_refund_gives_nothing_to_a_window_that_came_later():
    """A thousand tokens are left, and none of those that were refused had been taken from them."""
    budget = Budget()
    reservations = [budget.reserve(500, now()) for _ in range(3)]
    told = Announcement((Window(60, 60, 0),), (Window(60_000, 60, 1000),))
    for reservation in reservations:
        budget.refused(refusal("requests", 1.0), told, reservation, now(), jitter=0.0)
    assert 0 < window_level(budget) <= 1000 - 150


@virtual
async def test_what_is_left_after_a_refusal_is_without_the_tokens_that_were_refused():
    """The server says so, and did not take them."""
    budget = accepted(announcement(rpm=60, rpm_left=60, tpm=60_000, tpm_left=60_000))
    budget.reserve(30_000, now())
    pass_time(5)
    before = window_level(budget)
    headers = announcement(rpm=60, rpm_left=0, tpm=60_000, tpm_left=before + 150)
    refuse(budget, refusal("requests", 1.0), tokens=5000, headers=headers)
    assert window_level(budget) == pytest.approx(before)


@virtual
async def test_an_announcement_that_was_overtaken_does_not_bring_back_an_older_limit():
    budget = Budget()
    first = budget.reserve(1, now())
    pass_time(1)
    second = budget.reserve(1, now())
    budget.observe(announcement(rpm=1200), second, now())
    budget.observe(announcement(rpm=600), first, now())
    assert budget.request_rate == 20


@pytest.mark.parametrize(("limit", "level"), [(300, 298), (1200, 398)])
@virtual
async def test_an_announced_limit_that_changes_keeps_the_level_as_far_as_it_fits(limit, level):
    budget = Budget()
    budget.observe(announcement(tpm=600, tpm_left=400), None, now())
    budget.observe(announcement(tpm=limit), budget.reserve(0, now()), now())
    assert (window_level(budget), budget.token_rate) == (level, limit / 60)


@virtual
async def test_of_two_announced_windows_the_slower_sets_the_pace_and_both_hold():
    budget = Budget()
    first = budget.reserve(0, now())
    told = Announcement((Window(600, 60.0, 599), Window(20, 10.0, 19)), ())  # 10 a second, and 2
    for _ in range(2):
        budget.observe(told, first, now())
    budget.succeeded(first, now())
    assert budget.request_rate == 2
    assert busy(budget, 60, lambda left: NOTHING) == pytest.approx(20 - 3 + 120, abs=2)


@virtual
async def test_a_ceiling_is_kept_by_calls_larger_than_its_burst_too():
    """The server would let ten times as many pass."""
    budget = Budget(Limits(tpm=60_000))
    left = busy(budget, 120, lambda left: announcement(tpm=600_000, tpm_left=590_000), tokens=8500)
    assert left * 8500 <= 2 * 60_000 + 2 * 8500


@virtual
async def test_a_first_call_larger_than_the_burst_does_not_hold_up_the_next_where_the_server_shows_room():
    budget = Budget(Limits(tpm=60_000))
    first = budget.reserve(5000, now())
    budget.observe(announcement(tpm=60_000, tpm_left=55_000), first, now())
    budget.succeeded(first, now())
    assert budget.delay(100, now()) <= 1


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [NOTHING, announcement(tpm=600, tpm_left=598)], ids=["configured", "announced"])
@virtual
async def test_a_refused_attempt_may_go_again_exactly_at_retry_after(told):
    budget = accepted(told, tpm=600, burst=60)
    refuse(budget, refusal("tokens", 12.0), tokens=50)
    assert budget.delay(50, now()) == pytest.approx(12)
    pass_time(12)
    assert budget.delay(50, now()) == 0
    budget.reserve(50, now())
    assert budget.delay(50, now()) == pytest.approx(5)  # at the rate again, not as a herd


@pytest.mark.parametrize("told", [NOTHING, announcement(tpm=600, tpm_left=598)], ids=["configured", "announced"])
@virtual
async def test_a_refusal_for_tokens_does_not_pause_small_attempts(told):
    budget = accepted(told, tpm=600, burst=60)
    refuse(budget, refusal("tokens", 2.0), tokens=50)
    assert budget.paused_until == -math.inf
    assert budget.delay(50, now()) == pytest.approx(2)
    assert budget.delay(30, now()) == 0


@pytest.mark.parametrize("limits", [{}, {"rpm": 60}, {"tpm": 60_000}], ids=str)
@virtual
async def test_a_refusal_for_tokens_is_waited_out_whatever_is_known(limits):
    budget = accepted(**limits)
    refuse(budget, refusal("tokens", 2.0), tokens=50)
    assert budget.delay(50, now()) == pytest.approx(2)


@virtual
async def test_a_refusal_for_the_tokens_of_a_day_nobody_told_of_is_waited_out():
    budget = accepted(tpm=60_000)
    refuse(budget, refusal("tokens", 300.0, period=DAY), tokens=50)
    assert budget.delay(50, now()) == 300


@virtual
async def test_a_refusal_for_requests_empties_the_requests_only():
    budget = accepted(announcement(rpm=60, rpm_left=60, tpm=600, tpm_left=600), burst=60)
    before = window_level(budget), pacer_level(budget)
    refuse(budget, refusal("requests"), tokens=50)
    assert window_level(budget, "requests") == 0
    assert (window_level(budget), pacer_level(budget)) == before


@pytest.mark.parametrize(
    ("headers", "emptied"),
    [
        (announcement(rpm=60, rpm_left=0, tpm=600, tpm_left=590), "requests"),
        (announcement(rpm=60, rpm_left=59, tpm=600, tpm_left=0), "tokens"),
    ],
)
@virtual
async def test_a_refusal_that_names_nothing_is_for_what_the_headers_show_empty(headers, emptied):
    budget = accepted(announcement(rpm=60, rpm_left=60, tpm=600, tpm_left=600), burst=60)
    refuse(budget, refusal(), tokens=50, headers=headers)
    levels = {dimension: window_level(budget, dimension) for dimension in BOTH}
    other = next(dimension for dimension in BOTH if dimension != emptied)
    assert levels[emptied] <= 0 < levels[other]
    assert not budget.learning


@virtual
async def test_a_refusal_of_the_day_is_for_the_bucket_of_the_day():
    budget = accepted(announcement(rpm=60, rpm_left=60), rpd=100, burst=60)
    before = window_level(budget, "requests")
    refuse(budget, refusal("requests", period=DAY))
    assert window_level(budget, "requests") == before - 1
    assert window_level(budget, "requests", DAY) == 0


@virtual
async def test_numbers_in_the_text_are_as_good_as_headers():
    """OpenAI: Limit 30000, Used 29937, Requested 385, try again in 644 ms."""
    budget = accepted()
    told = refusal("tokens", 0.644)
    told = type(told)("rate", "tokens", 0.644, 60.0, limit=30_000, used=29_937, requested=385)
    refuse(budget, told, tokens=385)
    assert (budget.token_rate, budget.learning) == (500, False)
    assert budget.delay(385, now()) == pytest.approx(0.644, abs=0.3)  # the reserve on top
    assert budget.delay(385, now()) >= 0.643


@virtual
async def test_a_refusal_never_raises_a_level():
    budget = accepted(announcement(tpm=600, tpm_left=600), burst=60)
    budget.reserve(1000, now())
    before = window_level(budget), pacer_level(budget)
    refuse(budget, refusal("tokens", 1.0), tokens=50)
    assert (window_level(budget), pacer_level(budget)) == before


@virtual
async def test_a_refusal_although_the_headers_show_room_shrinks_the_burst_and_not_the_level():
    """Somebody enforces a shorter window than is announced."""
    budget = accepted(announcement(rpm=6000, rpm_left=6000), burst=None)
    before = window_level(budget, "requests")
    refuse(budget, refusal("requests"), headers=announcement(rpm=6000, rpm_left=5900))
    assert window_level(budget, "requests") >= before - 200
    pass_time(10)
    assert pacer_level(budget, "requests") == pytest.approx(100 * BURST / 2)


@virtual
async def test_one_event_however_many_refusals():
    budget = Budget()
    together = [budget.reserve(1, now()) for _ in range(16)]
    pass_time(1)
    events = [budget.refused(refusal(None, None), NOTHING, one, now(), jitter=0.0) for one in together]
    assert events == [True] + 15 * [False]
    rate = budget.request_rate
    assert refuse(budget, refusal(None, None))  # it left after the event
    assert budget.request_rate < rate


# --- pauses ---------------------------------------------------------------------------------------


@virtual
async def test_a_pause_only_extends():
    budget = Budget()
    for wait, delay in ((10.0, 10), (5.0, 9), (20.0, 20)):
        refuse(budget, refusal(None, wait, kind="overload"))
        assert budget.delay(1, now()) == delay
        pass_time(1)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@virtual
async def test_a_pause_the_server_asks_for_is_stretched_and_never_shortened(jitter):
    budget = Budget()
    refuse(budget, refusal(None, 10.0), jitter=jitter)
    assert 10 <= budget.paused_until == 10 * (1 + PAUSE_JITTER * jitter) < 11


@pytest.mark.parametrize(("kind", "longest"), [("rate", LONGEST_PAUSE), ("overload", LONGEST_OVERLOAD_PAUSE)])
@virtual
async def test_events_in_a_row_without_retry_after_pause_ever_longer_up_to_the_longest(kind, longest):
    budget, pauses = Budget(), []
    for _ in range(20):
        refuse(budget, refusal(kind=kind))
        pauses.append(max(0.0, budget.paused_until - now()))
        pass_time(1000)
    began = next(number for number, pause in enumerate(pauses) if pause)
    assert 1 <= began <= 5  # the first are answered by fewer attempts or a slower pace
    assert pauses[began] == FIRST_PAUSE / 2  # no jitter: half of it
    for before, after in itertools.pairwise(pauses[began:]):
        assert after == min(2 * before, longest / 2)
    assert pauses[-1] == longest / 2


@virtual
async def test_overload_leaves_levels_and_rates_alone():
    budget = accepted(announcement(rpm=60, rpm_left=60), burst=60)
    before = window_level(budget, "requests"), pacer_level(budget, "requests")
    for _ in range(5):
        refuse(budget, refusal(kind="overload"))
    assert (window_level(budget, "requests"), pacer_level(budget, "requests")) == (before[0] - 5, before[1] - 5)
    assert not budget.learning


@virtual
async def test_echoes_of_an_event_do_not_lengthen_the_pause():
    budget = Budget()
    for _ in range(3):
        refuse(budget, refusal(kind="overload"))
    echoes = [budget.reserve(1, now()) for _ in range(20)]
    refuse(budget, refusal(kind="overload"))
    until = budget.paused_until
    for echo in echoes:
        budget.refused(refusal(kind="overload"), NOTHING, echo, now(), jitter=0.0)
    assert budget.paused_until == until


@virtual
@pytest.mark.parametrize(
    ("refused", "after_old"),
    [
        (refusal(kind="rate"), 0.5),  # of one second at most, as another was accepted just now
        (replace(refusal(kind="overload"), slow_down=True), 0.5),
        (refusal(kind="overload"), 0.0),  # there is room again
    ],
    ids=["rate", "slow down", "overload"],
)
async def test_a_success_ends_the_doubling_and_one_that_left_before_the_event_only_where_room_lacked(
    refused, after_old
):
    budget, pauses = Budget(), []
    for _ in range(4):
        old = budget.reserve(1, now())
        refuse(budget, refused)
        pass_time(100)
    for one in (old, None):
        budget.succeeded(one or budget.reserve(1, now()), now())
        refuse(budget, refused)
        pauses.append(max(0.0, budget.paused_until - now()))
        pass_time(100)
    assert pauses == [after_old, 0]


# --- another loop ---------------------------------------------------------------------------------


def test_on_another_loop_debts_and_limits_stay_and_pauses_are_forgotten():
    budget = Budget(Limits(tpm=600))

    async def first():
        pass_time(1000)
        budget.observe(announcement(rpm=60), None, now())
        budget.reserve(108.5, now())
        refuse(budget, refusal(None, 500.0, kind="overload"), tokens=0)

    async def second():
        budget.rebind(same_clock=False)
        assert budget.delay(0, now()) == 10
        budget.observe(announcement(rpm=120), None, now())  # not older than what the first loop was told at 1000
        assert budget.request_rate == 2

    virtual_run(first())
    virtual_run(second())


# --- promises -------------------------------------------------------------------------------------


class Walk:
    """Any mix of attempts, answers and time, by one seed."""

    STEPS = ("sleep", "send", "send", "send", "succeed", "succeed", "refuse", "unsent", "fail", "tell")

    def __init__(self, seed):
        self.random = Random(seed)
        pick = self.pick = self.random.choice
        self.limits = pick(
            [{}, {"rpm": 60, "tpm": 600}, {"rpm": 3}, {"tpm": 600, "burst": 60}, {"rpd": 100, "tpd": 9e3}]
        )
        self.budget = Budget(Limits(**self.limits))
        self.open = []
        self.kept = {"requests": 0.0, "tokens": 0.0}

    def step(self):
        step = self.pick(self.STEPS)
        if step == "sleep":
            pass_time(self.pick([0.01, 0.3, 5.0, 100.0]))
        elif step == "send":
            self.open.append(self.budget.reserve(self.pick([0, 1, 30, 300, 5000]), now()))
        elif step == "tell":
            self.budget.observe(self.told(), None, now())
        elif self.open:
            self.end(step, self.open.pop(self.random.randrange(len(self.open))))

    def end(self, step, reservation):
        budget = self.budget
        self.kept["requests"] += step != "unsent"
        self.kept["tokens"] += reservation.tokens if step in ("succeed", "fail") else 0
        if step == "unsent":
            budget.refund(reservation, request=True)
        elif step == "succeed":
            budget.observe(self.told(), reservation, now())
            budget.succeeded(reservation, now())
        elif step == "fail":
            pass
        else:
            told = refusal(self.pick([None, *BOTH]), self.pick([None, 0.2, 30.0]), kind=self.pick(["rate", "overload"]))
            budget.refused(told, self.told(), reservation, now(), jitter=self.random.random())

    def told(self):
        rpm, tpm, period = self.pick([None, 3, 60]), self.pick([None, 600, 60_000]), self.pick([60.0, 60.0, DAY])
        left = self.random.random()
        return announcement(
            rpm=rpm, rpm_left=rpm and int(rpm * left), tpm=tpm, tpm_left=tpm and int(tpm * left), period=period
        )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_whatever_happens_levels_fit_their_buckets_rates_their_ceilings_and_the_delay_is_finite(seed):
    async def run():
        walk = Walk(seed)
        budget = walk.budget
        for _ in range(60):
            walk.step()
            for one in budget.windows.values():
                assert one.level <= one.limit - one.reserve + 1e-6
                assert 0 < one.reserve <= one.limit / 4
            for dimension, ceiling in (("requests", walk.limits.get("rpm")), ("tokens", walk.limits.get("tpm"))):
                rate = budget.pacers[dimension].rate
                assert ceiling is None or 0 < rate <= ceiling / 60 * (1 + 1e-9)
            assert 0 <= budget.delay(100, now()) < math.inf
            assert all(window.limit > 0 and math.isfinite(window.limit) for window in budget.stats())

    virtual_run(run())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_over_any_mix_of_endings_what_is_reserved_is_used_or_refunded(seed):
    async def run():
        walk = Walk(seed)
        for _ in range(60):
            walk.step()
        walk.kept["requests"] += len(walk.open)
        walk.kept["tokens"] += sum(one.tokens for one in walk.open)
        assert walk.budget._spent == walk.kept

    virtual_run(run())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.02, 1.0, 30.0]), st.integers(0, 200)), min_size=1, max_size=50),
    st.sampled_from([{"rpm": 60, "tpm": 600}, {"rpm": 3, "tpm": 600, "burst": 60}, {"rpd": 20, "tpd": 900}]),
)
def test_without_corrections_no_window_has_more_than_its_burst_and_its_refill(attempts, limits):
    async def run():
        budget, left = accepted(**limits), []
        for pause, tokens in attempts:
            pass_time(pause)
            pass_time(budget.delay(tokens, now()))
            budget.reserve(tokens, now())
            left.append((now(), tokens))
        return left

    left = virtual_run(run())
    seconds = limits.get("burst", BURST)
    bounds = [("rpm", 60.0, lambda tokens: 1), ("tpm", 60.0, lambda tokens: tokens)]
    bounds += [("rpd", DAY, lambda tokens: 1), ("tpd", DAY, lambda tokens: tokens)]
    for name, period, amount in bounds:
        if name not in limits:
            continue
        rate = limits[name] / period
        capacity = limits[name] if period == DAY else max(1.0, seconds * rate)
        for first, (start, _) in enumerate(left):
            spent = oversize = 0.0
            for at, tokens in left[first:]:
                spent += amount(tokens)
                oversize = max(oversize, amount(tokens) - capacity)
                assert spent <= capacity + rate * (at - start) + oversize + 1e-2
