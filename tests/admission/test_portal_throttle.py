"""A throttle whose decisions are made on the portal's thread: permits, usage, errors and stats."""

import asyncio
import gc
import threading
import time

import pytest

from portals import Asked, turn
from support import Outcome, QueueOptions, announcement, answer, refusal
from throttled_openai import AdmissionTimeout, QueueFull, Throttle
from throttled_openai._admission.call import Call
from throttled_openai._admission.posted_permit import PostedPermit
from throttled_openai._protocol.usage import Usage


def throttle(portal, **options):
    made = Throttle(threads=True, **options)
    made._dispatcher._portal = portal
    made._dispatcher.random = lambda: 0.0
    return made


# A throttle that lives there.


def ask(throttle, portal, tokens=1, model="m", **queue_options):
    """A call that waits for its permit, as a thread's does."""
    call = Call(model, tokens, QueueOptions(**queue_options))
    asked = Asked(
        portal, lambda: throttle._dispatcher.admit_on_portal(call), lambda permit: permit.release(Outcome.UNSENT)
    )
    turn(portal.loop, 3)
    return asked


def test_a_permit_is_granted_used_and_settled_there(portal):
    t = throttle(portal, rpm=600)
    permit = ask(t, portal).result()
    assert isinstance(permit, PostedPermit)
    permit.observe(announcement(rpm=60, rpm_left=59))
    permit.started()
    permit.used(Usage(10, 5))
    permit.settle(Outcome.SUCCESS)
    assert t.in_flight == 1  # posted is not done
    turn(portal.loop)
    stats = t.stats().budgets[0]
    assert (stats.in_flight, stats.succeeded, stats.tokens_used, stats.windows[0].limit) == (0, 1, 15, 60.0)


def test_usage_that_is_reported_before_the_end_is_settled_once(portal):
    """The limiter sees the reports in their order, however far the thread is by then."""
    t = throttle(portal, tpm=6000)
    permit = ask(t, portal, tokens=100).result()
    permit.used(Usage(50, 0))
    permit.settle(Outcome.SUCCESS)
    permit.used(Usage(60, 0))
    turn(portal.loop)
    assert t.stats().budgets[0].tokens_used == 60


def test_a_permit_that_two_threads_settle_is_settled_once(portal):
    t = throttle(portal, max_concurrency=1)
    permit = ask(t, portal).result()
    permit.settle(Outcome.SUCCESS)
    permit.open = True  # what the other one saw
    permit.settle(Outcome.IGNORED)
    turn(portal.loop)
    assert (t.in_flight, t.stats().succeeded) == (0, 1)
    with pytest.raises(AssertionError, match="settled twice"):
        permit.settle(Outcome.SUCCESS)
    permit.release()


def test_a_refusal_in_the_middle_of_a_stream_goes_with_the_release(portal):
    t = throttle(portal)
    permit = ask(t, portal).result()
    permit.refusal = refusal("requests", 5.0)
    permit.release(Outcome.SUCCESS, answer())
    turn(portal.loop)
    assert t.stats().refused == 1


def test_a_permit_that_is_dropped_is_given_back(portal):
    t = throttle(portal, max_concurrency=1)
    asked = ask(t, portal)
    assert t.in_flight == 1
    del asked
    gc.collect()
    turn(portal.loop)
    assert t.in_flight == 0


def test_a_permit_whose_stream_is_dropped_is_left_to_the_stream(portal):
    t = throttle(portal)
    permit = ask(t, portal).result()
    permit.started()
    del permit
    gc.collect()
    turn(portal.loop)
    assert t.in_flight == 1


def test_a_caller_that_gives_up_in_the_queue_admits_the_next(portal):
    t = throttle(portal, max_concurrency=1)
    first, second, third = ask(t, portal), ask(t, portal), ask(t, portal)
    second.abandon()
    turn(portal.loop, 3)
    assert t.waiting == 1
    first.result().settle(Outcome.SUCCESS)
    turn(portal.loop, 3)
    assert third.woken
    assert t.in_flight == 1


