"""The queue before the budgets: who goes when, and what is given back. Time is virtual and exact."""

import asyncio
import collections
import contextlib
import itertools
import logging
import time
from random import Random

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import (
    Call,
    Limits,
    Outcome,
    QueueOptions,
    admit,
    announcement,
    answer,
    call,
    gather,
    now,
    proven,
    refusal,
    refuse,
    start,
    throttle,
    ticks,
    timers,
    virtual,
    virtual_run,
)
from throttled_openai import (
    AccountBlocked,
    AdmissionError,
    AdmissionTimeout,
    QueueFull,
    RequestTooLarge,
    ThrottledAsyncOpenAI,
)
from throttled_openai._admission import limiter as module
from throttled_openai._control.budget import Budget
from throttled_openai._protocol.refusals import Refusal
from throttled_openai._protocol.usage import Usage
from throttled_openai.simulator import Simulator, VirtualTimeLoop


def lane(t, model="m"):
    return t._dispatcher.limiters.find(model)


# --- pace -----------------------------------------------------------------------------------------


@virtual
async def test_calls_go_at_the_pace_of_the_limit_of_requests():
    t = throttle(rpm=60)
    assert await gather(*(call(t, seconds=0.25) for _ in range(200))) == list(range(200))


@virtual
async def test_calls_go_at_the_pace_of_the_limit_of_tokens():
    t = throttle(tpm=600)  # 10 tokens a second
    # Each is larger than 0.85 s of the limit: it goes when the bucket is full, and leaves it in debt.
    assert await gather(*(call(t, 20) for _ in range(50))) == [2.0 * i for i in range(50)]


@virtual
async def test_calls_go_at_the_pace_of_the_tighter_limit():
    t = throttle(rpm=60, tpm=600)
    assert await gather(*(call(t, 5) for _ in range(50))) == list(range(50))
    t = throttle(rpm=60, tpm=600)
    assert await gather(*(call(t, 40) for _ in range(5))) == [now() + 4 * i for i in range(-4, 1)]


@virtual
async def test_the_burst_leaves_at_once_and_the_rest_at_the_pace():
    t = await proven(Limits(rpm=60, burst=10))
    assert await gather(*(call(t) for _ in range(13))) == 10 * [100] + [101, 102, 103]


@virtual
async def test_no_call_waits_where_no_limit_is_known_up_to_the_concurrency_limit():
    t = await proven()
    assert await gather(*(call(t, 10**6, seconds=1) for _ in range(17))) == 16 * [100] + [101]


@virtual
async def test_while_a_call_waits_for_tokens_nothing_is_taken_from_the_requests():
    t = await proven(Limits(rpm=60, tpm=600, burst=10))
    await call(t, 100)
    waiting = start(call(t, 50))
    await asyncio.sleep(4)
    assert [lane(t).budget.pacers[dimension].level for dimension in ("requests", "tokens")] == [10, 40]
    assert await waiting == 105
    assert lane(t).budget.pacers["requests"].level == 9


# --- order ----------------------------------------------------------------------------------------


@virtual
async def test_calls_go_in_the_order_of_their_arrival():
    t, order = throttle(rpm=6000), []

    async def one(number):
        await call(t, number % 7, seconds=number % 3)
        order.append((number, now() - number % 3))

    await gather(*(one(number) for number in range(100)))
    admitted = [at for _, at in sorted(order)]
    assert admitted == pytest.approx(sorted(admitted), abs=1e-9)


@virtual
async def test_higher_priority_goes_first_and_equals_go_by_arrival():
    t = throttle(rpm=60)
    await call(t)
    tasks = [start(call(t, priority=priority)) for priority in (0, -1, 0, 7, 7)]
    assert await gather(*tasks) == [3, 5, 4, 1, 2]


@virtual
async def test_an_urgent_small_call_goes_at_once_while_a_large_one_saves_up():
    t = await proven(Limits(tpm=600, burst=10))
    await call(t, 50)
    large = start(call(t, 100))
    await ticks()
    assert await call(t, 10, priority=1) == 100
    assert await large == 106


@virtual
async def test_a_refused_call_keeps_its_place():
    t = throttle(rpm=60)
    refused = Call("m", 1, QueueOptions())
    permit = await t._dispatcher.admit(refused)
    later = [start(call(t)) for _ in range(3)]
    await ticks()
    permit.settle(Outcome.REFUSED, refusal("requests", 2.0))
    again = await t._dispatcher.admit(refused)
    assert again.admitted_at == 2
    again.settle(Outcome.SUCCESS)
    assert await gather(*later) == [3, 4, 5]


# --- budgets --------------------------------------------------------------------------------------


