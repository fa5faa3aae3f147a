"""One throttle on several event loops in turn, some of which die with calls in flight."""

import asyncio

import pytest

from support import Call, Limits, Outcome, QueueOptions, admit, call, gather, start, throttle, ticks, virtual_run
from throttled_openai.simulator import VirtualTimeLoop


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
            waiting.send(None)  # waits, and is never resumed
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
