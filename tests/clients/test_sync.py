"""`ThrottledOpenAI` is `OpenAI`: its arguments, results, errors and counters, behind a throttle, in any thread."""

import asyncio
import contextlib
import functools
import gc
import inspect
import io
import json
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai import AzureOpenAI, OpenAI
from pydantic import BaseModel

from scripted import CHAT, FAMILIES, HI, URL, Says, Seen, refuses, without_jitter
from test_client import OURS
from throttled_openai import (
    AccountBlocked,
    AdmissionTimeout,
    PooledHttpxClient,
    QueueFull,
    RequestTooLarge,
    Throttle,
    ThrottledAsyncOpenAI,
    ThrottledAzureOpenAI,
    ThrottledMixin,
    ThrottledOpenAI,
    queue_options,
)
from throttled_openai.simulator import Fault, Simulator, serve

families = pytest.mark.parametrize("family", FAMILIES)

EVENTS = [
    {**CHAT, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "yes"}}], "usage": None},
    {**CHAT, "object": "chat.completion.chunk", "choices": []},
]


def module_of(family):
    import importlib

    return importlib.import_module(family)


def events(*told, done=True):
    """A streamed body."""
    lines = [f"data: {json.dumps(event)}\n\n" for event in told or EVENTS]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


class Body:
    """A response's stream in pieces: `broken` after them, or else it ends; it counts its closings."""

    def __init__(self, *pieces, broken=None):
        self.pieces = pieces
        self.broken = broken
        self.closed = 0

    def __iter__(self):
        yield from self.pieces
        if self.broken is not None:
            raise self.broken

    def close(self):
        self.closed += 1


class Script:
    """A server in memory that says these in turn, then a success to everything; a function is called for its answer."""

    def __init__(self, *responses):
        self.seen = []
        self._responses = list(responses)

    def client(self, family=FAMILIES[-1], **options):
        module = module_of(family)
        transport = type("ScriptTransport", (module.BaseTransport,), {})()
        transport.handle_request = functools.partial(self.answer, module)
        return module.Client(transport=transport, **options)

    def answer(self, module, request):
        body = b"".join(request.stream)
        self.seen.append(Seen(time.monotonic(), request.method, str(request.url), dict(request.headers), body, {}))
        says = self._responses.pop(0) if self._responses else Says()
        if callable(says):
            says = says()
        if isinstance(says, Exception):
            raise says
        time.sleep(says.delay)
        headers = {"content-type": "application/json", **says.headers}
        if isinstance(says.body, Body):
            stream = type("Stream", (module.SyncByteStream,), {"__iter__": lambda _: iter(says.body)})()
            stream.close = says.body.close
            return module.Response(says.status, headers={"content-type": "text/event-stream"}, stream=stream)
        return module.Response(says.status, headers=headers, content=says.content)


def throttled(server=None, family=FAMILIES[-1], **options):
    """A throttled client of a `Script`, without jitter."""
    given = {"api_key": "sk-test", "base_url": URL, **options}
    if server is not None:
        given["http_client"] = server.client(family)
    return without_jitter(ThrottledOpenAI(**given))


def say(client, text="hi", model="gpt-4o", **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def soon(condition, seconds=20.0):
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.005)


def is_idle(client):
    """Nobody waits and nothing is in flight."""
    stats = client.throttle.stats()
    return stats.waiting == stats.in_flight == 0


@contextlib.contextmanager
def serving(simulator):
    """The URL of a simulator on a port, whose event loop runs in a thread."""
    loop = asyncio.new_event_loop()
    over, url = asyncio.Event(), []
    started = threading.Event()

    async def main():
        async with serve(simulator) as address:
            url.append(address)
            started.set()
            await over.wait()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(30)
        yield url[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)