@virtual
async def test_each_model_has_the_shortcut_limits_for_itself():
    t = throttle(rpm=60)
    assert await gather(*(call(t, model=model) for model in "abab")) == [0, 0, 1, 1]
    assert len(t.stats().budgets) == 2


@virtual
async def test_one_limits_object_is_one_budget_for_all_models():
    t = throttle(Limits(rpm=60))
    assert await gather(*(call(t, model=model) for model in "abab")) == [0, 1, 2, 3]
    assert [budget.name for budget in t.stats().budgets] == ["all models"]


@virtual
async def test_models_that_are_given_one_limits_object_draw_on_it_together():
    shared = Limits(rpm=60)
    t = throttle({"a": shared, "b": shared, "c": Limits(rpm=60)})
    assert await gather(*(call(t, model=model) for model in "abc")) == [0, 1, 0]
    assert [budget.name for budget in t.stats().budgets] == ["a, b", "c"]


@virtual
async def test_a_snapshot_draws_on_the_budget_of_its_family():
    t = throttle({"gpt-4o": Limits(rpm=60)})
    models = ["gpt-4o-2024-08-06", "gpt-4o", "ft:gpt-4o-2024-08-06:org::id"]
    assert await gather(*(call(t, model=model) for model in models)) == [0, 1, 2]


# --- concurrency ----------------------------------------------------------------------------------


@virtual
async def test_no_more_calls_are_in_flight_than_the_ceiling_over_all_models():
    t, most = throttle(max_concurrency=3), 0

    async def one(model):
        nonlocal most
        permit = await admit(t, model=model)
        most = max(most, t.in_flight)
        await asyncio.sleep(1)
        permit.settle(Outcome.SUCCESS)

    await gather(*(one(model) for model in "abcd" * 10))
    assert most == 3
    assert now() == 14  # 40 calls, 3 at a time


@virtual
async def test_under_the_ceiling_no_model_starves_another():
    t = throttle(max_concurrency=2)
    await gather(*(call(t, model=model) for model in ("busy", "late")))
    busy = [start(call(t, seconds=1, model="busy")) for _ in range(20)]
    await ticks()
    assert await call(t, seconds=1, model="late") == 10  # after the 20 that came before it
    more = [start(call(t, seconds=1, model=model)) for model in ("busy", "late") * 4]
    assert sorted(await gather(*more)) == sorted(at for at in await gather(*more))
    await gather(*busy)


@virtual
async def test_under_the_ceiling_models_go_in_the_order_of_arrival():
    t = throttle(max_concurrency=1)
    models = ["a", "a", "b", "a", "c", "b"]
    assert await gather(*(call(t, seconds=1, model=model) for model in models)) == [0, 1, 2, 3, 4, 5]


@virtual
async def test_under_the_ceiling_every_tenth_is_the_one_that_has_waited_longest_whatever_its_model():
    t = throttle(max_concurrency=1)
    await gather(*(call(t, model=model) for model in ("urgent", "patient")))
    began, first = now(), start(call(t, seconds=1, model="urgent"))
    await ticks()
    patient = [start(call(t, seconds=1, model="patient")) for _ in range(3)]
    await ticks()
    urgent = [start(call(t, seconds=1, model="urgent", priority=5)) for _ in range(40)]
    assert [at - began for at in await gather(*patient)] == [10, 20, 30]
    await gather(first, *urgent)


@virtual
async def test_a_model_that_waits_for_its_budget_leaves_the_ceiling_to_the_others():
    t = throttle({"slow": Limits(rpm=1)}, max_concurrency=1)
    await call(t, model="slow")
    slow = start(call(t, model="slow"))
    await ticks()
    assert await gather(*(call(t, seconds=1, model="fast") for _ in range(5))) == [0, 1, 2, 3, 4]
    assert await slow == pytest.approx(60)


@virtual
async def test_ten_refusals_of_one_overload_halve_the_limit_once():
    t = throttle()
    permits = [await admit(t) for _ in range(10)]
    await asyncio.sleep(1)
    for permit in permits:
        permit.settle(Outcome.REFUSED, refusal(kind="overload"))
    assert t.stats().budgets[0].concurrency_limit == 8  # of 16, though all ten were refused


@pytest.mark.parametrize("kind", ["too_large", "billing"])
@virtual
async def test_a_final_refusal_says_nothing_about_the_pace(kind):
    t = throttle(tpm=600_000)
    permits = [await admit(t, 10) for _ in range(10)]
    limit = t.stats().budgets[0].concurrency_limit
    for permit in permits:
        refuse(permit, refusal(kind=kind, retry_after=1000.0))
    assert t.stats().budgets[0].concurrency_limit == limit
    assert lane(t).budget.token_rate == 10_000
    await asyncio.sleep(10)
    assert await call(t) == now()


