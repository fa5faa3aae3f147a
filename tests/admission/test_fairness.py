"""Large and small calls under one token limit: which may overtake which, and for how long."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import (
    Limits,
    Outcome,
    admit,
    announcement,
    call,
    gather,
    now,
    proven,
    start,
    throttle,
    ticks,
    timers,
    virtual,
    virtual_run,
)
from throttled_openai._admission.overtaking import OVERTAKE_AFTER, SAVED_SHARE
from throttled_openai._protocol.durations import DAY


async def told(left=60_000, *, limits=None, **announced):
    """A throttle whose server allows 1,000 tokens a second and has `left`; all of that may leave at once."""
    t = throttle(limits)
    permit = await admit(t, 0)
    for _ in range(2):  # announced once, it would be doubtful
        permit.observe(announcement(**{"tpm": 60_000, "tpm_left": left, **announced}))
    permit.settle(Outcome.SUCCESS)
    lane = t._dispatcher.limiters.find("m")
    lane.budget.pacers["tokens"]._burst = 60.0  # grown
    lane.budget.pacers["tokens"]._rebuild()
    lane.limit = 1000
    return t


async def leave(t, *sizes):
    """Calls of these sizes, in this order; when each was admitted, from now."""
    began = now()
    tasks = []
    for size in sizes:
        tasks.append(start(call(t, size)))
        await ticks(1)
    return [round(at - began, 3) for at in await gather(*tasks)]


# --- passing --------------------------------------------------------------------------------------


@virtual
async def test_while_a_large_call_saves_up_small_ones_go_on_the_other_half_of_the_refill():
    t = await told(150)  # nothing but the reserve
    large, *small = await leave(t, 20_000, *[500] * 10)
    assert small == pytest.approx([1.0 * n for n in range(1, 11)], abs=0.01)
    assert large == pytest.approx(20 + 5, abs=0.1)  # its own refill, and what the others took


@virtual
async def test_half_of_what_there_was_when_its_turn_came_is_saved_for_it_too():
    t = await told(4150)
    large, *small = await leave(t, 20_000, *[500] * 10)
    at_once = [at for at in small if at == 0]
    assert len(at_once) == 4  # half of 4,000
    assert large == pytest.approx(16 + 5, abs=0.1)


@virtual
async def test_a_large_call_under_a_steady_stream_of_small_ones_waits_for_its_half_alone():
    t = await told(150)
    tasks = [start(call(t, 100)) for _ in range(3)]
    large = start(call(t, 30_000))
    for _ in range(1200):
        tasks.append(start(call(t, 100)))
        await asyncio.sleep(0.05)  # twice what the limit allows
    assert await large <= 30_000 / (SAVED_SHARE * 1000) + OVERTAKE_AFTER
    await gather(*tasks)


@virtual
async def test_a_call_that_goes_within_a_second_is_not_passed():
    t = await told(150 + 9100)
    large, small = await leave(t, 10_000, 10)
    assert 0 < large <= small <= OVERTAKE_AFTER
    t = await told(150 + 9100)
    large, small = await leave(t, 10_600, 10)
    assert small == 0 < OVERTAKE_AFTER < large


@virtual
async def test_calls_of_about_one_size_go_in_their_order_even_where_a_later_one_would_fit():
    t = await told(150)
    first, second = await leave(t, 20_000, 17_000)
    assert first < second


@virtual
async def test_no_call_overtakes_while_the_request_limit_binds():
    t = await proven(Limits(rpm=30, tpm=60_000, burst=60))
    await gather(*(call(t, 0) for _ in range(30)))
    large, small = await leave(t, 59_000, 10)
    assert (large, small) == (2, 4)


@virtual
async def test_a_small_call_larger_than_the_other_half_does_not_pass():
    t = await told(150)
    large, small = await leave(t, 4000, 2500)
    assert large == pytest.approx(4, abs=0.01)
    assert small == pytest.approx(6.5, abs=0.01)


@virtual
async def test_urgent_calls_overtake_a_batch_and_do_not_starve_it():
    """Urgent calls come faster than the limit admits, so a strict order would never get to the batch."""
    t = throttle(rpm=600)
    batch = [start(call(t, 10)) for _ in range(40)]
    await ticks()
    urgent = []
    for _ in range(700):
        urgent.append(start(call(t, 10, priority=1)))
        await asyncio.sleep(0.08)
    assert sum(task.done() for task in batch) >= 40
    waited = await gather(*urgent[:100])
    assert max(waited) <= 100 * 0.1 * 10 / 9 + 1
    await gather(*urgent)


@virtual
async def test_an_urgent_call_goes_before_the_one_that_saves_up_and_takes_nothing_of_its_half():
    t = await told(150)
    large = start(call(t, 20_000))
    small = [start(call(t, 500)) for _ in range(60)]
    await asyncio.sleep(10)
    began = now()
    assert await call(t, 500, priority=1) == pytest.approx(began, abs=0.01)
    assert await large <= 20_000 / (SAVED_SHARE * 1000) + 1 + OVERTAKE_AFTER
    await gather(*small)


@virtual
async def test_when_the_large_call_gives_up_all_it_had_saved_is_free():
    t = await told(150)
    large = start(call(t, 50_000, max_wait=10))
    small = [start(call(t, 400)) for _ in range(50)]
    await asyncio.wait([large])
    assert large.exception() is not None
    left = [at for at in await gather(*small) if at == now() or at >= large.exception().waited]
    assert len([at for at in left if at == pytest.approx(10, abs=0.01)]) >= 12  # 5,000 had been saved


@virtual
async def test_a_call_larger_than_the_bucket_waits_for_a_full_one_and_leaves_debt_to_all():
    t = await proven(Limits(tpm=600, burst=10))  # 10 tokens a second, 100 at once
    await call(t, 50)
    oversize, after = start(call(t, 300)), start(call(t, 10))
    passed = await after
    assert passed < await oversize <= 100 + 100 / (SAVED_SHARE * 10)
    began = now()
    assert await call(t, 10) == pytest.approx(began + (200 + 10) / 10)


# --- waking ---------------------------------------------------------------------------------------


@virtual
async def test_the_timer_is_for_the_first_that_may_pass():
    t = await told(150)
    began = now()
    tasks = [start(call(t, tokens)) for tokens in (40_000, 300)]
    await ticks()
    assert timers() == [pytest.approx(began + 0.6)]
    await gather(*tasks)


@virtual
async def test_small_calls_that_wait_for_a_request_do_not_wait_for_the_large_one():
    t = await proven(Limits(rpm=600, tpm=60_000, burst=60))  # ten a second
    await call(t, 60_000)
    await asyncio.sleep(20)
    lane = t._dispatcher.limiters.find("m")
    while lane.budget.delay(0, now()) == 0:
        lane.budget.reserve(0, now())
    large, *small = await leave(t, 50_000, *[100] * 20)
    assert max(small) <= 3
    assert large <= 100


@virtual
async def test_before_a_limit_of_tokens_a_day_small_calls_do_not_starve_a_large_one():
    t = await proven(Limits(tpd=86_400))  # a token a second
    await call(t, 86_398)
    tasks = [start(call(t, 50)) for _ in range(2)]
    large = start(call(t, 1000))
    for _ in range(200):
        tasks.append(start(call(t, 50)))
        await asyncio.sleep(25)  # twice what the limit allows
    done = large.done()
    for task in (large, *tasks):
        task.cancel()
    await asyncio.wait([large, *tasks])
    assert done
    assert DAY == 86_400


# --- promises -------------------------------------------------------------------------------------

arrivals = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.3, 2.0, 20.0]), st.sampled_from([0, 1, 40, 500, 3000, 20_000, 55_000])),
    min_size=1,
    max_size=40,
)


async def served(t, arrivals, *, seconds=0.2, priorities=None):
    """(arrival, admission, tokens) of each call, in the order of their arrival."""
    tasks, came = [], []
    for number, (pause, tokens) in enumerate(arrivals):
        await asyncio.sleep(pause)
        came.append(now())
        queue_options = {"priority": priorities[number]} if priorities else {}
        tasks.append(start(call(t, tokens, seconds=seconds, **queue_options)))
        await ticks(1)
    at = await gather(*tasks)
    return [(came, at, tokens) for came, at, (_, tokens) in zip(came, at, arrivals, strict=True)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrivals, st.sampled_from([150, 10_000, 60_000]))
def test_the_oldest_waits_for_its_own_tokens_at_half_the_refill_at_most(arrivals, left):
    """Whatever comes after it."""

    async def walk():
        return await served(await told(left), arrivals)

    oldest_since = 0.0
    for came, at, tokens in virtual_run(walk()):
        turn = max(came, oldest_since)
        assert at - turn <= tokens / (SAVED_SHARE * 1000) + OVERTAKE_AFTER + 0.1
        oldest_since = max(oldest_since, at)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(arrivals)
def test_no_call_is_overtaken_by_one_as_large_and_calls_of_one_size_keep_their_order(arrivals):
    async def walk():
        return await served(await told(150), arrivals)

    calls = virtual_run(walk())
    for (_, first, tokens), (_, second, later) in itertools.combinations(calls, 2):
        if tokens.bit_length() == later.bit_length() or later >= tokens:
            assert first <= second


@settings(max_examples=40, deadline=None, derandomize=True)
@given(arrivals, st.lists(st.sampled_from([0, 0, 0, 5]), min_size=40, max_size=40))
def test_every_call_is_served_and_no_minute_has_more_than_its_limit(arrivals, priorities):
    async def walk():
        t = await told(60_000)
        calls = await served(t, arrivals, priorities=priorities)
        assert (t.waiting, t.in_flight, timers()) == (0, 0, [])
        return calls

    spent = sorted((at, tokens) for _, at, tokens in virtual_run(walk()))
    for number, (start_, _) in enumerate(spent):
        assert sum(tokens for at, tokens in spent[number:] if at < start_ + 60) <= 120_000


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([1, 40, 500, 3000, 20_000, 55_000]), min_size=1, max_size=30))
def test_saving_for_the_large_wastes_nothing(sizes):
    """The last of many goes when the limit has refilled what all of them need."""

    async def walk():
        return await leave(await told(150), *sizes)

    assert max(virtual_run(walk())) <= sum(sizes) / 1000 + OVERTAKE_AFTER
