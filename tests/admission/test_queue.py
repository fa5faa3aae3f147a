"""The queue: the order of waiting calls, their sizes and their deadlines."""

import asyncio
import collections
import heapq
import math
import types
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import ORDINARY, Call, QueueOptions, admit, call, start, throttle, ticks, timers, virtual, virtual_run
from throttled_openai._admission import queue as _queue
from throttled_openai._admission.call import Outcome
from throttled_openai._admission.queue import CANCELLED_AT_ONCE, CANCELLED_KEPT, FAIRNESS_INTERVAL, LAST, Queue, Waiter
from throttled_openai._control.budget import Budget

MANY = 100_000


def waiter(number, tokens=1, *, priority=0, since=0.0, max_wait=None):
    """A waiter with the arrival number `number`."""
    asked = Call("m", tokens, QueueOptions(priority=priority, max_wait=max_wait))
    return Waiter(asked, (-priority, number), since, asyncio.get_running_loop().create_future())


def queue_of(*waiters):
    queue = Queue()
    for one in waiters:
        queue.add(one)
    return queue


def give_up(queue, waiter):
    """What a limiter does when the caller has gone."""
    waiter.future.cancel()
    queue.waiting -= 1


# --- order ----------------------------------------------------------------------------------------


@virtual
async def test_oldest_lists_the_oldest_of_each_size_by_age():
    waiters = [waiter(n, tokens) for n, tokens in enumerate([100, 1, 90, 1, 2000, 3, 2, 0])]
    queue = queue_of(*reversed(waiters))
    # 64 to 127; 1; 1024 to 2047; 2 and 3; 0
    assert queue.oldest() == [waiters[n] for n in (0, 1, 4, 5, 7)]
    assert queue.head() == (0, 0)
    queue.take(waiters[0])
    assert queue.oldest() == [waiters[n] for n in (1, 2, 4, 5, 7)]


@virtual
async def test_a_higher_priority_is_older_than_any_arrival():
    late, early, urgent = waiter(2), waiter(1), waiter(3, 500, priority=7)
    queue = queue_of(late, early, urgent)
    assert queue.oldest() == [urgent, early]
    assert queue.head() == (-7, 3)


@virtual
async def test_every_tenth_to_leave_is_the_one_that_has_waited_longest():
    patient, urgent = [waiter(n) for n in range(3)], [waiter(n, priority=5) for n in range(10, 50)]
    queue = queue_of(*patient, *urgent)
    left = []
    while queue.waiting:
        left.append(queue.oldest()[0])
        queue.take(left[-1])
    assert [left.index(one) for one in patient] == [
        FAIRNESS_INTERVAL - 1,
        2 * FAIRNESS_INTERVAL - 1,
        3 * FAIRNESS_INTERVAL - 1,
    ]
    assert [one for one in left if one in urgent] == urgent


@virtual
async def test_whose_turn_it_is_by_age_stays_first_while_smaller_ones_pass():
    large, urgent = waiter(0, 5000), [waiter(n, priority=5) for n in range(1, 30)]
    queue = queue_of(large, *urgent)
    for _ in range(FAIRNESS_INTERVAL - 1):
        queue.take(queue.oldest()[0])
    for _ in range(5):
        assert queue.oldest()[0] is large
        queue.take(queue.oldest()[1])
    queue.take(large)
    assert queue.oldest()[0] is urgent[FAIRNESS_INTERVAL + 4]


@virtual
async def test_add_returns_whether_the_call_is_now_the_oldest_of_its_size():
    queue = Queue()
    assert queue.add(waiter(5, 100))
    assert not queue.add(waiter(6, 127))
    assert queue.add(waiter(7, 128))
    assert queue.add(waiter(4, 64))


@virtual
async def test_a_call_added_behind_cancelled_ones_may_be_first():
    """Or nothing would wake it: the timer went with the last of them."""
    gone = [waiter(n) for n in range(3)]
    queue = queue_of(*gone)
    for one in gone:
        give_up(queue, one)
    assert queue.add(waiter(3))
    assert queue.oldest()[0].order == (0, 3)
    assert not queue.add(waiter(4))