# --- refusals and announcements -------------------------------------------------------------------


@virtual
async def test_a_refusal_pauses_all_who_wait_and_they_reopen_at_the_pace():
    t = await proven(Limits(rpm=60, burst=10))
    permit = await admit(t)
    tasks = [start(call(t)) for _ in range(12)]
    await ticks()
    assert t.waiting == 3
    permit.settle(Outcome.REFUSED, refusal("requests", 5.0))
    assert (await gather(*tasks))[-3:] == [105, 106, 107]


@virtual
async def test_a_refusal_that_names_a_limit_admits_nobody_before_its_pause():
    t = throttle()
    permits = [await admit(t) for _ in range(16)]
    waiting = [start(call(t)) for _ in range(100)]
    await asyncio.sleep(0.5)  # after a second of silence more would be in flight
    permits[0].settle(Outcome.REFUSED, Refusal("rate", "requests", 10.0, period=60.0, limit=60_000.0))
    assert t.in_flight == 15
    for permit in permits[1:]:
        permit.settle(Outcome.IGNORED)
    assert min(await gather(*waiting)) >= 10.5


@virtual
async def test_announced_limits_set_the_pace():
    t = throttle()
    permit = await admit(t)
    for _ in range(2):  # announced once, it would be doubtful
        permit.observe(announcement(rpm=60, rpm_left=0))
    permit.settle(Outcome.SUCCESS)
    reserve = 1.2  # 2 % of the limit
    assert await gather(*(call(t) for _ in range(5))) == pytest.approx([reserve + n for n in range(1, 6)])


@virtual
async def test_a_higher_announced_limit_lets_go_at_once_who_waits_for_the_lower_one():
    t = throttle()
    permit = await admit(t)
    permit.observe(announcement(rpm=1, rpm_left=0))
    waiting = start(call(t))
    await asyncio.sleep(1)
    permit.observe(announcement(rpm=60_000))
    permit.started()
    assert await waiting == pytest.approx(1, abs=0.01)
    permit.settle(Outcome.SUCCESS)


@virtual
async def test_a_call_that_cannot_fit_the_announced_limit_fails_at_once_with_the_numbers():
    t = throttle()
    permit = await admit(t)
    for _ in range(2):  # announced once, it would be doubtful
        permit.observe(announcement(tpm=10_000))
    permit.settle(Outcome.SUCCESS)
    with pytest.raises(RequestTooLarge, match=r"estimated at 15001 tokens but m admits at most 10000") as failed:
        await admit(t, 15_001)
    assert (failed.value.tokens, failed.value.limit) == (15_001, 10_000)
    assert t.waiting == t.in_flight == 0
    await call(t, 15_000)  # estimates are within 30 %: the server shall say


@virtual
async def test_a_call_larger_than_a_configured_limit_is_sent():
    t = throttle(tpm=600)
    assert await call(t, 100_000) == 0


# --- bounds ---------------------------------------------------------------------------------------


@virtual
async def test_a_call_that_is_not_admitted_within_its_max_wait_fails_then_and_says_why():
    t = throttle(rpm=60)
    await call(t)
    ahead = [start(call(t)) for _ in range(5)]
    await ticks()
    with pytest.raises(AdmissionTimeout) as failed:
        await admit(t, max_wait=2.5)
    assert now() == 2.5
    assert (failed.value.max_wait, failed.value.waited, failed.value.ahead) == (2.5, 2.5, 3)
    assert str(failed.value) == (
        "not admitted within max_wait=2.5 s: 3 calls ahead, m has budget for this one alone in 0.5 s; "
        "raise max_wait or send less"
    )
    assert isinstance(failed.value, (openai.APITimeoutError, AdmissionError))
    assert await gather(*ahead) == [1, 2, 3, 4, 5]


@virtual
async def test_a_call_that_gives_up_at_the_head_makes_room_for_the_next():
    t = await proven(Limits(tpm=600, burst=10))
    await call(t, 100)
    large, small = start(call(t, 90, max_wait=3)), start(call(t, 10))
    with pytest.raises(AdmissionTimeout, match="0 calls ahead"):
        await large
    assert await small == 102  # on the half that is not saved for the large one
    large, as_large = start(call(t, 90, max_wait=3)), start(call(t, 80))
    with pytest.raises(AdmissionTimeout):
        await large
    assert await as_large == 109