@contextlib.contextmanager
def threads(count, work):
    """Threads that work beside the block, and are done after it."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        yield futures
        for future in futures:
            future.result(60)


def simulated(latency=0.2):
    """An asynchronous HTTP client before a simulated server."""
    simulator = Simulator(latency=latency)
    transport = simulator.transport() if FAMILIES[-1] == "httpx" else simulator.transport2()
    return module_of(FAMILIES[-1]).AsyncClient(transport=transport)


# Construction.


def test_it_is_an_openai():
    client = throttled(Script())
    assert isinstance(client, OpenAI)
    assert issubclass(ThrottledAzureOpenAI, AzureOpenAI)


@pytest.mark.parametrize(("ours", "theirs"), [(ThrottledOpenAI, OpenAI), (ThrottledAzureOpenAI, AzureOpenAI)])
@pytest.mark.parametrize("name", ["__init__", "copy", "with_options"])
def test_its_signature_lists_the_sdks_arguments_and_ours(ours, theirs, name):
    shown = inspect.signature(getattr(ours, name)).parameters
    sdks = inspect.signature(getattr(theirs, name)).parameters
    assert set(shown) == set(sdks) | OURS
    assert [parameter for parameter in shown if parameter not in OURS] == list(sdks)


def test_every_argument_of_the_sdk_reaches_the_sdk(monkeypatch):
    given = {}
    monkeypatch.setattr(OpenAI, "__init__", lambda _, **options: given.update(options))
    options = {name: object() for name in inspect.signature(ThrottledOpenAI).parameters if name not in OURS}
    ThrottledOpenAI(**options, rpm=500, max_wait=3.0)
    assert given == options


def test_the_throttle_it_makes_is_for_threads():
    client = ThrottledOpenAI(api_key="x", rpm=60)
    assert client.throttle.threads
    assert ThrottledOpenAI(api_key="x", throttle=client.throttle).throttle is client.throttle
    assert not ThrottledAsyncOpenAI(api_key="x").throttle.threads


def test_any_throttle_may_be_shared_with_synchronous_clients():
    throttle, server = Throttle(max_concurrency=2), Script()
    asynchronous = ThrottledAsyncOpenAI(api_key="x", http_client=simulated(), base_url=URL, throttle=throttle)
    synchronous = throttled(server, throttle=throttle)

    async def main():
        calls = [asynchronous.chat.completions.create(model="gpt-4o", messages=HI) for _ in range(5)]
        await asyncio.gather(*calls, *(asyncio.to_thread(say, synchronous) for _ in range(5)))

    asyncio.run(main())
    say(synchronous)
    stats = throttle.stats()
    assert (stats.succeeded, stats.waiting, stats.in_flight) == (11, 0, 0)


def test_a_synchronous_call_in_a_coroutine_does_not_wait_for_the_calls_of_its_own_event_loop():
    """They cannot end before it has returned."""
    throttle = Throttle(max_concurrency=2)
    asynchronous = ThrottledAsyncOpenAI(api_key="x", http_client=simulated(), base_url=URL, throttle=throttle)
    synchronous = throttled(Script(), throttle=throttle)

    async def main():
        calls = [
            asyncio.create_task(asynchronous.chat.completions.create(model="gpt-4o", messages=HI)) for _ in range(6)
        ]
        await asyncio.sleep(0.05)
        assert throttle.in_flight + throttle.waiting == 6
        assert throttle.waiting
        say(synchronous.with_throttle(max_wait=10.0))
        say(synchronous.with_throttle(max_wait=10.0))
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert (throttle.stats().succeeded, throttle.stats().in_flight) == (8, 0)


def test_connections_are_ours_the_sdks_or_the_users():
    mine = httpx.Client()
    assert isinstance(ThrottledOpenAI(api_key="x")._client, PooledHttpxClient)
    assert isinstance(ThrottledOpenAI(api_key="x", pool="httpx")._client, PooledHttpxClient)
    assert not isinstance(ThrottledOpenAI(api_key="x", pool="sdk")._client, PooledHttpxClient)
    assert ThrottledOpenAI(api_key="x", http_client=mine)._client is mine
    assert ThrottledOpenAI(api_key="x", http_client=mine).copy(pool="sdk")._client is not mine
    with pytest.raises(ValueError, match="pool of a synchronous client must be 'httpx' or 'sdk'"):
        ThrottledOpenAI(api_key="x", pool="aiohttp")
    with pytest.raises(ValueError, match="pool of a synchronous client"):
        ThrottledOpenAI(api_key="x").copy(pool="aiohttp")
    with pytest.raises(ValueError, match="http_client has its own connections"):
        ThrottledOpenAI(api_key="x", pool="httpx", http_client=mine)


@pytest.mark.parametrize("method", ["copy", "with_options"])
def test_a_copy_shares_the_budgets_and_keeps_its_manners(method):
    client = throttled(Script(), rpm=500, max_wait=30.0, priority=3, max_queued=7)
    other = getattr(client, method)(timeout=5.0, max_retries=9)
    assert isinstance(other, ThrottledOpenAI)
    assert (other.timeout, other.max_retries) == (5.0, 9)
    assert other.throttle is client.throttle
    assert other._queue_options == client._queue_options
    assert other._client is client._client
    assert client.with_throttle(priority=1).throttle is client.throttle
    assert client.with_throttle(priority=1)._queue_options.max_wait == 30.0


def test_a_copy_with_limits_gets_budgets_of_its_own():
    client = throttled(Script(), rpm=600)
    other = client.copy(rpm=60)
    say(client)
    say(other)
    assert other.throttle is not client.throttle
    assert other.throttle.threads
    assert other.throttle.stats().budgets[0].windows[0].limit == 60


def test_a_class_of_somebody_else_becomes_throttled():
    class Theirs(OpenAI):
        pass

    class Mine(ThrottledMixin, Theirs):
        pass

    script = Script()
    client = Mine(api_key="x", base_url=URL, rpm=60, http_client=script.client())
    assert say(client).choices[0].message.content == "yes"
    assert client.throttle.stats().succeeded == 1
    assert isinstance(client.with_options(timeout=1), Mine)


# What calls return.


@families
def test_a_call_returns_what_the_sdks_returns(family):
    ours, theirs = (
        throttled(Script(), family),
        OpenAI(api_key="x", base_url=URL, http_client=Script().client(family)),
    )
    assert say(ours) == say(theirs)
    assert ours.throttle.stats().succeeded == 1
    assert ours.throttle.stats().budgets[0].tokens_used == 9


@families
def test_a_stream_gives_what_the_sdks_gives_and_settles_at_its_end(family):
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), family)
    stream = say(client, stream=True)
    assert client.throttle.stats().in_flight == 1
    assert [chunk.choices[0].delta.content for chunk in stream if chunk.choices] == ["yes"]
    assert body.closed == 1
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 1
    assert client.throttle.stats().budgets[0].tokens_used == 9


def test_raw_responses_and_their_counters_are_the_sdks():
    client = throttled(Script(Says(500, {}), Says(500, {}), Says(headers={"x-request-id": "7"})), max_retries=2)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.retries_taken == 2
    assert raw.headers["x-request-id"] == "7"
    assert raw.parse().choices[0].message.content == "yes"
    assert client.throttle.stats().admitted == 3


def test_a_streamed_raw_response_settles_when_it_is_left():
    body = Body(json.dumps(CHAT).encode())
    client = throttled(Script(Says(body=body)))
    with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HI) as response:
        assert client.throttle.stats().in_flight == 1
        assert response.parse().choices[0].message.content == "yes"
    assert is_idle(client)


def test_parsed_answers_are_the_sdks():
    class Answer(BaseModel):
        yes: bool

    told = {**CHAT, "choices": [{**CHAT["choices"][0], "message": {"role": "assistant", "content": '{"yes": true}'}}]}
    client = throttled(Script(Says(body=told)))
    answer = client.chat.completions.parse(model="gpt-4o", messages=HI, response_format=Answer)
    assert answer.choices[0].message.parsed == Answer(yes=True)


def test_what_runs_no_model_does_not_wait():
    client = throttled(Script(Says(body={"object": "list", "data": []})), max_concurrency=1)
    held = say(throttled(Script(Says(body=Body())), throttle=client.throttle), stream=True)
    assert client.throttle.stats().in_flight == 1
    assert client.models.list().data == []
    assert client.throttle.stats().admitted == 1
    held.close()


def test_limits_announced_beside_calls_are_learnt():
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    client = throttled(Script(Says(), Says(body={"object": "list", "data": []}, headers=headers)))
    say(client)
    client.models.list()
    soon(lambda: client.throttle.stats().budgets[0].windows)
    assert client.throttle.stats().budgets[0].windows[0].limit == 60


# Refusals and faults.


@families
def test_a_refused_call_is_sent_again_without_the_callers_notice(family):
    script = Script(refuses(headers={"retry-after-ms": "100"}), refuses(headers={"retry-after-ms": "100"}))
    client = throttled(script, family, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.retries_taken == 0
    assert [seen.retry_count for seen in script.seen] == [0, 0, 0]
    assert client.throttle.stats().refused == 2
    assert script.seen[1].at - script.seen[0].at >= 0.1
    assert is_idle(client)


def test_a_refusal_for_billing_that_a_second_attempt_confirms_comes_at_once():
    billing = refuses(code="insufficient_quota", kind="insufficient_quota")
    script = Script(billing, billing)
    client = throttled(script)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert len(script.seen) == 2
    with pytest.raises(AccountBlocked, match="settle the account"):
        say(client)
    assert len(script.seen) == 2


def test_too_many_refusals_are_handed_to_the_caller():
    script = Script(*[refuses(headers={"retry-after-ms": "1"})] * 5)
    client = throttled(script, max_refusals=2, max_retries=2)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert len(script.seen) == 3


def test_without_readmission_refusals_are_the_sdks():
    script = Script(refuses(headers={"retry-after-ms": "1"}))
    client = throttled(script, max_refusals=0, max_retries=1)
    say(client)
    assert [seen.retry_count for seen in script.seen] == [0, 1]


def test_a_refused_call_whose_wait_is_too_long_ends_with_its_refusal():
    client = throttled(Script(refuses(headers={"retry-after": "60"})), max_wait=0.2, max_retries=0)
    with pytest.raises(openai.RateLimitError):
        say(client)
    assert is_idle(client)


@pytest.mark.parametrize(("rewinds", "attempts"), [(True, 2), (False, 1)])
def test_a_file_is_sent_again_if_it_can_be_rewound(rewinds, attempts):
    file = io.BytesIO(b"sound")
    file.seekable = lambda: rewinds
    script = Script(refuses(headers={"retry-after-ms": "1"}), Says(body={"text": "words"}))
    client = throttled(script, max_retries=0)
    with contextlib.nullcontext() if rewinds else pytest.raises(openai.RateLimitError):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", file))
    assert len(script.seen) == attempts


@families
def test_faults_are_retried_by_the_sdk_each_with_a_permit(family):
    module = module_of(family)
    script = Script(Says(500, {}), module.ConnectError("no"), module.ReadTimeout("late"))
    client = throttled(script, family, max_retries=3)
    say(client)
    assert [seen.retry_count for seen in script.seen] == [0, 1, 2, 3]
    assert client.throttle.stats().admitted == 4
    assert is_idle(client)


@families
def test_an_error_leaves_nothing_in_flight(family):
    module = module_of(family)
    for told, error in (
        (Says(400, {"error": {"message": "no"}}), openai.BadRequestError),
        (module.ReadError("cut"), openai.APIConnectionError),
        (module.PoolTimeout("late"), openai.APITimeoutError),
    ):
        client = throttled(Script(told), family, max_retries=0)
        with pytest.raises(error):
            say(client)
        assert is_idle(client)


def test_an_error_before_sending_gives_everything_back():
    def no_key():
        raise RuntimeError("no key today")

    client = ThrottledOpenAI(api_key=no_key, base_url=URL, http_client=Script().client(), rpm=60)
    with pytest.raises(RuntimeError, match="no key today"):
        say(client)
    assert is_idle(client)
    assert client.throttle.stats().budgets[0].windows[0].spendable == pytest.approx(0.85, abs=0.2)


# Waiting.


def holding(client, script):
    """Another client, which holds the only permit until its stream is closed."""
    script._responses.insert(0, Says(body=Body(events())))
    return say(client, stream=True)


def test_who_waits_too_long_gets_a_timeout_that_was_never_sent():
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


def test_who_finds_the_queue_full_is_told_when_to_come_back():
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


def test_manners_hold_for_the_calls_of_this_thread():
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


class Interrupted(BaseException):
    """What Ctrl-C raises, but for us."""


@contextlib.contextmanager
def interrupted(after, every=None):
    """An exception in the main thread, wherever it is."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs a signal to interrupt the main thread with")


