"""A budget adopts announced limits, and corrects its levels by the announced remainder."""

import math
from random import Random

import pytest

from budgets import accepted, refuse, window_level
from support import NOTHING, Limits, announcement, now, pass_time, refusal, virtual
from throttled_openai._admission.figures import windows_of
from throttled_openai._control.budget import Budget
from throttled_openai._protocol.durations import DAY
from throttled_openai._protocol.headers import Announcement, Window


@virtual
async def test_announced_limits_are_adopted_where_none_are_configured():
    budget = Budget()
    assert budget.delay(1e9, now()) == 0
    budget.observe(announcement(rpm=600, tpm=6000), None, now())
    assert budget.largest_announced == math.inf  # which may be a mistake
    budget.observe(announcement(rpm=600, tpm=6000), None, now())
    assert (budget.request_rate, budget.token_rate, budget.largest_announced) == (10, 100, 6000)
    assert [(window.limit, window.announced) for window in windows_of(budget, now())] == [(600, True), (6000, True)]


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
async def test_no_more_is_sent_than_others_have_left_of_a_day():
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
