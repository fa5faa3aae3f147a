"""What subscribers hear, in which order, and that they harm no call."""

import asyncio
import contextvars
import logging

import openai
import pytest

from scripted import URL, say, throttled
from support import (
    Limits,
    Outcome,
    admit,
    announcement,
    call,
    gather,
    refusal,
    refuse,
    start,
    throttle,
    virtual,
    virtual_run,
)
from throttled_openai import (
    AdmissionTimeout,
    Admitted,
    BreakerChanged,
    Charged,
    Left,
    LimitChanged,
    Paused,
    Refused,
    Settled,
    ThrottledOpenAI,
    Waiting,
)
from throttled_openai.simulator import Simulator


def heard(t):
    events = []
    t.subscribe(events.append)
    return events


def of(events, *kinds):
    return [event for event in events if isinstance(event, kinds)]


@virtual
async def test_a_call_is_heard_of_from_its_arrival_to_its_end():
    t = throttle({"m": Limits(rpm=60, burst=1.0)})
    events = heard(t)
    await gather(call(t, 7), call(t, 9, seconds=0.5))
    assert events == [
        Admitted(0.0, "m", 0, 1, 7, 0.0, 0.0),
        Waiting(0.0, "m", 1, 9, 1),
        Settled(0.0, "m", 0, 1, "success", 0.0),
        Admitted(1.0, "m", 1, 1, 9, 1.0, 1.0),
        Settled(1.5, "m", 1, 1, "success", 0.5),
    ]


@virtual
async def test_a_call_that_gives_up_waiting_has_left():
    t = throttle({"m": Limits(rpm=60, burst=1.0)})
    await call(t)
    events = heard(t)
    cancelled, late = start(call(t)), start(call(t, max_wait=0.5))
    await asyncio.sleep(0.25)
    cancelled.cancel()
    with pytest.raises(AdmissionTimeout):
        await late
    assert of(events, Left) == [Left(0.25, "m", 1, 0.25, "cancelled"), Left(0.5, "m", 2, 0.5, "AdmissionTimeout")]
    assert t.waiting == 0


@virtual
async def test_a_refusal_a_pause_and_a_learnt_limit_are_heard():
    t = throttle()
    await call(t, seconds=1.0)
    events = heard(t)
    refuse(await admit(t), refusal("requests", 2.0))
    names = [type(event).__name__ for event in events]
    assert names == ["Admitted", "Refused", "Settled", "LimitChanged", "Paused"]
    assert events[1] == Refused(1.0, "m", 1, 1, "rate", "requests", 2.0)
    assert (events[3].limit, events[3].before, events[3].reason) == ("requests", None, "learnt")
    assert (events[4].seconds, events[4].reason) == (2.0, "refusals")


@virtual
async def test_an_announced_limit_and_the_users_are_heard_with_their_reason():
    t = throttle()
    permit = await admit(t)
    events = heard(t)
    permit.observe(announcement(tpm=6000, tpm_left=5000))
    permit.settle(Outcome.SUCCESS)
    t.adjust(tpm=600)
    t.pause("m", seconds=3)
    assert of(events, LimitChanged, Paused) == [
        LimitChanged(0.0, "m", "tokens", 60.0, None, 6000.0, "announced"),
        LimitChanged(0.0, "m", "tokens", 60.0, 6000.0, 600.0, "configured"),
        Paused(0.0, "m", 3, "user"),
    ]


@virtual
async def test_a_breaker_is_heard_to_be_suspected_to_open_and_to_close():
    t = throttle()
    events = heard(t)
    for _ in range(2):
        refuse(await admit(t), refusal(kind="billing"), code="insufficient_quota")
    await asyncio.sleep(11)
    await call(t)
    found = [(event.state, event.cause) for event in of(events, BreakerChanged)]
    assert found == [("suspected", "billing"), ("open", "billing"), ("closed", "billing")]


@virtual
async def test_what_a_call_was_charged_is_heard():
    async with throttled(Simulator(tpm=600_000)) as client:
        events = heard(client.throttle)
        await say(client, "x" * 400, model="claude-3")
    [settled] = of(events, Settled)
    assert settled.outcome == "success"
    assert all(event.charged > 0 for event in of(events, Charged))


@virtual
async def test_one_that_fails_is_logged_once_and_harms_no_call():
    t = throttle(rpm=60)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("throttled_openai")
    logger.addHandler(handler)

    def fails(event):
        raise SystemExit

    t.subscribe(fails)
    events = heard(t)
    try:
        await gather(*(call(t) for _ in range(5)))
    finally:
        logger.removeHandler(handler)
    assert len(of(events, Settled)) == 5
    [line] = [line for line in lines if "subscriber" in line]
    assert line.endswith("<locals>.fails failed: SystemExit; it is called further")
    assert (t.waiting, t.in_flight) == (0, 0)