@virtual
async def test_max_wait_counts_the_waiting_of_all_attempts_and_not_the_time_in_flight():
    t = throttle(rpm=60)
    await call(t)
    refused = Call("m", 1, QueueOptions(max_wait=4.0))
    permit = await t._dispatcher.admit(refused)  # waited for 1 s
    await asyncio.sleep(50)
    permit.settle(Outcome.REFUSED, refusal("requests", 100.0))
    with pytest.raises(AdmissionTimeout) as failed:
        await t._dispatcher.admit(refused)
    assert now() == 1 + 50 + 3
    assert failed.value.waited == 4


@virtual
async def test_a_call_refused_in_the_instant_of_its_admission_waits_again_for_the_same_deadline():
    t = throttle(rpm=60)
    await call(t)
    others = [start(call(t, max_wait=3.0)) for _ in range(2)]
    await asyncio.sleep(0)
    refused = Call("m", 1, QueueOptions(max_wait=8.0))
    permit = await t._dispatcher.admit(refused)
    assert permit.admitted_at == 3
    permit.settle(Outcome.REFUSED, refusal("requests", 1.0))
    permit = await t._dispatcher.admit(refused)  # its deadline is again 8.0
    assert permit.admitted_at == 4
    permit.settle(Outcome.REFUSED, refusal("requests", 100.0))
    with pytest.raises(AdmissionTimeout):
        await t._dispatcher.admit(refused)
    assert now() == 8
    assert await gather(*others) == [1, 2]


@virtual
async def test_a_timeout_tells_the_real_place_in_line_though_those_ahead_time_out_as_well():
    t = throttle(rpm=60)
    await call(t)
    ended = await asyncio.gather(*(call(t, max_wait=2.5) for _ in range(200)), return_exceptions=True)
    assert ended[:2] == [1, 2]
    assert [error.ahead for error in ended[2:]] == list(range(198))


@virtual
async def test_a_timeout_counts_those_of_higher_priority_as_ahead():
    t = throttle(rpm=60)
    await call(t)
    others = [start(call(t, priority=1)) for _ in range(5)] + [start(call(t)) for _ in range(3)]
    await ticks()
    with pytest.raises(AdmissionTimeout) as low:
        await call(t, max_wait=2.5)
    assert low.value.ahead == 6
    await gather(*others)


@virtual
async def test_the_reason_of_a_timeout_names_the_calls_in_flight():
    t = throttle(max_concurrency=1)
    permit = await admit(t)
    with pytest.raises(AdmissionTimeout, match=r"0 calls ahead, m has 1 calls in flight of 1; "):
        await admit(t, max_wait=1)
    permit.settle(Outcome.SUCCESS)


@virtual
async def test_the_reason_of_a_timeout_is_not_another_models_place_under_the_ceiling():
    t = throttle(max_concurrency=1)
    permit = await admit(t, model="a")
    with pytest.raises(AdmissionTimeout) as failed:
        await admit(t, model="b", max_wait=1)
    assert "b has 0 calls in flight" not in str(failed.value)
    permit.settle(Outcome.SUCCESS)


@virtual
async def test_a_call_that_finds_the_queue_full_fails_at_once_and_says_when_to_come_back():
    t = throttle(rpm=60)
    await call(t)
    waiting = [start(call(t)) for _ in range(2)]
    await asyncio.sleep(0.25)
    with pytest.raises(QueueFull) as failed:
        await admit(t, max_queued=2)
    assert now() == 0.25
    assert (failed.value.max_queued, failed.value.waiting, failed.value.retry_after) == (2, 2, 1.75)
    assert str(failed.value).startswith("2 calls are waiting and max_queued=2; try again in 1.8 s")
    assert await call(t, max_queued=3) == 3
    await gather(*waiting)


@virtual
async def test_a_refused_call_comes_back_into_a_full_queue():
    t = throttle(rpm=60)
    refused = Call("m", 1, QueueOptions(max_queued=1))
    permit = await t._dispatcher.admit(refused)
    waiting = start(call(t))
    await ticks()
    permit.settle(Outcome.REFUSED, refusal("requests", 1.0))
    again = await t._dispatcher.admit(refused)
    assert again.admitted_at == 1
    again.settle(Outcome.SUCCESS)
    assert await waiting == 2


# --- cancellation ---------------------------------------------------------------------------------


@virtual
async def test_a_call_cancelled_in_the_queue_leaves_no_trace():
    t = throttle(rpm=60)
    await call(t)
    tasks = [start(call(t)) for _ in range(3)]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    assert await tasks[0] == 1
    assert await tasks[2] == 2
    assert tasks[1].cancelled()
    assert t.stats().admitted == 3


@virtual
async def test_after_the_only_waiting_call_was_cancelled_the_next_one_is_admitted():
    t = throttle(rpm=60)
    await call(t)
    cancelled = start(call(t))
    await asyncio.sleep(0.25)
    cancelled.cancel()
    await asyncio.sleep(0.25)
    assert await call(t) == 1