@unix
def test_who_is_interrupted_in_the_queue_leaves_it():
    script = Script()
    client = throttled(script, max_concurrency=1)
    with holding(client, script):
        with pytest.raises(Interrupted), interrupted(0.2):
            say(client)
        soon(lambda: client.throttle.stats().waiting == 0)
        assert client.throttle.stats().in_flight == 1
    assert is_idle(client)
    say(client)


@unix
def test_who_is_interrupted_while_the_server_thinks_gives_its_permit_back():
    client = throttled(Script(Says(delay=30)), max_concurrency=1)
    with pytest.raises(Interrupted), interrupted(0.2):
        say(client)
    soon(lambda: is_idle(client))
    say(client)


@unix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # interrupted finalizers
def test_whoever_is_interrupted_wherever_it_is_nothing_is_left_behind():
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
            with interrupted(dice.uniform(0.05, 1.1) * usual):
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


# Streams.


def test_a_stream_left_early_is_settled_when_it_is_closed():
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), max_concurrency=1)
    with say(client, stream=True) as stream:
        for _ in stream:
            break
        assert client.throttle.stats().in_flight == 1
    assert body.closed == 1
    assert is_idle(client)


@pytest.mark.parametrize("reads", [0, 1])
def test_a_stream_that_is_dropped_is_closed_and_settled(reads):
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), max_concurrency=1)
    stream = say(client, stream=True)
    for _ in range(reads):
        next(iter(stream))
    del stream
    gc.collect()
    soon(lambda: body.closed)
    soon(lambda: is_idle(client))
    assert body.closed == 1


