"""A throttle moves to the portal when a second event loop uses it; loops end with calls in flight or waiting."""

import asyncio
import contextlib
import itertools
import threading
import time

import pytest

from portals import turn
from support import Outcome, QueueOptions, announcement
from throttled_openai import Throttle
from throttled_openai._admission.call import Call
from throttled_openai._protocol.usage import Usage
from throttled_openai.simulator import VirtualTimeLoop

# A throttle that goes over to it.


class TwoLoops:
    """A throttle that decides on `own`, beside a portal, until `other` comes; the test turns all three."""

    def __init__(self, portal, monkeypatch, **options):
        monkeypatch.setattr("throttled_openai._admission.dispatcher.portal", portal)
        self.portal, self.own, self.other = portal, VirtualTimeLoop(), VirtualTimeLoop()
        self.throttle = Throttle(**options)
        self.throttle._dispatcher.random = lambda: 0.0

    def ask(self, loop, **queue_options):
        return loop.create_task(self.throttle._dispatcher.admit(Call("m", 1, QueueOptions(**queue_options))))

    def turn(self, times=6):
        """Let all three run; a second passes on each."""
        for loop in (self.own, self.other, self.portal.loop):
            loop.jump(1.0)
        for _ in range(times):
            for loop in (self.own, self.other, self.portal.loop):
                if not loop.is_closed():
                    turn(loop)

    def close(self):
        for loop in (self.own, self.other):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            turn(loop, 3)
            loop.close()
        turn(self.portal.loop, 6)


@pytest.fixture
def two(portal, monkeypatch):
    made = TwoLoops(portal, monkeypatch, max_concurrency=1)
    yield made
    made.close()
    assert (made.throttle.in_flight, made.throttle.waiting) == (0, 0)


def admitted(task):
    return task.done() and not task.cancelled()


def test_with_a_second_running_loop_it_goes_over_and_everybody_keeps_what_they_have(two):
    first, second, third = (two.ask(two.own) for _ in range(3))
    turn(two.own, 3)
    assert (admitted(first), two.throttle.in_flight, two.throttle.waiting) == (True, 1, 2)
    other = two.ask(two.other)
    two.turn()
    assert (two.throttle._dispatcher.loop, two.throttle.in_flight, two.throttle.waiting) == (two.portal.loop, 1, 3)
    first.result().settle(Outcome.SUCCESS)  # on no loop, or any: it is posted
    for waiting in (second, third, other):  # in the order of their arrival
        two.turn()
        assert [task.done() for task in (second, third, other)].count(True) == 1 + (second, third, other).index(waiting)
        waiting.result().settle(Outcome.SUCCESS)
    two.turn()
    assert two.throttle.stats().succeeded == 4


def test_a_call_cancelled_during_the_takeover_loses_nothing(two):
    """At each turn of the three loops, in all of their orders."""
    for order in itertools.permutations(["own", "other", "portal"]):
        for when in range(10):
            run = TwoLoops(two.portal, pytest.MonkeyPatch(), max_concurrency=1)
            first, waiting = run.ask(run.own), run.ask(run.own)
            turn(run.own, 2)
            other = run.ask(run.other)
            for step in range(10):
                if step == when:
                    waiting.cancel()
                if step == 6 and first.done():
                    first.result().release()
                turn(getattr(run, order[step % 3]) if order[step % 3] != "portal" else run.portal.loop)
            run.turn()
            for task in (waiting, other):
                if admitted(task):
                    task.result().release()
                run.turn()
            assert admitted(other)
            assert (run.throttle.in_flight, run.throttle.waiting) == (0, 0), (order, when)
            run.close()


def test_learnt_limits_and_debts_survive_the_takeover(portal, monkeypatch):
    two = TwoLoops(portal, monkeypatch, rpm=6)
    first = two.ask(two.own)
    turn(two.own, 3)
    two.own.call_soon(first.result().observe, announcement(rpm=6, rpm_left=0))
    turn(two.own)
    (before,) = two.throttle.stats().budgets
    assert before.windows[0].announced
    other = two.ask(two.other)
    two.turn()
    (after,) = two.throttle.stats().budgets
    assert [window.limit for window in after.windows] == [window.limit for window in before.windows]
    assert after.admitted == 1
    assert not other.done()  # the request of the first one is still on the books
    first.result().settle(Outcome.SUCCESS)
    two.close()


def test_an_attempt_that_ends_after_its_throttle_went_over_is_counted_there(two):
    first, other = two.ask(two.own), None
    turn(two.own, 3)
    permit = first.result()
    other = two.ask(two.other)
    two.turn()
    permit.started()
    permit.used(Usage(10, 5))
    permit.settle(Outcome.SUCCESS)
    permit.release()
    two.turn()
    stats = two.throttle.stats()
    assert (stats.succeeded, stats.budgets[0].tokens_used, two.throttle._dispatcher.stall.streams) == (1, 15, 0)
    other.result().release()


