"""Throttles of several processes under one budget, in virtual time: the very script, in a store that may fail."""

import asyncio
import collections
import logging

import fakeredis
import pytest

from support import admit, announcement, call, gather, now, refusal, refuse, start, virtual
from throttled_openai import Throttle
from throttled_openai._admission.call import Outcome
from throttled_openai._admission.sharing import Shared
from throttled_openai._shared.lines import RedisLine
from throttled_openai._shared.place import read_place
from throttled_openai._shared.share import Share
from throttled_openai._shared.wire import read_answer, write_ask

PLACE = read_place("redis://nowhere:1/0")


class VirtualStore:
    """The script, on the clock of the running loop. `away`: no answer comes, or, with `slow`, very late."""

    def __init__(self, latency=0.001):
        self.latency = latency
        self.away = False
        self.steps = 0
        self.flush()

    def flush(self):
        self._line = RedisLine(PLACE, fakeredis.FakeRedis(decode_responses=True))

    def submit(self, budget, ask, on_answer):
        asyncio.get_running_loop().call_later(self.latency, self._answer, budget, ask, on_answer)

    def _answer(self, budget, ask, on_answer):
        self.steps += 1
        on_answer(None if self.away else read_answer(self._line.step(budget, write_ask(ask, f"{1000 + now():.6f}"))))


def process(store, *, fallback="open", **limits):
    """A throttle, as another process would have it."""
    made = Throttle(**limits)
    dispatcher = made._dispatcher
    dispatcher.random = lambda: 0.0
    dispatcher._sharing = lambda: Shared(store, fallback)
    dispatcher._reset()
    return made


async def busy(throttles, seconds, *, tokens=1, tasks=12, hold=0.05, log=None):
    """Admissions of each throttle in that time, with a queue before each."""
    ends, counts = now() + seconds, collections.Counter()

    async def repeat(number):
        while now() < ends:
            at = await call(throttles[number], tokens, seconds=hold)
            if at < ends:
                counts[number] += 1
                if log is not None:
                    log.append(at)

    running = [start(repeat(number)) for number in range(len(throttles)) for _ in range(tasks)]
    await asyncio.sleep(seconds)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return [counts[number] for number in range(len(throttles))]


@virtual
async def test_processes_have_one_limit_together_and_equal_shares():
    store = VirtualStore()
    counts = await busy([process(store, rpm=1200) for _ in range(4)], 10)
    assert 195 <= sum(counts) <= 218  # 20 a second, and a burst of 17
    assert max(counts) <= 1.3 * min(counts)
    assert store.steps <= 1.2 * sum(counts)


@virtual
async def test_tokens_are_shared_too():
    counts = await busy([process(VirtualStore(), tpm=60_000)] * 2, 10, tokens=100)
    assert 95 <= sum(counts) <= 110


@virtual
async def test_a_call_goes_at_once_when_nothing_waits():
    t = process(VirtualStore(), rpm=600)
    await call(t)
    await asyncio.sleep(5)
    before = now()
    assert await call(t) - before == pytest.approx(0.001)


@virtual
async def test_a_process_that_ends_leaves_its_share_to_the_others():
    store = VirtualStore()
    both = [process(store, rpm=1200) for _ in range(2)]
    await busy(both, 3)
    log = []
    await busy(both[:1], 3, log=log)
    assert sum(at > 4 for at in log) >= 0.97 * 40


@virtual
async def test_without_the_store_each_goes_on_with_its_last_share_and_comes_back_by_itself():
    store = VirtualStore()
    both = [process(store, rpm=1200) for _ in range(2)]
    await busy(both, 3)
    store.away = True
    away = await busy(both, 10)
    assert 190 <= sum(away) <= 204
    store.away = False
    store.flush()
    log = []
    await busy(both, 6, log=log)
    assert sum(at < 14 for at in log) <= 22
    assert sum(at < 15 for at in log) >= 30  # within 2 s
    assert sum(at > 15 for at in log) >= 0.97 * 80


@virtual
async def test_with_the_fallback_closed_calls_wait_for_the_store():
    store = VirtualStore()
    t = process(store, rpm=1200, fallback="closed")
    await call(t)
    await asyncio.sleep(2)
    store.away = True
    waiting = start(call(t))
    await asyncio.sleep(5)
    assert not waiting.done()
    store.away = False
    assert await waiting < 7.6


@virtual
async def test_a_store_that_was_never_there_costs_half_a_second_and_no_call():
    store = VirtualStore(latency=30.0)
    t = process(store, rpm=600)
    times = await gather(*(call(t) for _ in range(8)))
    assert max(times) < 1.5


@virtual
async def test_a_cancelled_call_leaves_its_slot_to_the_next_one_and_then_to_all():
    store = VirtualStore()
    t = process(store, rpm=60)
    await call(t)
    await call(t, seconds=0)
    waiting = [start(admit(t)) for _ in range(3)]
    await asyncio.sleep(0.1)
    for task in waiting:
        task.cancel()
    await asyncio.sleep(10)
    assert t.waiting == t.in_flight == 0
    before = now()
    assert await call(process(store, rpm=60)) - before < 0.01


@virtual
async def test_an_announced_limit_is_told_to_processes_that_have_not_seen_it():
    store = VirtualStore()
    one, other = process(store), process(store)
    permit = await admit(one)
    permit.observe(announcement(rpm=60, rpm_left=59))
    permit.settle(Outcome.SUCCESS)
    await asyncio.sleep(0.5)
    await busy([one], 1, tasks=1)
    assert sum(await busy([other], 10)) <= 13


@virtual
async def test_a_refusal_teaches_all_processes():
    store = VirtualStore()
    one, other = process(store), process(store)
    await busy([one, other], 2, hold=0.1)
    permit = await admit(one)
    refuse(permit, refusal("requests"))
    await busy([one, other], 1, hold=0.1)
    rates = [t._dispatcher.limiters.find("m").budget.request_rate for t in (one, other)]
    assert None not in rates
    assert rates[0] == pytest.approx(rates[1], rel=0.1)


@virtual
async def test_a_wait_that_the_server_names_holds_all_processes():
    store = VirtualStore()
    one, other = process(store, rpm=6000), process(store, rpm=6000)
    await busy([one, other], 1)
    refuse(await admit(one), refusal("requests", 3.0))
    since = now()
    log = []
    await busy([other], 2.5, log=log)
    assert sum(at > since + 0.4 for at in log) == 0


@virtual
async def test_urgent_calls_go_first_within_a_process():
    t = process(VirtualStore(), rpm=60)
    await gather(call(t), call(t))
    late = [start(call(t)) for _ in range(3)]
    await asyncio.sleep(0.1)
    urgent = await call(t, priority=1)
    assert urgent < min(await gather(*late))


def test_an_odd_lesson_changes_nothing():
    budget = process(VirtualStore(), rpm=60)._dispatcher.limiters.find("m").budget
    for text in ("", "[]", "[1, 2]", '[{"_base": -1}, {}]', "{}", "null"):
        budget.read_lessons(text, 0.0, 0.0)
    assert budget.request_rate == 1.0


def test_what_was_lost_on_the_way_is_told_again_but_nothing_is_given_back_twice():
    from throttled_openai._shared.share import View

    share = Share("m")
    share.adjust(2.0, -5.0)
    assert share.ask(View(waiting=1), [1.0], 0.0).spent == (2.0, -5.0)
    share.failed(0.1)
    assert share.ask(View(waiting=1), [1.0], 1.0).spent == (2.0, 0.0)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR)