def test_a_stream_is_closed_by_another_thread_than_the_one_that_dropped_it():
    """The thread that collects it may hold the very lock that closing takes."""
    body = Body(events())
    closers = []
    body.close = lambda: closers.append(threading.current_thread())
    client = throttled(Script(Says(body=body)))
    say(client, stream=True)
    gc.collect()
    soon(lambda: closers)
    assert closers[0] is not threading.current_thread()
    soon(lambda: is_idle(client))


def test_dropped_streams_are_looked_for_when_nothing_moves(monkeypatch):
    client = throttled(Script(Says(body=Body(events()))), max_concurrency=1)
    client.throttle._dispatcher.stall.stall_timeout = 0.2
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.2)
    gc.disable()
    try:
        next(iter(say(client, stream=True)))
        say(client)
    finally:
        gc.enable()
    assert is_idle(client)


@families
def test_a_stream_that_breaks_is_settled(family):
    module = module_of(family)
    body = Body(events(EVENTS[0], done=False), broken=module.ReadError("cut"))
    client = throttled(Script(Says(body=body)), family)
    with pytest.raises((openai.APIConnectionError, module.HTTPError)):
        list(say(client, stream=True))
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 0


def test_a_refusal_inside_a_stream_counts_as_one():
    error = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
    client = throttled(Script(Says(body=Body(events(EVENTS[0], error)))))
    with pytest.raises(openai.APIError, match="Rate limit reached"):
        list(say(client, stream=True))
    assert is_idle(client)
    assert client.throttle.stats().refused == 1