@virtual
async def test_a_call_that_arrives_in_the_tick_the_only_waiting_one_is_cancelled_is_admitted():
    t = throttle(rpm=60)
    await call(t)
    cancelled = start(call(t))
    await ticks()
    cancelled.cancel()
    assert await call(t) == 1


@virtual
async def test_a_call_cancelled_in_the_very_tick_of_its_admission_gives_everything_back():
    t = throttle(Limits(rpm=60, tpm=600), max_concurrency=1)
    permit = await admit(t, 1)
    cancelled = start(call(t, 5))
    await asyncio.sleep(20)
    permit.settle(Outcome.SUCCESS)  # admits the one that waits
    assert (t.waiting, t.in_flight) == (0, 1)
    cancelled.cancel()
    await ticks()
    assert cancelled.cancelled()
    assert (t.waiting, t.in_flight) == (0, 0)
    assert [window.spendable for window in t.stats().budgets[0].windows] == [1, 8.5]
    assert await call(t, 8) == 20


@virtual
async def test_a_call_cancelled_in_the_tick_of_its_admission_hands_over_to_the_next():
    t = throttle(max_concurrency=1)
    permit = await admit(t)
    tasks = [start(call(t, seconds=1)) for _ in range(2)]
    await asyncio.sleep(20)
    permit.settle(Outcome.SUCCESS)
    tasks[0].cancel()
    assert await tasks[1] == 20


@virtual
async def test_a_call_cancelled_in_the_tick_it_times_out_is_counted_once():
    t = throttle(rpm=60)
    await call(t)
    first, other = start(call(t, max_wait=0.5)), start(call(t))
    asyncio.get_running_loop().call_at(0.5, first.cancel)
    await asyncio.wait([first])
    assert t.waiting == 1
    assert await other == 1
    assert t.waiting == 0


@virtual
async def test_a_permit_settled_twice_is_our_bug():
    t = throttle()
    permit = await admit(t)
    permit.settle(Outcome.SUCCESS)
    with pytest.raises(AssertionError, match="permit settled twice"):
        permit.settle(Outcome.SUCCESS)
    permit.release()
    assert t.in_flight == 0


@pytest.mark.parametrize(
    ("outcome", "levels"),
    [
        (Outcome.SUCCESS, [9, 70]),
        (Outcome.IGNORED, [9, 70]),
        (Outcome.OVERLOADED, [9, 70]),  # the server may still be working on it
        (Outcome.UNSENT, [10, 100]),
    ],
)
@virtual
async def test_what_an_outcome_gives_back(outcome, levels):
    t = await proven(Limits(rpm=60, tpm=600, burst=10))
    await call(t, 30, outcome=outcome)
    assert [window.spendable for window in t.stats().budgets[0].windows] == levels


@virtual
async def test_a_refused_call_gets_its_tokens_back_and_not_its_request():
    t = await proven(Limits(rpm=60, tpm=600, burst=10))
    await call(t, 30, outcome=Outcome.REFUSED, refusal=refusal(kind="too_large"))
    assert [window.spendable for window in t.stats().budgets[0].windows] == [9, 100]


# --- timers ---------------------------------------------------------------------------------------


@virtual
async def test_there_is_one_timer_however_many_wait_and_none_when_nobody_does():
    t = throttle(rpm=60)
    await call(t)
    assert timers() == []
    tasks = [start(call(t, max_wait=1000.0 if i % 2 else None)) for i in range(50)]
    await ticks()
    assert timers() == [1]
    await gather(*tasks)
    assert t.waiting == 0
    assert timers() == []


@virtual
async def test_the_timer_is_for_the_head_or_the_earliest_deadline():
    t = await proven(Limits(tpm=600, burst=10))
    await call(t, 100)
    large = start(admit(t, 50))
    await ticks()
    assert timers() == [105]
    hasty = start(admit(t, 50, max_wait=2.0))
    await ticks()
    assert timers() == [102]
    with pytest.raises(AdmissionTimeout):
        await hasty
    assert timers() == [105]
    large.cancel()
    await ticks()
    assert timers() == []


@virtual
async def test_no_timer_is_set_while_only_a_place_is_missing():
    t = throttle(max_concurrency=1)
    permit = await admit(t)
    waiting = start(admit(t))
    await ticks()
    assert timers() == []
    permit.settle(Outcome.SUCCESS)
    (await waiting).settle(Outcome.SUCCESS)


