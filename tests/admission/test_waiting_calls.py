"""A waiting call: how it times out or is cancelled, what it gives back, and how many timers there are."""

import asyncio

import openai
import pytest

from support import (
    Call,
    Limits,
    Outcome,
    QueueOptions,
    admit,
    call,
    gather,
    now,
    proven,
    refusal,
    start,
    throttle,
    ticks,
    timers,
    virtual,
    virtual_run,
)
from throttled_openai import AdmissionError, AdmissionTimeout, QueueFull

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
async def test_a_timeout_reports_the_place_in_line_even_if_calls_ahead_time_out_too():
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
async def test_an_outcome_decides_what_is_refunded(outcome, levels):
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
async def test_there_is_one_timer_for_all_waiting_calls_and_none_without_any():
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


def test_limiters_of_unused_models_are_dismissed_and_their_counts_stay(monkeypatch):
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