def test_a_stream_closed_by_two_threads_at_once_is_settled_once():
    client = throttled(Script(*[Says(body=Body(events())) for _ in range(50)]))
    for _ in range(50):
        stream, together = say(client, stream=True), threading.Barrier(4)

        def close(_, stream=stream, together=together):
            together.wait()
            stream.response.stream.close()

        with threads(4, close):
            pass
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 50


# Azure.


def test_azures_client_counts_by_deployment_and_asks_for_a_token_once_it_is_admitted():
    asked = []

    def token():
        asked.append(client.throttle.stats().in_flight)
        return "token"

    client = ThrottledAzureOpenAI(
        azure_endpoint="https://east.openai.azure.com",
        azure_ad_token_provider=token,
        api_version="2024-10-21",
        http_client=Script().client(),
    )
    say(client, model="mine")
    say(client.with_options(timeout=3), model="other")
    names = {budget.name for budget in client.throttle.stats().budgets}
    assert names == {"east.openai.azure.com/mine", "east.openai.azure.com/other"}
    assert asked == [1, 1]


# Many threads.


def test_64_threads_share_the_limits_and_lose_nothing():
    simulator = Simulator(rpm=6000, latency=0.05)
    with serving(simulator) as url, ThrottledOpenAI(api_key="x", base_url=url, rpm=6000) as client:
        with threads(64, lambda number: [say(client, f"{number}") for _ in range(5)]) as futures:
            pass
        assert sum(len(future.result()) for future in futures) == 320
        stats = client.throttle.stats()
    assert (stats.admitted, stats.succeeded, stats.refused) == (320, 320, 0)
    assert (stats.waiting, stats.in_flight) == (0, 0)
    assert (simulator.succeeded, simulator.attempts) == (320, 320)


