"""What `stats()` shows of a budget, and what changes live."""

import asyncio
import dataclasses
import json
import math

import pytest

from support import (
    Limits,
    Outcome,
    admit,
    announcement,
    call,
    gather,
    now,
    refusal,
    refuse,
    start,
    throttle,
    ticks,
    virtual,
)
from throttled_openai import AdmissionTimeout, QueueFull
from throttled_openai._protocol.usage import Usage
from throttled_openai._stats import stats_from


def budget(t):
    [found] = t.stats().budgets
    return found


@virtual
async def test_a_limit_says_where_it_comes_from():
    t = throttle(tpm=6000)
    permit = await admit(t, tokens=10)
    assert [(w.dimension, w.source) for w in budget(t).windows] == [("tokens", "configured")]
    permit.observe(announcement(rpm=600, rpm_left=599, tpm=3000, tpm_left=2990))
    permit.settle(Outcome.SUCCESS)
    assert [(w.dimension, w.source, w.limit) for w in budget(t).windows] == [
        ("requests", "announced", 600),
        ("tokens", "announced", 3000),
    ]


@virtual
async def test_a_limit_that_the_user_set_lower_than_the_server_is_the_users():
    t = throttle(rpm=60)
    permit = await admit(t)
    permit.observe(announcement(rpm=600, rpm_left=599))
    permit.settle(Outcome.SUCCESS)
    [window] = budget(t).windows
    assert (window.source, window.limit, window.announced) == ("configured", 60, False)


@virtual
async def test_a_rate_that_refusals_taught_is_learnt():
    t = throttle()
    for _ in range(20):
        await call(t, seconds=0.1)
    refuse(await admit(t), refusal("requests", 1.0))
    assert budget(t).windows[0].source == "learnt"


@virtual
async def test_refusals_are_counted_by_kind_and_ends_are_settled():
    t = throttle()
    await call(t)
    refuse(await admit(t), refusal("requests", 1.0))
    await asyncio.sleep(5)
    refuse(await admit(t), refusal(kind="overload"))
    await asyncio.sleep(5)
    held = await admit(t)
    found = budget(t)
    assert found.refused_by == {"rate": 1, "overload": 1}
    assert (found.admitted, found.settled, found.in_flight) == (4, 3, 1)
    held.settle(Outcome.IGNORED)
    assert budget(t).settled == 4


@virtual
async def test_waits_are_those_of_the_latest_calls():
    t = throttle(limits=Limits(rpm=60, burst=1.0))
    await gather(*(call(t) for _ in range(11)))
    waits = budget(t).waits
    assert (waits.count, waits.p50, waits.p90, waits.longest) == (11, 5.0, 9.0, 10.0)
    await asyncio.sleep(1000)
    for _ in range(600):
        await call(t)
        await asyncio.sleep(1)
    assert budget(t).waits.count == 500
    assert budget(t).waits.longest < 1.0


@virtual
async def test_what_waits_is_counted_in_tokens_whatever_becomes_of_it():
    t = throttle(tpm=600)
    await call(t, 100)
    waiting = [start(call(t, 50)) for _ in range(4)]
    in_vain = start(call(t, 70, max_wait=1.0))
    await ticks()
    assert budget(t).waiting_tokens == 270
    waiting[3].cancel()
    await ticks()
    assert budget(t).waiting_tokens == 220
    with pytest.raises(AdmissionTimeout):
        await in_vain
    assert (budget(t).waiting_tokens, budget(t).turned_away) == (150, 1)
    await gather(*waiting[:3])
    assert (budget(t).waiting, budget(t).waiting_tokens) == (0, 0)


@virtual
async def test_a_call_that_finds_the_queue_full_is_turned_away():
    t = throttle(rpm=60)
    await call(t)
    waiting = start(call(t))
    await ticks()
    with pytest.raises(QueueFull):
        await call(t, max_queued=1)
    assert budget(t).turned_away == 1
    await waiting


