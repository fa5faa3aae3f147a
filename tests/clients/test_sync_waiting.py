"""A blocking call in the queue: time limits, full queues, priorities, signals."""

import gc
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from interrupts import Interrupted, interrupted_after, unix
from scripted import URL, Says
from sync_clients import Body, Script, events, is_idle, say, soon, threads, throttled
from throttled_openai import AdmissionTimeout, QueueFull, RequestTooLarge, queue_options


def holding(client, script):
    """Another client, which holds the only permit until its stream is closed."""
    script._responses.insert(0, Says(body=Body(events())))
    return say(client, stream=True)


def test_a_call_over_max_wait_raises_a_timeout_and_is_never_sent():
    script = Script()
    client = throttled(script, max_concurrency=1, max_wait=0.2)
    with holding(client, script), pytest.raises(AdmissionTimeout, match=r"not admitted within max_wait=0\.2 s") as told:
        say(client, "the launch code")
    assert isinstance(told.value, openai.APITimeoutError)
    assert told.value.request.method == "POST"
    assert str(told.value.request.url) == f"{URL}/chat/completions"
    assert not told.value.request.content
    assert len(script.seen) == 1
    assert is_idle(client)


def test_a_full_queue_raises_queue_full_with_retry_after():
    script = Script()
    client = throttled(script, max_concurrency=1, max_queued=1)
    with holding(client, script) as held, threads(1, lambda _: say(client)):
        soon(lambda: client.throttle.stats().waiting == 1)
        with pytest.raises(QueueFull) as full:
            say(client)
        assert full.value.waiting == 1
        assert full.value.retry_after > 0
        held.close()
    assert is_idle(client)


def test_a_call_that_can_never_fit_fails_at_once():
    announces = Says(headers={"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "900"})
    client = throttled(Script(announces, announces))
    say(client)
    say(client)
    with pytest.raises(RequestTooLarge, match="shorten the input"):
        say(client, "a" * 10_000)


def test_queue_options_apply_to_the_calls_of_this_thread():
    script = Script()
    client = throttled(script, max_concurrency=1)
    with holding(client, script), queue_options(max_wait=0.1), pytest.raises(AdmissionTimeout):
        say(client)


def test_calls_of_a_higher_priority_go_first():
    script = Script()
    client = throttled(script, max_concurrency=1)
    with holding(client, script) as held, ThreadPoolExecutor(2) as pool:
        usual = pool.submit(say, client, "usual")
        soon(lambda: client.throttle.stats().waiting == 1)
        urgent = pool.submit(say, client.with_throttle(priority=1), "urgent")
        soon(lambda: client.throttle.stats().waiting == 2)
        held.close()
        usual.result(30)
        urgent.result(30)
    assert [seen.text for seen in script.seen[1:]] == ["urgent", "usual"]


@unix
def test_a_call_interrupted_in_the_queue_leaves_it():
    script = Script()
    client = throttled(script, max_concurrency=1)
    with holding(client, script):
        with pytest.raises(Interrupted), interrupted_after(0.2):
            say(client)
        soon(lambda: client.throttle.stats().waiting == 0)
        assert client.throttle.stats().in_flight == 1
    assert is_idle(client)
    say(client)


@unix
def test_a_call_interrupted_during_its_attempt_gives_its_permit_back():
    client = throttled(Script(Says(delay=30)), max_concurrency=1)
    with pytest.raises(Interrupted), interrupted_after(0.2):
        say(client)
    soon(lambda: is_idle(client))
    say(client)


@unix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted finalizers
def test_an_interrupt_at_any_instant_leaves_nothing_behind():
    """A few hundred times, at any instruction of a call."""
    client = throttled(Script(), max_concurrency=1)
    say(client)
    dice = random.Random(7)
    began = time.perf_counter()
    for _ in range(20):
        say(client)
    usual = (time.perf_counter() - began) / 20
    ends = Counter()
    for _ in range(300):
        try:
            with interrupted_after(dice.uniform(0.05, 1.1) * usual):
                say(client)
        except Interrupted:
            ends["interrupted"] += 1
        except openai.APIConnectionError:
            ends["wrapped"] += 1
        else:
            ends["done"] += 1
        # An interrupted frame may hold on to its permit as long as its exception is referred to.
        gc.collect(0)
    gc.collect()
    soon(lambda: is_idle(client))
    assert ends["interrupted"] > 30
    assert say(client)