def test_threads_that_are_refused_together_are_all_served_in_the_end():
    simulator = Simulator(latency=0.05, faults=[Fault(status=429, share=0.2, retry_after=0.05)])
    with serving(simulator) as url, ThrottledOpenAI(api_key="x", base_url=url, rpm=6000) as client:
        with threads(32, lambda _: [say(client) for _ in range(3)]):
            pass
        stats = client.throttle.stats()
    assert simulator.succeeded == stats.succeeded == 96
    assert stats.refused == simulator.attempts - 96 > 0
    assert (stats.waiting, stats.in_flight) == (0, 0)


def test_threads_and_tasks_on_two_event_loops_share_one_throttle():
    simulator = Simulator(rpm=12_000, latency=0.05)
    throttle = Throttle(rpm=6000, max_concurrency=20, threads=True)
    peak = []

    def watch():
        peak.append(throttle.stats().in_flight)

    with serving(simulator) as url:

        async def main():
            async with ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
                await asyncio.gather(*(client.chat.completions.create(model="gpt-4o", messages=HI) for _ in range(60)))

        def work(number):
            if number < 2:
                asyncio.run(main())
            elif number < 12:
                with ThrottledOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
                    for _ in range(6):
                        say(client)
                        watch()

        with threads(12, work):
            pass
    stats = throttle.stats()
    assert (stats.admitted, stats.succeeded, stats.refused) == (180, 180, 0)
    assert (stats.waiting, stats.in_flight) == (0, 0)
    assert simulator.attempts == 180
    assert max(peak) <= 20


def test_a_client_on_a_thread_with_an_event_loop_blocks_it_and_nothing_else():
    client = throttled(Script(refuses(headers={"retry-after-ms": "50"})), rpm=6000)

    async def main():
        return [say(client) for _ in range(3)]

    assert len(asyncio.run(main())) == 3


def test_tasks_that_are_cancelled_give_their_permits_back():
    simulator = Simulator(latency=0.2)
    throttle = Throttle(max_concurrency=3, threads=True)

    async def main(url):
        async with ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle) as client:
            calls = [
                asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=HI)) for _ in range(20)
            ]
            await asyncio.sleep(0.1)
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert sum(not call.cancelled() for call in calls) == 10

    with serving(simulator) as url:
        asyncio.run(main(url))
    soon(lambda: throttle.stats().in_flight == throttle.stats().waiting == 0)


def test_a_stream_that_outlives_its_event_loop_is_settled():
    simulator = Simulator(latency=0.0)
    throttle = Throttle(max_concurrency=1, threads=True)

    async def main(url):
        client = ThrottledAsyncOpenAI(api_key="x", base_url=url, throttle=throttle)
        return await client.chat.completions.create(model="gpt-4o", messages=HI, stream=True)

    with serving(simulator) as url:
        stream = asyncio.run(main(url))
        assert throttle.stats().in_flight == 0  # it cannot be read any more
        del stream
        gc.collect()
        soon(lambda: throttle.stats().in_flight == 0)


# Everything at once.

FAULTS = [
    Fault(status=429, retry_after=0.05, share=0.05),
    Fault(status=429, share=0.02),
    Fault(status=503, share=0.03),
    Fault(status=500, share=0.04),
    Fault(status=400, share=0.04),
    Fault("disconnect", share=0.04),
    Fault("stream_cut", share=0.08),
    Fault("stream_error", share=0.05),
]