def test_lanes_of_models_that_are_not_used_any_more_leave_and_what_they_did_stays_counted(monkeypatch):
    monkeypatch.setattr("throttled_openai._admission.limiters.MOST_LIMITERS", 100)
    t = throttle(max_concurrency=1000)

    async def main():
        waiting = start(admit(t, model="held"))
        await ticks()
        for number in range(1000):
            await call(t, model=f"m{number}")
            await asyncio.sleep(1)
        assert len(t._dispatcher.limiters.by_key) <= 100
        assert len(t._dispatcher.limiters.by_model) <= 400
        models = {model for _, model in t._dispatcher.limiters.by_key}
        assert {"m999", "held"} <= models  # a call of the second is in flight
        (await waiting).settle(Outcome.SUCCESS)

    virtual_run(main())
    stats = t.stats()
    assert (stats.succeeded, stats.admitted, stats.in_flight, stats.waiting) == (1001, 1001, 0, 0)
    assert "other models" in str(stats)


@virtual
async def test_no_task_runs_beside_the_calls():
    t = throttle(rpm=60)
    await call(t)
    waiting = start(call(t))
    await ticks()
    assert asyncio.all_tasks() == {asyncio.current_task(), waiting}
    await waiting


# --- event loops ----------------------------------------------------------------------------------


def test_a_throttle_serves_several_loops_in_turn_and_remembers():
    t = throttle(rpm=60)

    async def some():
        return await gather(*(call(t) for _ in range(3)))

    assert virtual_run(some()) == [0, 1, 2]
    assert virtual_run(some()) == [1, 2, 3]  # the request of the last one is still on the books
    assert t.stats().succeeded == 6


def test_calls_that_a_run_leaves_behind_are_cancelled_and_the_next_run_starts_clean():
    t = throttle(rpm=60)

    async def leave():
        await call(t)
        for _ in range(5):
            start(call(t, seconds=1000))
        await asyncio.sleep(2.5)
        assert (t.waiting, t.in_flight) == (3, 2)

    virtual_run(leave())
    assert (t.waiting, t.in_flight) == (0, 0)
    assert virtual_run(call(t)) <= 1


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_calls_that_died_with_their_loop_do_not_hold_up_the_next_one():
    t = throttle(rpm=60, max_concurrency=2)
    loop = VirtualTimeLoop()
    permits, futures = [], []

    async def leave():
        permits.extend([await admit(t), await admit(t)])
        for _ in range(3):
            waiting = t._dispatcher.admit(Call("m", 1, QueueOptions()))
            waiting.send(None)  # waits, and nobody will ever go on with it
            futures.append(waiting)

    loop.run_until_complete(leave())
    assert (t.waiting, t.in_flight) == (3, 2)
    loop.close()

    async def next_run():
        assert await gather(*(call(t) for _ in range(3))) == [1, 2, 3]
        for permit in permits:
            permit.release(Outcome.UNSENT)
        assert (t.waiting, t.in_flight) == (0, 0)
        await call(t)

    virtual_run(next_run())
    for waiting in futures:
        waiting.close()
    assert timers_of(loop) == []


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_calls_of_a_dead_loop_that_are_closed_later_do_not_keep_the_next_loop_busy():
    t, loop, left = throttle(rpm=60), VirtualTimeLoop(), []

    async def leave():
        await asyncio.sleep(1000)
        await call(t)
        left.append(t._dispatcher.admit(Call("m", 1, QueueOptions())))
        left[0].send(None)

    loop.run_until_complete(leave())
    loop.close()
    (dead,) = t._dispatcher.limiters.by_key.values()

    async def next_run():
        await call(t)
        left[0].close()
        await ticks()
        assert (t.waiting, t.in_flight, dead.timer.handle) == (0, 0, None)

    virtual_run(next_run())


def timers_of(loop):
    return [handle for handle in loop._scheduled if not handle.cancelled()]


def test_a_throttle_is_made_and_shown_without_a_loop():
    t = throttle(Limits(rpm=60))
    assert repr(t) == "<Throttle [0 waiting, 0 in flight, 0 succeeded]>"
    virtual_run(call(t))
    assert "1 succeeded" in repr(t)
    assert t.stats().budgets[0].windows[0].limit == 60


# --- what it tells --------------------------------------------------------------------------------


@virtual
async def test_stats_count_calls_and_attempts():
    t = throttle(Limits(rpm=60, tpm=6000))
    await call(t, 10)
    await call(t, 10, outcome=Outcome.REFUSED, refusal=refusal("requests", 1.0))
    permit = await admit(t, 10)
    permit.used(Usage(600, 100))
    permit.used(Usage(600, 200))  # the newest report counts
    waiting = start(call(t, 10))
    await ticks()
    stats = t.stats()
    assert (stats.waiting, stats.in_flight, stats.admitted, stats.succeeded, stats.refused) == (1, 1, 3, 1, 1)
    assert stats.budgets[0].tokens_used == 800
    assert [str(window) for window in stats.budgets[0].windows] == ["60 requests/min", "6,000 tokens/min"]
    permit.settle(Outcome.SUCCESS)
    await waiting


