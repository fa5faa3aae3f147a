"""Why a call waits, in words, and whether what was said came true."""

import asyncio
import dataclasses

import pytest

from scripted import say, text_of, throttled
from support import Limits, Outcome, admit, call, gather, now, start, throttle, ticks, virtual, virtual_run
from throttled_openai import BudgetStats, WindowStats
from throttled_openai._seeing.explanation import about, explain, seconds_to_send
from throttled_openai.simulator import Simulator


def stats(*windows, **more):
    made = BudgetStats("gpt-4o", 10, 3, 10, 100, 90, 1, 500, windows, 20.0, waiting_tokens=200.0)
    return dataclasses.replace(made, **more)


def window(dimension="tokens", **more):
    made = WindowStats(dimension, 60.0, 30_000.0, 0.0, "announced", used=29_100.0, left=0.0, refill=500.0, opens_in=0.0)
    return dataclasses.replace(made, **more)


def test_the_words_are_those_of_a_person():
    found = explain(stats(window(), waiting=5000, waiting_tokens=360_000.0), 20.0, 14, 1550.0)
    assert str(found) == (
        "gpt-4o: 14th in line; 29,100 of 30,000 tokens this minute used; "
        "goes in about 3.1 s; all 5,000 done in about 12 min"
    )
    assert found.binds == "tokens"


def test_a_limit_that_is_spread_over_the_minute_is_not_called_used_up():
    paced = window("requests", limit=600.0, used=20.0, left=None, opens_in=None, source="configured")
    assert explain(stats(paced), 20.0).why == "600 requests/min, sent evenly"
    learnt = window("requests", limit=600.0, used=600.0, left=None, opens_in=None, source="learnt")
    assert explain(stats(learnt), 20.0).why == "about 600 requests/min, as refusals have shown"


def test_without_a_limit_it_is_the_room():
    found = explain(stats(in_flight=10, latency=2.0), 20.0)
    assert (found.binds, found.goes_in, found.done_in) == ("concurrency", 0.2, 4.0)
    assert found.why == "10 in flight, as many as there is room for"


def test_nothing_is_said_of_a_time_that_is_not_known():
    found = explain(stats(in_flight=10), 20.0)
    assert (found.goes_in, found.done_in) == (None, None)
    assert str(found).endswith("the next goes at an unknown time; all 10 done at an unknown time")


def test_tokens_that_cost_less_than_their_estimate_go_sooner():
    plenty = stats(window(), waiting_tokens=5000.0)
    assert seconds_to_send(plenty, 10, 5000.0) == 10.0
    assert seconds_to_send(dataclasses.replace(plenty, estimate_error=-0.5), 10, 5000.0) == 5.0


@pytest.mark.parametrize(("seconds", "says"), [(3.14, "3.1 s"), (98.0, "98 s"), (744.0, "12 min"), (123.0, "2 min")])
def test_an_estimate_is_no_more_exact_than_it_is(seconds, says):
    assert about(seconds) == says


@virtual
async def test_one_waiting_call_is_found_by_its_task():
    t = throttle(limits=Limits(rpm=60, burst=1.0))
    await call(t)
    tasks = [start(call(t)) for _ in range(20)]
    await ticks()
    [wait] = t.explain(tasks[13]).waits
    assert (wait.place, wait.waiting, wait.goes_in) == (14, 20, 14.0)
    urgent = start(call(t, priority=1))
    await ticks()
    assert t.explain(urgent).waits[0].place == 1
    assert t.explain(tasks[13]).waits[0].place == 15
    assert str(t.explain(asyncio.current_task())) == "no call waits, and none is in flight"
    await gather(*tasks, urgent)
    assert str(t.explain()) == "no call waits, and none is in flight"


@virtual
async def test_what_is_in_flight_is_said_where_nothing_waits():
    t = throttle(rpm=6000)
    permit = await admit(t)
    assert str(t.explain()) == f"m: no call waits; 1 in flight of {t.stats().budgets[0].concurrency_limit}"
    permit.settle(Outcome.SUCCESS)


SERVERS = {
    "requests, configured": ({"rpm": 300, "announce": False}, {"rpm": 300}, (20,)),
    "tokens, announced, empty at first": ({"rpm": 3000, "tpm": 60_000, "initial_level": 0.0}, {}, (100, 500)),
    "tokens, announced, full at first": ({"rpm": 3000, "tpm": 60_000}, {}, (100, 500)),
    "no limits, 16 places": ({"slots": 16, "latency": 1.0, "announce": False}, {"max_concurrency": 16}, (20,)),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_wait_that_was_foretold_comes_true_within_a_fifth(name):
    server, options, sizes = SERVERS[name]

    async def main():
        async with throttled(Simulator(seed=3, **server), **options) as client:
            tasks = [start(say(client, text_of(sizes[i % len(sizes)]))) for i in range(400)]
            await asyncio.sleep(8)
            middle = next(task for task in tasks[200:] if client.throttle.explain(task).waits)
            [foretold] = client.throttle.explain(middle).waits
            asked = now()
            while client.throttle.explain(middle).waits:
                await asyncio.sleep(0.1)
            goes_in = now() - asked
            await gather(*tasks)
            return foretold, goes_in, now() - asked

    foretold, goes_in, done_in = virtual_run(main())
    assert foretold.goes_in == pytest.approx(goes_in, rel=0.2, abs=0.3)
    assert foretold.done_in == pytest.approx(done_in, rel=0.2, abs=0.5)


def test_a_task_on_another_loop_than_the_deciding_one_is_found():
    async def main():
        t = throttle(rpm=60, threads=True)
        await call(t)
        tasks = [start(call(t)) for _ in range(3)]
        while t.stats().waiting < 3:
            await asyncio.sleep(0.01)
        place = t.explain(tasks[2]).waits[0].place
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return place

    assert asyncio.run(main()) == 3