@virtual
async def test_one_may_ask_the_throttle_and_end_its_subscription_while_it_is_called():
    t = throttle(rpm=60)
    seen = []

    def once(event):
        seen.append((event, t.stats().in_flight, str(t.explain())))
        end()

    end = t.subscribe(once)
    await call(t)
    assert len(seen) == 1
    end()  # a second time changes nothing
    with pytest.raises(TypeError, match="callback must be a function"):
        t.subscribe(7)


CALLER = contextvars.ContextVar("caller", default=None)


@pytest.mark.parametrize("threads", [False, True])
def test_it_is_called_in_the_context_of_the_call(threads):
    seen = []

    async def one(t, name):
        CALLER.set(name)
        await call(t)

    async def main():
        t = throttle(rpm=6000, threads=threads)
        t.subscribe(lambda event: seen.append((type(event), CALLER.get())) if hasattr(event, "call") else None)
        await gather(one(t, "a"), one(t, "b"))
        while t.stats().in_flight:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert {name for _, name in seen} == {"a", "b"}
    assert sorted(name for kind, name in seen if kind is Settled) == ["a", "b"]


def test_a_limit_or_pause_that_changes_is_one_line_and_a_waiting_call_none(caplog):
    async def main():
        t = throttle()
        permit = await admit(t)
        permit.observe(announcement(rpm=600, rpm_left=599))
        permit.settle(Outcome.SUCCESS)
        await gather(*(call(t) for _ in range(30)))
        refuse(await admit(t), refusal("requests", 2.0))

    with caplog.at_level(logging.INFO, logger="throttled_openai"):
        virtual_run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "m: limit is now 600 requests/min (announced), after no limit",
        "m: paused for 2.00 s after refusals",
    ]


# --- shadow mode ----------------------------------------------------------------------------------


@virtual
async def test_shadow_mode_delays_no_call_and_says_how_long_each_would_have_waited():
    t = throttle(limits=Limits(rpm=60, burst=1.0), enforce=False)
    events = heard(t)
    assert await gather(*(call(t, seconds=0.1) for _ in range(11))) == [0.0] * 11
    [budget] = t.stats().budgets
    assert (budget.enforced, budget.waits.p50, budget.waits.longest) == (False, 5.0, 10.0)
    assert str(budget).endswith("only observed: half would wait up to 5.0 s, the longest 10 s; 0 would have failed")
    assert [event.queued for event in of(events, Admitted)] == [float(n) for n in range(11)]
    assert (t.waiting, t.in_flight) == (0, 0)


@virtual
async def test_shadow_mode_fails_no_call_and_counts_those_that_would_have_failed():
    t = throttle(limits=Limits(rpm=60, burst=1.0), enforce=False)
    await gather(*(call(t, max_wait=2.5) for _ in range(5)))
    assert t.stats().budgets[0].turned_away == 2
    for _ in range(3):
        refuse(await admit(t), refusal(kind="billing"), code="insufficient_quota")
    assert await call(t) == 0.0


def test_in_shadow_mode_the_sdk_hears_every_refusal():
    server = Simulator(rpm=60, initial_level=0.0)

    async def main():
        async with throttled(server, enforce=False, max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                await say(client)
            assert refused.value.response.headers.get("x-should-retry") != "false"
        async with throttled(server, enforce=False, max_retries=2) as client:
            await asyncio.gather(*(say(client) for _ in range(3)), return_exceptions=True)
            return client.throttle.stats()

    stats = virtual_run(main())
    assert stats.refused > 2  # the SDK's own retries
    assert stats.waiting == 0


def test_shadow_mode_is_an_option_of_every_client():
    client = ThrottledOpenAI(api_key="none", base_url=URL, enforce=False)
    assert client.throttle.enforce is False
    assert client.with_options(timeout=5).throttle.enforce is False
    client.close()


@virtual
async def test_a_changed_throttle_stays_in_shadow_mode():
    t = throttle(rpm=60, enforce=False)
    assert t.changed(rpm=30).enforce is False


# --- a warning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "lines"), [(50, []), (121, ["m: 120 calls wait, the last of them for about 2 min: "])]
)
def test_a_queue_of_more_than_a_minute_is_warned_of_once_with_its_reason(calls, lines, caplog):
    async def main():
        t = throttle(rpm=60)
        await gather(*(call(t) for _ in range(calls)))

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    assert [record.getMessage().split("60 requests")[0] for record in caplog.records] == lines


def test_a_queue_for_lack_of_room_is_warned_of_too(caplog):
    async def main():
        t = throttle(max_concurrency=1)
        await gather(*(call(t, seconds=1) for _ in range(100)))

    with caplog.at_level(logging.WARNING, logger="throttled_openai"):
        virtual_run(main())
    [record] = caplog.records
    assert record.getMessage().endswith("1 in flight, as many as there is room for")