def test_a_synchronous_call_takes_it_over_too():
    t = Throttle(max_concurrency=2)

    async def call():
        permit = await t._dispatcher.admit(Call("m", 1, QueueOptions()))
        await asyncio.sleep(0.01)
        permit.settle(Outcome.SUCCESS)

    async def main():
        calls = asyncio.gather(*(call() for _ in range(5)))
        await asyncio.sleep(0)
        assert t.waiting
        permit = await asyncio.to_thread(t._dispatcher.admit_blocking, Call("m", 1, QueueOptions()))
        permit.settle(Outcome.SUCCESS)
        await calls

    asyncio.run(main())
    assert (t.stats().succeeded, t.stats().in_flight, t.stats().waiting) == (6, 0, 0)


def test_hundreds_of_loops_in_threads_at_once_and_in_turn_lose_nothing():
    t = Throttle(max_concurrency=5)

    async def call():
        permit = await t._dispatcher.admit(Call("m", 1, QueueOptions()))
        await asyncio.sleep(0)
        permit.settle(Outcome.SUCCESS)

    async def calls():
        await asyncio.gather(*(call() for _ in range(10)))

    def work():
        for _ in range(20):
            asyncio.run(calls())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (t.stats().succeeded, t.stats().in_flight, t.stats().waiting) == (800, 0, 0)


# Event loops that end.


def left_behind(t, *, streams=0, waiting=3):
    """An event loop that was closed with two calls in flight and some that wait; a global keeps it alive."""
    kept = []

    async def leave():
        for number in range(2):
            kept.append(await t._dispatcher.admit(Call("m", 1, QueueOptions())))
            if number < streams:
                kept[-1].started()
        for _ in range(waiting):
            kept.append(asyncio.get_running_loop().create_task(t._dispatcher.admit(Call("m", 1, QueueOptions()))))
            kept[-1]._log_destroy_pending = False
        await asyncio.sleep(0.05)
        assert (t.stats().in_flight, t.stats().waiting) == (2, waiting)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    return loop, kept


@pytest.mark.parametrize("threads", [False, True])
def test_calls_of_a_closed_loop_are_forgotten(threads):
    t = Throttle(max_concurrency=2, threads=threads)
    kept = left_behind(t, streams=1)
    deadline = time.monotonic() + 10
    while (t.stats().in_flight, t.stats().waiting) != (0, 0):
        assert time.monotonic() < deadline
    assert t._dispatcher.stall.streams == 0
    del kept


@pytest.mark.parametrize("threads", [False, True])
def test_the_next_loop_is_admitted_at_once_where_the_one_before_was_closed_with_calls_in_flight(threads):
    t = Throttle(max_concurrency=2, threads=threads)
    kept = left_behind(t)

    async def main():
        async with asyncio.timeout(5):
            permits = [await t._dispatcher.admit(Call("m", 1, QueueOptions())) for _ in range(2)]
        for permit in permits:
            permit.settle(Outcome.SUCCESS)

    asyncio.run(main())
    assert (t.stats().in_flight, t.stats().waiting) == (0, 0)
    for one in kept[1]:
        if isinstance(one, asyncio.Task):
            with contextlib.suppress(RuntimeError):
                one.get_coro().close()
        else:
            one.release()
    assert (t.stats().in_flight, t.stats().waiting) == (0, 0)
    assert t.stats().succeeded == 2


def test_a_thread_that_waits_goes_on_once_a_loop_that_has_closed_is_looked_for(monkeypatch):
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.1)
    t = Throttle(max_concurrency=2, threads=True)
    t._dispatcher.stall.stall_timeout = 0.1
    loop = asyncio.new_event_loop()
    held = [loop.run_until_complete(t._dispatcher.admit(Call("m", 1, QueueOptions()))) for _ in range(2)]
    threading.Timer(0.2, loop.close).start()
    t._dispatcher.admit_blocking(Call("m", 1, QueueOptions(max_wait=10.0))).settle(Outcome.SUCCESS)
    del held


def test_a_loop_that_stands_still_does_not_hold_up_others_for_ever(monkeypatch):
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.05)
    t = Throttle(max_concurrency=1, threads=True)
    t._dispatcher.stall.stall_timeout = 0.05

    async def main():
        permit = await t._dispatcher.admit(Call("m", 1, QueueOptions()))

        async def other():
            (await t._dispatcher.admit(Call("m", 1, QueueOptions(max_wait=10.0)))).settle(Outcome.SUCCESS)

        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        thread.join(20)  # blocks the event loop
        permit.settle(Outcome.SUCCESS)
        permit.release()

    asyncio.run(main())
    assert (t.stats().in_flight, t.stats().waiting) == (0, 0)


def test_a_run_that_is_cancelled_in_the_middle_leaves_nothing():
    t = Throttle(max_concurrency=2)

    async def call():
        permit = await t._dispatcher.admit(Call("m", 1, QueueOptions()))
        try:
            await asyncio.sleep(60)
        finally:
            permit.release()

    async def main():
        tasks = [asyncio.create_task(call()) for _ in range(10)]
        await asyncio.sleep(0.01)
        asyncio.current_task().cancel()
        await asyncio.gather(*tasks)

    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
        assert (t.stats().in_flight, t.stats().waiting) == (0, 0)