@virtual
async def test_the_position_of_an_empty_queue_sorts_last():
    assert Queue().head() == LAST
    assert Queue().oldest() == []
    assert LAST > (10**9, 10**9)


# --- giving up ------------------------------------------------------------------------------------


@virtual
async def test_cancelled_waiters_are_neither_counted_nor_listed():
    waiters = [waiter(n, 1 + n % 2) for n in range(6)]
    queue = queue_of(*waiters)
    for one in waiters[:3]:
        give_up(queue, one)
    assert (queue.waiting, queue.oldest()) == (3, waiters[3:5])
    for one in waiters[3:]:
        give_up(queue, one)
    assert (queue.waiting, queue.oldest(), queue.head()) == (0, [], LAST)
    assert not queue._heaps


@virtual
async def test_cancelled_waiters_are_removed_in_bounded_portions():
    waiters = [waiter(n) for n in range(2 * CANCELLED_AT_ONCE + 10)]
    queue, last = queue_of(*waiters), waiter(10**6)
    queue.add(last)
    for one in waiters:
        give_up(queue, one)
    looks = 1
    while not queue.oldest():
        looks += 1
        assert queue.waiting == 1
    assert looks == 3
    assert queue.oldest() == [last]


@virtual
async def test_cancelled_waiters_behind_a_waiting_one_are_removed():
    queue, first = Queue(), waiter(0)
    queue.add(first)
    for number in range(1, 10 * CANCELLED_KEPT):
        gone = waiter(number, number, max_wait=1e6)
        queue.add(gone)
        gone.future.cancel()
        queue.left()
    assert queue.oldest() == [first]
    assert sum(map(len, queue._heaps.values())) <= 2 + CANCELLED_KEPT
    assert len(queue._deadlines) <= 2 + CANCELLED_KEPT


@virtual
async def test_expired_waiters_are_removed_in_the_order_of_their_deadlines():
    waiters = [waiter(n, max_wait=wait) for n, wait in enumerate([5.0, None, 1.0, 3.0, 1.0])]
    queue = queue_of(*waiters)
    assert queue.next_deadline() == 1
    expired = []
    for one in queue.expired(3.0):
        one.future.set_exception(TimeoutError())
        one.future.exception()
        expired.append(one)
    assert expired == [waiters[2], waiters[4], waiters[3]]
    assert (queue.waiting, queue.next_deadline()) == (2, 5)
    give_up(queue, waiters[0])
    assert queue.next_deadline() == math.inf
    assert list(queue.expired(1e9)) == []


@virtual
async def test_a_deadline_counts_what_was_waited_before():
    asked = Call("m", 1, QueueOptions(max_wait=10.0))
    asked.waited = 4.0
    assert Waiter(asked, (0, 0), 100.0, asyncio.get_running_loop().create_future()).deadline == 106


@virtual
async def test_clear_returns_the_waiters_and_still_counts_those_cancelled_in_the_same_tick():
    waiters = [waiter(n, n) for n in range(5)]
    queue = queue_of(*waiters)
    give_up(queue, waiters[0])
    waiters[1].future.cancel()  # in this very tick: the limiter notices in the next
    assert sorted(queue.clear()) == waiters[2:]
    assert queue.waiting == 1
    queue.waiting -= 1
    assert (queue.oldest(), queue.next_deadline()) == ([], math.inf)