@virtual
async def test_the_repr_is_a_status_line():
    t = throttle(Limits(rpm=60))
    permit = await admit(t)
    waiting = [start(call(t)) for _ in range(2)]
    await ticks()
    limit = t.stats().budgets[0].concurrency_limit
    assert repr(t) == (
        "<Throttle [2 waiting, 1 in flight, 0 succeeded | "
        f"all models: 2 waiting, 1 in flight of {limit}, 0 succeeded, 0 refused | 60 requests/min]>"
    )
    permit.settle(Outcome.SUCCESS)
    await gather(*waiting)


def test_no_log_and_no_repr_tells_prompts_or_keys(caplog):
    """Nor does an error of ours."""
    caplog.set_level(logging.DEBUG, logger="throttled_openai")
    httpx2 = pytest.importorskip("httpx2")

    @virtual
    async def run():
        http_client = httpx2.AsyncClient(transport=Simulator(rpm=60, burst=1).transport2())
        client = ThrottledAsyncOpenAI(
            api_key="sk-SECRET-KEY",
            http_client=http_client,
            max_wait=2.0,
            base_url="http://simulator/v1",
            max_retries=0,
        )
        ask = client.chat.completions.create
        told = await asyncio.gather(
            *(ask(model="gpt-4o", messages=[{"role": "user", "content": f"SECRET {i}"}]) for i in range(20)),
            return_exceptions=True,
        )
        assert any(isinstance(error, AdmissionTimeout) for error in told)
        texts = [repr(client.throttle), str(client.throttle.stats())]
        texts += [f"{error} {error!r} {vars(error)}" for error in told if isinstance(error, AdmissionError)]
        await client.close()
        return texts

    texts = run()
    lines = [record.getMessage() for record in caplog.records if record.name == "throttled_openai"]
    assert lines
    assert not [text for text in texts + lines if "SECRET" in text]


# --- promises -------------------------------------------------------------------------------------


