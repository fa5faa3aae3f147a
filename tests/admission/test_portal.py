"""The portal: each caller gets the answer or gives it up, never both and never neither."""

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from support import Outcome, QueueOptions, announcement, answer, refusal
from throttled_openai import AdmissionTimeout, QueueFull, Throttle
from throttled_openai._admission import portal as _portal
from throttled_openai._admission.call import Call
from throttled_openai._admission.home import post
from throttled_openai._admission.portal import Portal, Submission
from throttled_openai._admission.posted_permit import PostedPermit
from throttled_openai._protocol.usage import Usage
from throttled_openai.simulator import VirtualTimeLoop


def turn(loop, turns=1):
    """Let `loop` run what is ready, this many times; its clock stands still."""
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


class HandTurned(Portal):
    """A portal without a thread: the test turns its loop, whose time is virtual."""

    def __init__(self):
        super().__init__()
        self._loop = VirtualTimeLoop()

    here = True


@pytest.fixture
def portal():
    portal = HandTurned()
    yield portal
    portal.loop.close()


@pytest.fixture
def own():
    """The event loop of a caller."""
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


@pytest.fixture
def threaded():
    """A portal with a thread, which ends with the test."""
    portal = Portal()
    yield portal
    if portal._loop is not None:
        portal._loop.call_soon_threadsafe(portal._loop.stop)
        portal._thread.join(10)
        portal._loop.close()


class Asked(Submission):
    """A question of the test, which looks whether there is an answer."""

    def __init__(self, portal, make, unwanted=None):
        self.woken = 0
        super().__init__(portal.loop, make, self.woke, unwanted)
        self.submit()

    def woke(self):
        self.woken += 1

    def result(self):
        assert self.woken == 1
        return super().result()


class Work:
    """What is asked: it waits for `may_end`, and counts what becomes of it."""

    def __init__(self, loop):
        self.may_end = loop.create_future()
        self.made = self.cancelled = 0
        self.turned_away = []

    async def __call__(self):
        self.made += 1
        try:
            return await self.may_end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def end(self, result="answer"):
        if not self.may_end.done():
            self.may_end.set_result(result)


def question(portal, work):
    return Asked(portal, work, work.turned_away.append)


# A thread that asks.


def test_the_answer_is_what_the_coroutine_returns(portal):
    work = Work(portal.loop)
    asked = question(portal, work)
    turn(portal.loop, 2)
    assert not asked.woken
    work.end()
    turn(portal.loop, 2)
    assert asked.result() == "answer"
    assert not work.turned_away


def test_who_gives_up_before_it_has_begun_is_never_heard(portal):
    work = Work(portal.loop)
    asked = question(portal, work)
    asked.abandon()
    turn(portal.loop, 5)
    assert (work.made, work.turned_away) == (0, [])


def test_who_gives_up_while_it_waits_ends_the_wait(portal):
    work = Work(portal.loop)
    asked = question(portal, work)
    turn(portal.loop, 2)
    asked.abandon()
    turn(portal.loop, 5)
    assert (work.made, work.cancelled, work.turned_away) == (1, 1, [])


def test_an_answer_that_came_just_before_is_turned_away(portal):
    work = Work(portal.loop)
    asked = question(portal, work)
    turn(portal.loop, 2)
    work.end()
    turn(portal.loop, 2)
    asked.abandon()
    turn(portal.loop, 5)
    assert (work.cancelled, work.turned_away) == (0, ["answer"])


def test_an_answer_that_comes_in_spite_of_the_cancellation_is_turned_away(portal):
    work = Work(portal.loop)

    async def stubborn():
        with contextlib.suppress(asyncio.CancelledError):
            await work()
        return "answer"

    asked = Asked(portal, stubborn, work.turned_away.append)
    turn(portal.loop, 2)
    asked.abandon()
    turn(portal.loop, 5)
    assert work.turned_away == ["answer"]


def test_an_error_is_raised_where_it_was_asked(threaded):
    async def fail():
        raise QueueFull(max_queued=1, waiting=1, retry_after=2.0)

    with pytest.raises(QueueFull, match="1 calls are waiting"):
        threaded.run(fail)


def test_an_error_that_nobody_waits_for_is_dropped(portal):
    async def fail():
        raise ValueError

    turned_away = []
    asked = Asked(portal, fail, turned_away.append)
    turn(portal.loop, 3)
    asked.abandon()
    assert turned_away == []


def test_a_cancellation_that_nobody_asked_for_is_an_answer_too(threaded):
    """Or a thread would wait for ever."""

    async def fail():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        threaded.run(fail)


def test_without_anybody_to_take_it_a_result_is_dropped(portal):
    async def answers():
        return "answer"

    asked = Asked(portal, answers)
    turn(portal.loop, 3)
    asked.abandon()