class Fuzz:
    """One run of forty threads and a hundred tasks. The dice decide how calls are made and how they are left."""

    def __init__(self, seed, url):
        self.seed, self.url = seed, url
        self.throttle = Throttle(rpm=60_000, max_concurrency=12, threads=True)
        self.ended = Counter()
        self.ends = openai.APIError, httpx.HTTPError, module_of(FAMILIES[-1]).HTTPError

    def work(self, number):
        dice = random.Random(f"{self.seed} {number}")
        with ThrottledOpenAI(
            api_key="x", base_url=self.url, throttle=self.throttle, max_retries=1, timeout=20.0
        ) as client:
            for _ in range(6):
                manner = client.with_throttle(max_wait=dice.uniform(0.01, 5), priority=dice.randint(-1, 1))
                way = dice.choice([self.plain, self.plain, self.read, self.leave, self.forget, self.close])
                try:
                    way(dice.choice([client, manner]), "x" * dice.randint(1, 2000))
                except self.ends as error:
                    self.ended[type(error).__name__] += 1
                else:
                    self.ended["done"] += 1

    async def tasks(self):
        dice = random.Random(self.seed)
        # The SDK's own connections: ours send a second time what a dying one never answered.
        given = {"throttle": self.throttle, "pool": "sdk", "max_retries": 1}
        async with ThrottledAsyncOpenAI(api_key="x", base_url=self.url, **given) as client:

            async def call():
                async with asyncio.timeout(dice.choice([0.01, 0.05, 5.0])):
                    await client.chat.completions.create(model="gpt-4o", messages=HI, stream=dice.random() < 0.3)

            await asyncio.gather(*(call() for _ in range(100)), return_exceptions=True)

    def plain(self, client, text):
        say(client, text)

    def read(self, client, text):
        list(say(client, text, stream=True))

    def leave(self, client, text):
        next(iter(say(client, text, stream=True)))

    def forget(self, client, text):
        say(client, text, stream=True)

    def close(self, client, text):
        with say(client, text, stream=True) as stream:
            next(iter(stream))


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_in_forty_threads_and_a_loop_nothing_is_left_behind(seed, monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.2)
    simulator = Simulator(rpm=60_000, latency=0.02, latency_sigma=0.8, faults=FAULTS, seed=seed)
    with serving(simulator) as url:
        fuzz = Fuzz(seed, url)
        with threads(41, lambda number: fuzz.work(number) if number else asyncio.run(fuzz.tasks())):
            pass
    gc.collect()
    soon(lambda: gc.collect() >= 0 and fuzz.throttle.stats().waiting == fuzz.throttle.stats().in_flight == 0)
    assert sum(fuzz.ended.values()) == 240, fuzz.ended
    assert fuzz.ended["done"] > 100, fuzz.ended
    assert fuzz.throttle.stats().admitted >= simulator.attempts  # the others were given up on their way


@families
def test_an_exception_of_the_users_own_comes_out_of_a_stream_as_it_is(family):
    own = module_of(family).ReadTimeout("my own deadline")
    client = throttled(Script(Says(body=Body(events()))), family)
    with pytest.raises(type(own)) as raised, say(client, stream=True) as stream:
        for _ in stream:
            raise own
    assert raised.value is own
    soon(lambda: is_idle(client))


def pooled(family, **options):
    from throttled_openai._pool import SyncPooled

    return type("Client", (SyncPooled, module_of(family).Client), {})(
        limits=module_of(family).Limits(max_connections=1), timeout=2, **options
    )


def answering(content, *, length):
    """The URL of a server that says `content` to every connection, and hangs up."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 500 Cut\r\ncontent-length: %d\r\n\r\n%b" % (length, content))

    threading.Thread(target=serve, daemon=True).start()
    return contextlib.closing(listener), f"http://127.0.0.1:{listener.getsockname()[1]}/"


@families
def test_a_body_that_breaks_off_gives_its_place_back_though_nobody_closes_the_response(family):
    listening, url = answering(b"only so much", length=500)
    with listening, pooled(family) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", url), stream=True)
            with pytest.raises(module_of(family).RemoteProtocolError):
                response.read()


@families
def test_a_response_that_is_dropped_half_read_gives_its_place_back(family):
    listening, url = answering(b"x" * 100_000, length=100_000)
    with listening, pooled(family) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", url), stream=True)
            for _ in response.iter_raw(1000):
                break
            del response
            gc.collect()


def test_a_dropped_stream_gives_its_permit_back_where_the_system_has_no_more_threads(monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    client = throttled(Script(Says(body=Body(events()))))
    stream = say(client, stream=True)
    monkeypatch.setattr(threading.Thread, "start", none)
    del stream
    gc.collect()
    soon(lambda: is_idle(client))


def test_a_password_in_the_address_is_in_no_error():
    client = throttled(base_url="http://user:secret@server/v1", rpm=1, max_wait=0.01, http_client=Script().client())
    say(client)
    with pytest.raises(AdmissionTimeout) as raised:
        say(client)
    assert str(raised.value.request.url) == "http://server/v1/chat/completions"