# --- promises -------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_the_queue_behaves_like_a_sorted_list(seed):
    async def walk():
        random, queue, left, now = Random(seed), Queue(), [], 0.0
        for number in range(200):
            step = random.choice(["add", "add", "take", "give up", "expire"])
            if step == "add":
                max_wait = random.choice([None, random.uniform(0.1, 30)])
                tokens, priority = random.choice([0, 1, 5, 9, 100, 5000]), random.choice([0, 0, 2])
                left.append(waiter(number, tokens, priority=priority, since=now, max_wait=max_wait))
                queue.add(left[-1])
            elif step == "take" and queue.oldest():
                chosen = random.choice(queue.oldest())
                queue.take(chosen)
                chosen.future.set_result(None)
                left.remove(chosen)
            elif step == "give up" and left:
                give_up(queue, left.pop(random.randrange(len(left))))
            else:
                now += random.expovariate(1)
                for one in queue.expired(now):
                    one.future.cancel()
                    assert one.deadline <= now
                    left.remove(one)
            heaps = {}
            for one in sorted(left):
                heaps.setdefault((one.call.queue_options.priority, int(one.call.tokens).bit_length()), one)
            told = queue.oldest()
            assert sorted(told) == sorted(heaps.values())
            if told:
                assert told[0] in (min(left), min(left, key=lambda one: one.order[1]))
                assert told[1:] == sorted(told[1:])
            assert queue.waiting == len(left)
            assert queue.next_deadline() == min((one.deadline for one in left), default=math.inf) > now

    virtual_run(walk())


# --- many -----------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """How often heaps were worked on, each time O(log n), and the budget was asked."""
    counts = collections.Counter()

    def counting(function):
        def run(*args, **kwargs):
            counts[function.__name__] += 1
            return function(*args, **kwargs)

        return run

    fake = types.SimpleNamespace(heappush=counting(heapq.heappush), heappop=counting(heapq.heappop))
    monkeypatch.setattr(_queue, "heapq", fake)
    monkeypatch.setattr(Budget, "delay", counting(Budget.delay))
    return counts


def go_on(coroutine):
    """Run until it waits: None; or to its end: what it returns. A task would do it 20 times slower."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    return None


@virtual
async def test_a_hundred_thousand_waiting_calls_cost_one_push_one_pop_and_few_looks_each(counted):
    t = throttle(rpm=600_000)
    await call(t)
    lane = t._dispatcher.limiters.find("m")
    waiting, open_ones, done = collections.deque(), [], lane.admitted
    sizes = [1, 30, 1000]
    for number in range(MANY):
        one = t._dispatcher.admit(Call("m", sizes[number % 3], ORDINARY))
        permit = go_on(one)
        if permit is None:
            waiting.append(one)
        else:
            open_ones.append(permit)
    assert t.waiting == len(waiting) > 0.98 * MANY
    while open_ones or t.waiting:
        done += len(open_ones)
        for permit in open_ones:
            permit.settle(Outcome.SUCCESS)
        await asyncio.sleep(0.1)
        open_ones = [go_on(waiting.popleft()) for _ in range(lane.admitted - done)]
    assert (done, t.waiting) == (MANY + 1, 0)
    assert timers() == []
    assert counted["heappush"] == counted["heappop"] <= MANY
    assert counted["delay"] <= 4 * MANY


@virtual
async def test_a_hundred_thousand_cancelled_calls_leave_nothing(counted):
    t = throttle(rpm=60)
    await call(t)
    patient = QueueOptions(max_wait=1000.0)
    waiting = [t._dispatcher.admit(Call("m", 1, patient)) for _ in range(MANY)]
    for one in waiting:
        one.send(None)
    assert t.waiting == MANY
    for one in waiting:
        with pytest.raises(asyncio.CancelledError):
            one.throw(asyncio.CancelledError)
    queue = t._dispatcher.limiters.find("m").queue
    assert (t.waiting, queue.oldest(), queue.next_deadline()) == (0, [], math.inf)
    assert (queue._heaps, queue._deadlines) == ({}, [])
    assert timers() == []
    assert counted["heappush"] == 2 * MANY
    assert counted["heappop"] <= 2 * MANY
    assert counted["delay"] <= 2 * MANY + 10
    assert await call(t) == 1


@virtual
async def test_ten_thousand_that_give_up_in_one_instant_are_cleared_away_in_turns_and_the_rest_goes_on():
    t = throttle(rpm=60)
    await call(t)
    tasks = [start(admit(t, max_wait=0.5)) for _ in range(10_000)]
    await ticks()
    patient = start(call(t))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error).__name__ for error in results} == {"AdmissionTimeout"}
    assert t.waiting == 1
    assert await patient == 1