class Interrupted(BaseException):
    pass


@contextlib.contextmanager
def interrupted_after(seconds):
    """As Ctrl-C does: an exception in the main thread, wherever it is."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs a signal to interrupt the main thread with")


@unix
@pytest.mark.parametrize("look", [-1.0, 0.01])
def test_a_blocked_thread_can_be_interrupted(threaded, look, monkeypatch):
    monkeypatch.setattr(_portal, "LOOK", look)
    cancelled = threading.Event()

    async def never():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    with pytest.raises(Interrupted), interrupted_after(0.2):
        threaded.run(never)
    assert cancelled.wait(10)


def test_looking_up_from_the_wait_now_and_then_changes_nothing(threaded, monkeypatch):
    """Where a wait without an end cannot be interrupted."""
    monkeypatch.setattr(_portal, "LOOK", 0.001)

    async def slow():
        await asyncio.sleep(0.1)
        return "answer"

    assert threaded.run(slow) == "answer"


# A task that asks.


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("steps", sorted(set(itertools.permutations("OOOPPP"))), ids="".join)
def test_a_task_has_the_answer_or_it_is_turned_away(portal, own, steps, ends):
    """In whatever order the two loops run (O: own, P: the portal's), and wherever the task is cancelled among it."""
    for when in range(len(steps) + 1):
        work = Work(portal.loop)
        if ends:
            work.end()
        task = own.create_task(portal.run_async(work, work.turned_away.append))
        for step in steps[:when]:
            turn({"O": own, "P": portal.loop}[step])
        task.cancel()
        for _ in range(4):
            turn(own)
            turn(portal.loop)
        taken = [] if task.cancelled() else [task.result()]
        assert taken + work.turned_away == ["answer"] * (ends and work.made and not work.cancelled)
        assert work.made <= 1


def test_a_task_is_woken_on_its_own_loop(portal, own):
    work = Work(portal.loop)
    task = own.create_task(portal.run_async(work, work.turned_away.append))
    turn(own)
    turn(portal.loop, 2)
    work.end()
    turn(portal.loop, 2)
    assert not task.done()
    turn(own, 2)
    assert task.result() == "answer"


def test_a_loop_that_was_closed_meanwhile_turns_the_answer_away(portal):
    own, work = VirtualTimeLoop(), Work(portal.loop)
    coroutine = portal.run_async(work, work.turned_away.append)
    task = own.create_task(coroutine)
    turn(own)
    turn(portal.loop, 2)
    own.close()
    work.end()
    turn(portal.loop, 2)
    coroutine.close()  # as the collector does
    task._log_destroy_pending = False
    assert work.turned_away == ["answer"]


def test_a_hundred_tasks_on_each_of_four_loops_have_their_answers(threaded):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    def run(results):
        async def main():
            asked = (threaded.run_async(lambda number=number: double(number)) for number in range(100))
            return await asyncio.gather(*asked)

        results.append(asyncio.run(main()))

    results = []
    threads = [threading.Thread(target=run, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [[2 * number for number in range(100)]] * 4


# The thread.


def test_no_thread_is_started_before_something_is_asked():
    before = threading.active_count()
    Throttle(threads=True).stats()
    Portal()
    assert threading.active_count() == before


def test_threads_that_ask_at_once_start_one_portal(threaded):
    loops, together = [], threading.Barrier(8)

    def start():
        together.wait()
        loops.append(threaded.loop)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(set(loops)) == 1
    assert len(loops) == 8


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def test_where_no_thread_can_be_started_those_that_ask_run_the_loop_in_turn(monkeypatch):
    portal, together, answers = Portal(), threading.Barrier(5), []
    monkeypatch.setattr(portal, "_start", no_thread)

    async def slow(number):
        await asyncio.sleep(0.01 * (number % 3))
        return number

    def work(number):
        together.wait()
        answers.extend(portal.run(lambda n=n: slow(n)) for n in range(number, 100, 5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == list(range(100))
    assert not portal.here
    portal._loop.close()


def test_where_no_thread_can_be_started_calls_are_admitted_and_settled(monkeypatch):
    t, portal = Throttle(max_concurrency=1, threads=True), Portal()
    monkeypatch.setattr(portal, "_start", no_thread)
    t._dispatcher._portal = portal

    def work():
        for _ in range(10):
            t._dispatcher.admit_blocking(Call("m", 1, QueueOptions())).settle(Outcome.SUCCESS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (t.stats().succeeded, t.stats().in_flight, t.stats().waiting) == (40, 0, 0)
    portal._loop.close()


def test_once_a_thread_can_be_started_it_takes_the_loop_over(monkeypatch):
    portal, over, answers = Portal(), threading.Event(), []
    monkeypatch.setattr(portal, "_start", no_thread)

    async def slow():
        await asyncio.sleep(0.001)
        return threading.current_thread().name

    def work():
        while not over.is_set():
            answers.append(portal.run(slow))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    monkeypatch.undo()
    assert asyncio.run(portal.run_async(slow)) == "throttled-openai"
    time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join(30)
    assert "throttled-openai" in answers
    assert answers[0] != "throttled-openai"
    loop, portal._loop = portal._loop, None
    loop.call_soon_threadsafe(loop.stop)
    portal._thread.join(10)
    loop.close()


def test_a_task_that_needs_a_thread_where_none_can_be_started_is_told_so(monkeypatch):
    portal = Portal()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        asyncio.run(portal.run_async(lambda: None))
    monkeypatch.undo()
    assert portal._loop is None


def test_who_asks_with_patience_is_told_after_it(threaded):
    busy = threading.Event()
    post(threaded.loop, busy.wait, 20)

    async def answer():
        return "answer"

    try:
        with pytest.raises(TimeoutError):
            threaded.run(answer, patience=0.05)
    finally:
        busy.set()
    assert threaded.run(answer, patience=20) == "answer"


def test_the_portal_does_not_wait_for_itself(threaded):
    async def ask_again():
        return threaded.run(lambda: None)

    with pytest.raises(AssertionError, match="wait for itself"):
        threaded.run(ask_again)


def test_what_is_posted_to_a_closed_loop_is_dropped():
    loop = VirtualTimeLoop()
    loop.close()
    post(loop, print)


def test_at_rest_it_has_done_what_was_posted_before_and_does_nothing_after(threaded):
    done = []
    loop = threaded.loop
    for number in range(100):
        post(loop, done.append, number)
    threaded.drain()
    post(loop, done.append, "late")
    assert done == list(range(100))
    assert threaded.loop is not loop  # a later caller is answered nevertheless


def test_a_portal_that_never_began_rests_at_once():
    Portal().drain()


# A throttle that lives there.


def throttle(portal, **options):
    made = Throttle(threads=True, **options)
    made._dispatcher._portal = portal
    made._dispatcher.random = lambda: 0.0
    return made


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
    """The lane sees the reports in their order, however far the thread is by then."""
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


def test_who_gives_up_in_the_queue_lets_the_next_one_go(portal):
    t = throttle(portal, max_concurrency=1)
    first, second, third = ask(t, portal), ask(t, portal), ask(t, portal)
    second.abandon()
    turn(portal.loop, 3)
    assert t.waiting == 1
    first.result().settle(Outcome.SUCCESS)
    turn(portal.loop, 3)
    assert third.woken
    assert t.in_flight == 1


def test_who_gives_up_in_the_moment_of_the_permit_costs_nothing(portal):
    t = throttle(portal, rpm=60)
    asked = ask(t, portal)
    level = t.stats().budgets[0].windows[0].spendable
    asked.abandon()
    turn(portal.loop)
    assert t.in_flight == 0
    assert t.stats().budgets[0].windows[0].spendable == level + 1


def test_errors_of_admission_come_through(portal):
    t = throttle(portal, max_concurrency=1)
    held, late = ask(t, portal), ask(t, portal, max_wait=3.0)
    with pytest.raises(QueueFull):
        ask(t, portal, max_queued=1).result()
    portal.loop.jump(3.0)
    turn(portal.loop, 3)
    with pytest.raises(AdmissionTimeout, match="not admitted within max_wait=3 s"):
        late.result()
    held.result().settle(Outcome.SUCCESS)


def test_who_is_slow_to_take_its_permit_teaches_no_latency(portal):
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
    t._dispatcher.observe(announcement(rpm=60, rpm_left=59))  # no call yet: nobody to tell
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


def test_a_throttle_that_nobody_holds_is_collected_with_its_clients_gone():
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


def test_who_is_cancelled_while_it_goes_over_loses_nothing(two):
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


def test_what_was_learnt_and_spent_is_kept_when_it_goes_over(portal, monkeypatch):
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
def test_what_a_closed_loop_had_in_flight_or_waiting_is_forgotten(threads):
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


# Processes.


def run(code, *, interrupt_after=None, timeout=30, **environment):
    """What `code` prints in an interpreter of its own, its exit code, and how long it took."""
    preamble = """
        import os, signal, sys, threading, time
        from throttled_openai import Throttle
        from throttled_openai._admission.call import Call, Outcome, QueueOptions

        def ask(throttle, model="m"):
            return throttle._dispatcher.admit_blocking(Call(model, 1, QueueOptions()))
    """
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(preamble) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONASYNCIODEBUG": "0", **environment},
    )
    try:
        if interrupt_after is not None:
            assert process.stdout.readline() == f"{interrupt_after}\n"
            process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out.split(), error


def test_an_interpreter_ends_while_threads_wait():
    code = """
        t = Throttle(max_concurrency=1, threads=True)
        held = ask(t)
        for _ in range(5):
            threading.Thread(target=ask, args=(t,), daemon=True).start()
        while t.stats().waiting < 5:
            time.sleep(0.01)
        print("ends")
    """
    assert run(code) == (0, ["ends"], "")


@unix
def test_an_interpreter_that_waits_ends_at_an_interrupt():
    code = """
        t = Throttle(max_concurrency=1, threads=True)
        held = ask(t)
        try:
            print("waits", flush=True)
            ask(t)
        except KeyboardInterrupt:
            print(t.stats().waiting, t.stats().in_flight)
            raise
    """
    status, out, error = run(code, interrupt_after="waits")
    assert status in {130, -signal.SIGINT}
    assert out == ["0", "1"]
    assert error.strip().endswith("KeyboardInterrupt")


def test_an_interpreter_ends_with_permits_and_streams_in_hand():
    code = """
        t = Throttle(threads=True)
        held = ask(t)
        held.started()
        other = ask(t)
        print("ends")
    """
    assert run(code) == (0, ["ends"], "")


def test_what_is_asked_at_the_interpreters_exit_is_answered():
    """By handlers that run before it rests, and after."""
    code = """
        import atexit
        import throttled_openai._admission.portal as p
        atexit.unregister(p.portal.drain)
        t = Throttle(threads=True)

        def use(name):
            permit = ask(t)
            permit.settle(Outcome.SUCCESS)
            print(name)

        atexit.register(use, "after")
        atexit.register(p.portal.drain)
        atexit.register(use, "before")
        use("during")
    """
    assert run(code) == (0, ["during", "before", "after"], "")


def test_an_interpreter_ends_after_what_was_settled_before():
    """With its last log line: a daemon thread that died while it wrote one would be fatal."""
    code = """
        import logging
        from throttled_openai._admission.home import post
        logging.basicConfig(level="DEBUG", stream=sys.stdout, format="%(message)s")
        logging.getLogger("asyncio").disabled = True  # it tells of slow callbacks
        t = Throttle(threads=True)
        permit = ask(t)
        post(permit.loop, time.sleep, 0.3)
        permit.settle(Outcome.SUCCESS)
    """
    status, out, error = run(code)
    assert (status, error) == (0, "")
    assert out[:4] == ["m:", "attempt", "success", "after"]
    assert float(out[4]) >= 0.3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_anew_and_the_parent_goes_on():
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork with threads
        t = Throttle(max_concurrency=2, threads=True)
        held = ask(t)
        time.sleep(0.05)
        child = os.fork()
        if not child:
            inherited = held
            print(t.stats().in_flight, flush=True)
            mine = [ask(t), ask(t)]
            inherited.settle(Outcome.SUCCESS)  # the parent's: nothing of ours
            print(t.stats().in_flight, flush=True)
            for permit in mine:
                permit.settle(Outcome.SUCCESS)
            print(t.stats().in_flight, t.stats().succeeded, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(status, t.stats().in_flight)
        other = ask(t)
        print(t.stats().in_flight)
        held.settle(Outcome.SUCCESS)
        other.settle(Outcome.SUCCESS)
        print(t.stats().in_flight)
    """
    status, out, error = run(code)
    assert (status, error) == (0, "")
    assert out == ["0", "2", "0", "2", "0", "1", "2", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_was_forked_while_the_portal_was_busy_is_as_good():
    code = """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        t = Throttle(max_concurrency=3, threads=True)
        over = threading.Event()

        def work():
            while not over.is_set():
                ask(t).settle(Outcome.SUCCESS)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if not child:
                for permit in [ask(t), ask(t), ask(t)]:
                    permit.settle(Outcome.SUCCESS)
                os._exit(0 if t.stats().in_flight == 0 and t.stats().succeeded == 3 else 1)
            print(os.waitpid(child, 0)[1])
        over.set()
        for thread in threads:
            thread.join()
        print(t.stats().in_flight, t.stats().waiting)
    """
    status, out, error = run(code, timeout=60)
    assert (status, error) == (0, "")
    assert out == ["0"] * 22


def test_a_throttle_is_shown_though_the_portal_is_busy():
    """A log handler shows it with its lock held, which the portal may be waiting for."""
    throttle = Throttle(rpm=60, threads=True)
    permit = throttle._dispatcher.admit_blocking(Call("m", 1, QueueOptions()))
    busy = threading.Event()
    post(permit.loop, busy.wait, 20)
    try:
        assert "1 in flight" in repr(throttle)
    finally:
        busy.set()
    permit.settle(Outcome.SUCCESS)