@virtual
async def test_a_pause_says_its_reason():
    t = throttle()
    await call(t)
    refuse(await admit(t), refusal("requests", 5.0))
    assert budget(t).pause.reason == "refusals"
    assert 4.9 < budget(t).pause.seconds <= 5.5
    assert "paused for 5.0 s after refusals" in str(budget(t))
    await asyncio.sleep(60)
    assert budget(t).pause is None
    for _ in range(2):
        refuse(await admit(t), refusal(kind="billing"), code="insufficient_quota")
    assert budget(t).pause.reason == "billing"


@virtual
async def test_what_left_within_a_minute_is_used():
    t = throttle(rpm=6000, tpm=60_000)
    for _ in range(30):
        await call(t, 10)
        await asyncio.sleep(1)
    assert [window.used for window in budget(t).windows] == [30, 300]
    await asyncio.sleep(45)
    assert [window.used for window in budget(t).windows] == [14, 140]
    await asyncio.sleep(60)
    assert [window.used for window in budget(t).windows] == [0, 0]


@virtual
async def test_stats_are_json_and_come_back_from_it():
    t = throttle(tpm=600)
    t.pause()
    permit = start(call(t, 100))
    await ticks()
    stats = t.stats()
    assert stats_from(json.loads(json.dumps(stats.as_dict()))) == stats
    assert stats.budgets[0].pause.seconds == math.inf
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.budgets[0].waiting = 7
    t.resume()
    await permit


def test_what_a_call_really_cost_shows_how_well_it_was_estimated():
    from throttled_openai._admission.figures import Figures

    figures = Figures()
    for _ in range(50):
        figures.charged(100, 80)
    assert figures.estimate_error == pytest.approx(-0.2)
    figures.charged(0, 5)  # nothing was estimated
    assert figures.estimate_error == pytest.approx(-0.2)
    assert Usage(1, 2)


# --- changes --------------------------------------------------------------------------------------


@virtual
async def test_a_pause_of_the_user_holds_every_call_until_it_is_resumed():
    t = throttle(rpm=6000)
    t.pause()  # also budgets that come later
    waiting = [start(call(t, model=model)) for model in ("a", "b")]
    await asyncio.sleep(1000)
    assert t.waiting == 2
    assert str(t.explain()).splitlines() == [
        f"{model}: 1 waiting; paused by you; the next goes when you resume; all 1 done when you resume"
        for model in ("a", "b")
    ]
    t.resume("a")
    await ticks()
    assert t.waiting == 1
    t.resume()
    assert await gather(*waiting) == [1000.0, 1000.0]


@virtual
async def test_a_pause_of_some_seconds_ends_by_itself():
    t = throttle(rpm=6000)
    await call(t)
    t.pause(seconds=30)
    assert budget(t).pause.reason == "user"
    assert await call(t) == 30.0


@virtual
async def test_a_paused_call_ends_with_its_max_wait():
    t = throttle()
    t.pause()
    with pytest.raises(AdmissionTimeout):
        await call(t, max_wait=5.0)
    assert now() == 5.0


@virtual
async def test_a_limit_is_changed_while_calls_wait():
    t = throttle(rpm=60)
    await call(t)
    waiting = [start(call(t)) for _ in range(60)]
    await asyncio.sleep(10)
    t.adjust(rpm=600)
    await gather(*waiting)
    assert 14 <= now() <= 16
    assert budget(t).windows[0].limit == 600


@virtual
async def test_changes_are_checked():
    t = throttle(rpm=60)
    await call(t)
    with pytest.raises(ValueError, match="there is no budget 'n' yet"):
        t.adjust("n", rpm=5)
    with pytest.raises(ValueError, match="rpm must be positive"):
        t.adjust(rpm=-1)
    with pytest.raises(TypeError, match="did you mean 'rpm'"):
        t.adjust(rmp=5)


def test_a_change_made_in_another_thread_reaches_the_deciding_loop():
    @virtual
    async def main():
        t = throttle(rpm=60)
        await call(t)
        t.pause()
        waiting = start(call(t))
        await asyncio.sleep(5)
        await asyncio.to_thread(t.resume)
        assert await waiting == 5.0

    main()
