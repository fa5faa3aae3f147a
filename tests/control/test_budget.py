"""The budget: pacers, server windows and pauses, moved by attempts, announcements and refusals."""

import itertools
import math
from dataclasses import replace

import pytest

from budgets import BOTH, accepted, refuse, window_level
from support import NOTHING, Limits, announcement, now, pass_time, refusal, virtual, virtual_run
from throttled_openai._control.backoff import FIRST_PAUSE, LONGEST_OVERLOAD_PAUSE, LONGEST_PAUSE, PAUSE_JITTER
from throttled_openai._control.budget import Budget
from throttled_openai._limits import BURST
from throttled_openai._protocol.durations import DAY


def pacer_level(budget, dimension="tokens"):
    return budget.pacers[dimension].level


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
async def test_a_refusal_for_an_unannounced_daily_token_limit_is_waited_out():
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
    """The server enforces a shorter window than it announces."""
    budget = accepted(announcement(rpm=6000, rpm_left=6000), burst=None)
    before = window_level(budget, "requests")
    refuse(budget, refusal("requests"), headers=announcement(rpm=6000, rpm_left=5900))
    assert window_level(budget, "requests") >= before - 200
    pass_time(10)
    assert pacer_level(budget, "requests") == pytest.approx(100 * BURST / 2)


@virtual
async def test_refusals_of_attempts_sent_before_an_event_belong_to_it():
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
        budget.observe(announcement(rpm=120), None, now())  # not older than the announcement at 1000 on the first loop
        assert budget.request_rate == 2

    virtual_run(first())
    virtual_run(second())