class Walk:
    """Many calls with random costs, queue_options and endings, on random limits; everything by one seed."""

    def __init__(self, seed):
        self.random = Random(seed)
        pick = self.random.choice
        limits = pick([None, Limits(rpm=600), Limits(rpm=60, tpm=6000), Limits(tpm=3000, burst=5), Limits(rpd=40)])
        self.t = throttle(limits, max_concurrency=pick([None, 1, 3, 50]))
        self.t._dispatcher.random = self.random.random
        self.endings = collections.Counter()
        self.ledger = collections.Counter()  # by budget: reserved less refunded
        self.admitted = collections.Counter()  # by lane
        self.kept = collections.Counter()  # by lane: tokens not to be given back
        self.kept_requests = collections.Counter()

    def check(self):
        t = self.t
        assert 0 <= t.in_flight <= t._dispatcher.in_flight.unproven_ceiling
        for one in t._dispatcher.limiters.by_key.values():
            assert one.in_flight >= 0
            assert one.queue.waiting >= 0
            assert one.limit >= 1
        assert len(timers_of_lanes(t)) <= len(t._dispatcher.limiters.by_key)

    async def one(self, number):
        random = self.random
        max_wait = random.choice([None, None, None, random.uniform(0.1, 40)])
        asked = Call(
            random.choice("ab"), random.choice([0, 1, 20, 300, 2000]), QueueOptions(random.choice([0, 0, 3]), max_wait)
        )
        try:
            await asyncio.sleep(random.uniform(0, 20))
            for _ in range(random.randint(1, 4)):
                if not await self.attempt(asked):
                    break
        except AdmissionTimeout as error:
            self.endings["timed out"] += error.waited == pytest.approx(max_wait, abs=1e-3)
        except AccountBlocked:
            self.endings["blocked"] += 1
        except asyncio.CancelledError:
            self.endings["cancelled"] += 1
        else:
            self.endings["done"] += 1
        finally:
            self.check()

    async def attempt(self, asked):
        """Whether the call is to be tried again."""
        random, key = self.random, lane(self.t, asked.model)
        permit = await self.t._dispatcher.admit(asked)
        self.check()
        self.admitted[key] += 1
        outcome = Outcome.IGNORED
        told = None
        try:
            await asyncio.sleep(random.choice([0, random.expovariate(1)]))
            if random.random() < 0.3:
                limit = random.choice([60.0, 600.0])
                permit.observe(announcement(rpm=limit, rpm_left=random.uniform(0, limit)))
            outcome = random.choice([*[Outcome.SUCCESS] * 5, *Outcome])
            if outcome is Outcome.REFUSED:
                kind = random.choice(["rate", "rate", "overload", "billing", "too_large"])
                dimension = random.choice([None, "requests", "tokens"]) if kind == "rate" else None
                told = refusal(dimension, random.choice([None, 0.01, 3.0]), kind=kind)
        finally:
            permit.settle(outcome, told, told and answer())
            self.check()
            self.kept[key] += 0 if outcome in (Outcome.REFUSED, Outcome.UNSENT) else asked.tokens
            self.kept_requests[key] += outcome is not Outcome.UNSENT
        return outcome in (Outcome.REFUSED, Outcome.OVERLOADED)

    async def run(self, count):
        tasks = [start(self.one(number)) for number in range(count)]
        loop = asyncio.get_running_loop()
        for task in self.random.sample(tasks, count // 4):
            loop.call_later(self.random.choice([1, 2, 3, self.random.uniform(0, 30)]), task.cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if task.cancelled():  # before it began
                self.endings["cancelled"] += 1
            elif task.exception():
                raise task.exception()

        stats = self.t.stats()
        assert (stats.waiting, stats.in_flight) == (0, 0)
        assert sum(self.endings.values()) == count
        for one in self.t._dispatcher.limiters.by_key.values():
            # What was granted to a call cancelled in that tick was given back whole.
            assert one.admitted >= self.admitted[one]
            assert self.ledger[one.budget, "requests"] == self.kept_requests[one]
            assert self.ledger[one.budget, "tokens"] == self.kept[one]
        assert timers_of_lanes(self.t) == []


def timers_of_lanes(t):
    return [one.timer.handle for one in t._dispatcher.limiters.by_key.values() if one.timer.handle is not None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_over_any_mix_of_endings_every_call_ends_once_and_what_is_reserved_is_used_or_refunded(seed):
    walk = Walk(seed)
    grant, reserve, refund = module.Limiter._grant, Budget.reserve, Budget.refund

    def granted(self, asked, at):
        assert self.in_flight < self.limit
        assert walk.t.in_flight < walk.t._dispatcher.in_flight.unproven_ceiling
        return grant(self, asked, at)

    def reserved(self, tokens, at):
        walk.ledger[self, "requests"] += 1
        walk.ledger[self, "tokens"] += tokens
        return reserve(self, tokens, at)

    def refunded(self, reservation, *, request):
        walk.ledger[self, "requests"] -= request
        walk.ledger[self, "tokens"] -= reservation.tokens
        refund(self, reservation, request=request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Limiter, "_grant", granted)
        patch.setattr(Budget, "reserve", reserved)
        patch.setattr(Budget, "refund", refunded)
        virtual_run(walk.run(40))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200)), min_size=1, max_size=40), st.sampled_from([1, 10, 60]))
def test_only_smaller_calls_pass_and_no_minute_has_more_than_its_limit(arrivals, burst):
    """What leaves in a minute: its refill, the burst, and what one call larger than the bucket adds."""

    async def walk():
        t, admitted = await proven(Limits(tpm=600, burst=burst)), []

        async def one(number, tokens):
            admitted.append((await call(t, tokens, seconds=0.5), number, tokens))

        tasks = []
        for number, (pause, tokens) in enumerate(arrivals):
            await asyncio.sleep(pause)
            tasks.append(start(one(number, tokens)))
            await ticks()
        await gather(*tasks)
        return admitted

    admitted = sorted(virtual_run(walk()))
    for (_, first, tokens), (_, second, later) in itertools.combinations(admitted, 2):
        assert first < second or tokens < later
    capacity = 10 * burst
    for at, _, _ in admitted:
        minute = [tokens for other, _, tokens in admitted if at <= other < at + 60]
        assert sum(minute) <= 600 + capacity + max(0, max(minute) - capacity) + 1e-3


def test_the_same_seed_is_the_same_run():
    def story():
        walk, lines = Walk(7), []
        grant = module.Limiter._grant

        def granted(self, asked, at):
            lines.append((at, self.name, asked.tokens))
            return grant(self, asked, at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.Limiter, "_grant", granted)
            with contextlib.suppress(AssertionError):  # the ledger is not kept here
                virtual_run(walk.run(60))
        return lines

    first = story()
    assert len(first) > 40
    assert story() == first


def test_nothing_depends_on_the_time_of_day(monkeypatch):
    wall = itertools.count(5e9, -977.0)  # runs backwards
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: next(wall))
    assert virtual_run(gather_of_a_minute()) == [0, 1, 2, 3, 4]


async def gather_of_a_minute():
    t = throttle(rpm=60)
    return await gather(*(call(t, seconds=0.3) for _ in range(5)))
