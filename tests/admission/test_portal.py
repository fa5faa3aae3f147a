"""The portal: each caller gets the answer or gives it up, never both and never neither."""

import asyncio
import contextlib
import itertools
import threading
import time

import pytest

from interrupts import Interrupted, interrupted_after, unix
from portals import Asked, turn
from support import Outcome, QueueOptions
from throttled_openai import QueueFull, Throttle
from throttled_openai._admission import portal as _portal
from throttled_openai._admission.call import Call
from throttled_openai._admission.home import post
from throttled_openai._admission.portal import Portal
from throttled_openai.simulator import VirtualTimeLoop


@pytest.fixture
def own():
    """The event loop of a caller."""
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


class Work:
    """The work of a submission: it waits for `may_end`, and counts how it ends."""

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


def test_a_submission_abandoned_before_it_began_never_runs(portal):
    work = Work(portal.loop)
    asked = question(portal, work)
    asked.abandon()
    turn(portal.loop, 5)
    assert (work.made, work.turned_away) == (0, [])


def test_abandoning_a_running_submission_cancels_it(portal):
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


def test_the_error_of_an_abandoned_submission_is_dropped(portal):
    async def fail():
        raise ValueError

    turned_away = []
    asked = Asked(portal, fail, turned_away.append)
    turn(portal.loop, 3)
    asked.abandon()
    assert turned_away == []


def test_a_coroutine_that_cancels_itself_ends_the_wait(threaded):
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
    """For systems on which an endless wait cannot be interrupted."""
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


def test_a_task_fails_if_it_needs_a_thread_and_none_can_be_started(monkeypatch):
    portal = Portal()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        asyncio.run(portal.run_async(lambda: None))
    monkeypatch.undo()
    assert portal._loop is None


def test_a_submission_with_patience_times_out_after_it(threaded):
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


def test_callbacks_posted_to_a_closed_loop_are_dropped():
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