def test_a_caller_that_gives_up_as_its_permit_comes_loses_nothing(portal):
    t = throttle(portal, rpm=60)
    asked = ask(t, portal)
    level = t.stats().budgets[0].windows[0].spendable
    asked.abandon()
    turn(portal.loop)
    assert t.in_flight == 0
    assert t.stats().budgets[0].windows[0].spendable == level + 1


def test_errors_of_admission_reach_the_caller(portal):
    t = throttle(portal, max_concurrency=1)
    held, late = ask(t, portal), ask(t, portal, max_wait=3.0)
    with pytest.raises(QueueFull):
        ask(t, portal, max_queued=1).result()
    portal.loop.jump(3.0)
    turn(portal.loop, 3)
    with pytest.raises(AdmissionTimeout, match="not admitted within max_wait=3 s"):
        late.result()
    held.result().settle(Outcome.SUCCESS)


def test_a_permit_collected_late_teaches_no_latency(portal):
    """Its thread, or the whole process, is busy; the server is not slow."""
    t = throttle(portal)
    permit = t._dispatcher._received(ask(t, portal).result())
    turn(portal.loop)
    assert not t._dispatcher.lag.late
    portal.loop.jump(1.0)
    t._dispatcher._received(permit).settle(Outcome.SUCCESS)
    turn(portal.loop)
    assert t._dispatcher.lag.late
    for _ in range(3):  # once it is on time again, that is seen too
        portal.loop.jump(1.0)
        t._dispatcher._received(ask(t, portal).result()).settle(Outcome.SUCCESS)
        turn(portal.loop, 3)
    assert not t._dispatcher.lag.late


def test_limits_announced_without_a_permit_are_learnt_there(portal):
    t = throttle(portal)
    t._dispatcher.observe(announcement(rpm=60, rpm_left=59))  # no call yet, so no limiter
    held = ask(t, portal).result()
    t._dispatcher.observe(announcement())
    t._dispatcher.observe(announcement(rpm=60, rpm_left=59))
    turn(portal.loop, 2)
    assert [window.limit for window in t.stats().budgets[0].windows] == [60.0]
    held.release()


def test_stats_are_taken_between_two_decisions(threaded):
    """Whatever the other threads do: waiting, in flight and succeeded are of one instant."""
    t = throttle(threaded, max_concurrency=4)
    over = threading.Event()

    def work():
        while not over.is_set():
            permit = t._dispatcher.admit_blocking(Call("m", 1, QueueOptions()))
            permit.settle(Outcome.SUCCESS)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            stats = t.stats().budgets[0] if t.stats().budgets else None
            if stats:
                assert stats.admitted == stats.succeeded + stats.in_flight
                assert stats.in_flight <= 4
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
    assert t.stats().in_flight == 0
    assert t.stats().waiting == 0


def test_a_throttle_keeps_its_kind_when_it_is_changed():
    assert Throttle(threads=True).changed(rpm=5).threads
    assert not Throttle().changed(rpm=5).threads


def test_a_throttle_is_collected_with_its_last_client():
    t = Throttle(threads=True)
    permit = t._dispatcher.admit_blocking(Call("m", 1, QueueOptions()))
    permit.settle(Outcome.SUCCESS)
    t.stats()
    import weakref

    gone = weakref.ref(t)
    del t, permit
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


# What it tells while others hold what it may need.


@pytest.mark.parametrize("threads", [False, True])
def test_stats_never_wait_for_what_decides(threads):
    t = Throttle(rpm=60, threads=threads)
    inside, go_on = threading.Event(), threading.Event()

    def work():
        async def main():
            permit = await t._dispatcher.admit(Call("m", 1, QueueOptions()))
            t._dispatcher.decide(lambda: (inside.set(), go_on.wait(20)))
            await asyncio.sleep(0)
            permit.release()

        asyncio.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(10)
        before = time.monotonic()
        assert t.stats().in_flight == 1
        assert "1 in flight" in repr(t)
        assert time.monotonic() - before < 5
    finally:
        go_on.set()
        thread.join(20)
    assert t.stats().in_flight == 0
