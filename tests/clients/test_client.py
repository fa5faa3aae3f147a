"""`ThrottledAsyncOpenAI` is `AsyncOpenAI`: its arguments, results, errors and counters, behind a throttle."""

import asyncio
import importlib
import inspect
import io
import json
import logging
import math
import threading
import typing
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import AsyncOpenAI
from openai._models import FinalRequestOptions
from pydantic import BaseModel

import throttled_openai
from scripted import (
    CHAT,
    FAMILIES,
    HI,
    URL,
    Says,
    Script,
    cancelled_at_the_end,
    http_client,
    now,
    say,
    settled,
    throttled,
)
from throttled_openai import AdmissionTimeout, Limits, QueueFull, RequestTooLarge, Throttle, ThrottledAsyncOpenAI
from throttled_openai._pool.loops import _lifetime
from throttled_openai.simulator import Fault, Simulator, serve, virtual_run

OURS = {
    "throttle",
    "dialect",
    "pool",
    "rpm",
    "tpm",
    "rpd",
    "tpd",
    "limits",
    "max_concurrency",
    "max_refusals",
    "enforce",
    "priority",
    "max_wait",
    "max_queued",
}
KEY, PROMPT = "sk-secret-0123456789", "the launch code is 0000"

families = pytest.mark.parametrize("family", FAMILIES)


def server(**options):
    """Every answer takes exactly one second."""
    return Simulator(**{"latency": 1.0, "latency_sigma": 0.0, **options})


def blocked(**options):
    """A server whose first metered attempt never ends."""
    return server(faults=[Fault("hang", last=0)], **options)


def windows(client):
    """Limits that each budget has, as (dimension, per minute)."""
    return [
        [(window.dimension, window.limit) for window in budget.windows] for budget in client.throttle.stats().budgets
    ]


# Construction.


def test_it_is_an_async_openai():
    assert issubclass(ThrottledAsyncOpenAI, AsyncOpenAI)
    assert isinstance(throttled(Script()), AsyncOpenAI)


def test_every_argument_of_the_sdk_reaches_the_sdk(monkeypatch):
    """Whatever arguments this version of the SDK has."""
    given = {}
    monkeypatch.setattr(AsyncOpenAI, "__init__", lambda _, **options: given.update(options))
    names = [name for name in inspect.signature(throttled_openai.ThrottledAsyncOpenAI).parameters if name not in OURS]
    assert {"api_key", "base_url", "http_client", "max_retries", "workload_identity", "provider"} <= set(names)
    options = {name: object() for name in names}

    ThrottledAsyncOpenAI(**options, rpm=500, max_wait=3.0)

    assert given == options


def test_what_is_given_to_it_is_what_the_sdk_makes_of_it():
    options = {
        "api_key": "sk-1",
        "admin_api_key": "sk-admin",
        "organization": "org",
        "project": "proj",
        "webhook_secret": "whsec",
        "base_url": "http://elsewhere/v2",
        "websocket_base_url": "ws://elsewhere/v2",
        "timeout": 12.5,
        "max_retries": 7,
        "default_headers": {"x-one": "1"},
        "default_query": {"q": "2"},
    }
    ours, theirs = ThrottledAsyncOpenAI(**options, rpm=500), AsyncOpenAI(**options)

    for name in ("api_key", "admin_api_key", "organization", "project", "webhook_secret", "websocket_base_url"):
        assert getattr(ours, name) == getattr(theirs, name) == options[name]
    for name in ("base_url", "timeout", "max_retries", "default_query"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.default_headers["x-one"] == "1"


def test_it_reads_the_environment_as_the_sdk_does(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://env/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-env")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-env")

    client = ThrottledAsyncOpenAI()

    assert client.api_key == "sk-env"
    assert str(client.base_url) == "http://env/v1/"
    assert (client.organization, client.project) == ("org-env", "proj-env")


def test_an_argument_nobody_knows_is_the_sdks_type_error():
    with pytest.raises(TypeError, match="rmp"):
        ThrottledAsyncOpenAI(api_key="x", rmp=500)


@pytest.mark.parametrize("name", ["__init__", "copy"])
def test_its_signature_lists_the_sdks_arguments_and_ours(name):
    shown = inspect.signature(getattr(ThrottledAsyncOpenAI, name)).parameters
    theirs = inspect.signature(getattr(AsyncOpenAI, name)).parameters

    assert list(shown) == [*theirs, *[parameter for parameter in shown if parameter in OURS]]
    assert set(shown) >= OURS
    assert all(shown[parameter].kind is inspect.Parameter.KEYWORD_ONLY for parameter in OURS)
    inspect.signature(ThrottledAsyncOpenAI.__init__).bind(None, api_key="x", rpm=1)


@pytest.mark.parametrize("name", ["__init__", "copy", "with_options"])
@pytest.mark.parametrize("kind", ["ThrottledAsyncOpenAI", "ThrottledOpenAI", "ThrottledAsyncAzureOpenAI"])
def test_its_types_can_be_asked_for(kind, name):
    cls = getattr(throttled_openai, kind)
    hints = typing.get_type_hints(getattr(cls, name))
    theirs = typing.get_type_hints(getattr(getattr(openai, kind.removeprefix("Throttled")), name))
    assert set(hints) == OURS | set(theirs)
    assert hints["rpm"] == float | None


def test_a_class_made_with_the_mixin_shows_the_arguments_of_the_class_it_stands_for():
    """The SDK's Bedrock clients look whether a constructor takes an argument before they give it."""

    class Older(AsyncOpenAI):
        def __init__(self, *, colour, api_key=None):
            self.colour = colour
            super().__init__(api_key=api_key)

    class Mine(throttled_openai.AsyncThrottledMixin, Older):
        pass

    assert set(inspect.signature(Mine).parameters) == {"colour", "api_key"} | OURS
    assert Mine(colour="red", api_key="k", rpm=5).colour == "red"


def test_the_system_is_asked_for_once_and_never_on_an_event_loop(monkeypatch):
    asked = []

    def ask():
        asked.append(threading.current_thread())
        return "Linux"

    monkeypatch.setattr("throttled_openai._clients.sdk._known", None)
    monkeypatch.setattr("openai._base_client.get_platform", ask)

    async def main():
        clients = [throttled(Script()) for _ in range(2)]
        await asyncio.gather(*(say(client) for client in clients for _ in range(200)))

    asyncio.run(main())
    assert len(asked) == 1
    assert asked[0] is not threading.main_thread()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rpm": 0}, ValueError, "rpm must be positive"),
        ({"rpm": "500"}, TypeError, "rpm must be a positive number such as 500"),
        ({"tpm": math.nan}, ValueError, "tpm must be positive and finite"),
        ({"rpm": 5, "limits": Limits(rpm=5)}, ValueError, "not both"),
        ({"limits": {"gpt-4o": {"rpm": 5}}}, TypeError, "limits\\['gpt-4o'\\] must be Limits"),
        ({"throttle": object()}, TypeError, "throttle must be a throttled_openai.Throttle"),
        ({"throttle": Throttle(), "rpm": 5}, ValueError, "give rpm to Throttle"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be at least 1"),
        ({"max_refusals": -1}, ValueError, "max_refusals must be at least 0"),
        ({"max_wait": 0}, ValueError, "max_wait must be positive"),
        ({"max_queued": 2.5}, TypeError, "max_queued must be a number of calls"),
        ({"priority": "high"}, TypeError, "priority must be a whole number"),
    ],
)
def test_what_cannot_be_meant_fails_in_the_constructor(options, error, words):
    with pytest.raises(error, match=words):
        ThrottledAsyncOpenAI(api_key="x", **options)


# Copies.


@pytest.mark.parametrize("method", ["copy", "with_options"])
def test_a_copy_shares_the_budgets_and_keeps_its_manners(method):
    client = throttled(Script(), rpm=500, max_wait=30.0, priority=3, max_queued=7)

    other = getattr(client, method)(timeout=5.0, max_retries=9)

    assert isinstance(other, ThrottledAsyncOpenAI)
    assert (other.timeout, other.max_retries) == (5.0, 9)
    assert other.throttle is client.throttle
    assert other._queue_options == client._queue_options
    assert other._client is client._client


def test_a_copy_of_a_copy_still_shares():
    client = throttled(Script(), rpm=500)
    assert client.with_options(timeout=1).copy(max_retries=1).with_options().throttle is client.throttle


def test_a_copy_with_limits_gets_budgets_of_its_own():
    async def main():
        client = throttled(Script(), rpm=600, max_wait=30.0)
        other = client.copy(rpm=60)
        assert other.throttle is not client.throttle
        assert other._queue_options == client._queue_options
        await asyncio.gather(say(client), say(other))
        assert windows(client) == [[("requests", 600.0)]]
        assert windows(other) == [[("requests", 60.0)]]

    virtual_run(main())


def test_a_copy_may_be_given_another_throttle():
    throttle = Throttle(rpm=5)
    assert throttled(Script(), rpm=500).copy(throttle=throttle).throttle is throttle


@pytest.mark.parametrize("option", ["throttle", "rpm", "max_concurrency", "max_refusals"])
def test_none_changes_nothing_in_a_copy_as_with_the_sdks_own_arguments(option):
    """None is the default that the signature of `copy` shows."""
    client = throttled(Script(), rpm=500, max_wait=30.0)
    assert client.copy(**{option: None}).throttle is client.throttle


@pytest.mark.parametrize("given", [{"max_refusals": 0}, {"max_concurrency": 5}, {"tpm": 10_000}])
def test_a_copy_with_one_option_of_ours_keeps_the_others(given):
    async def main():
        client = throttled(Script(), rpm=600).copy(**given)
        await say(client)
        assert ("requests", 600.0) in windows(client)[0]

    virtual_run(main())


@families
def test_a_copy_with_another_http_client_stays_throttled(family):
    async def main():
        old, new = server(), server()
        client = throttled(old, family, rpm=60)
        other = client.copy(http_client=http_client(new, family))
        await asyncio.gather(*(say(other) for _ in range(3)))
        assert [attempt.at for attempt in new.log] == [0.0, 1.0, 2.0]
        assert old.attempts == 0
        assert client.throttle.stats().succeeded == 3

    virtual_run(main())


def test_with_throttle_changes_manners_and_nothing_else():
    client = throttled(Script(), rpm=500, max_wait=30.0, max_queued=7, timeout=9.0)

    urgent = client.with_throttle(priority=10)

    assert urgent.throttle is client.throttle
    assert urgent._client is client._client
    assert urgent.timeout == 9.0
    assert (urgent._queue_options.priority, urgent._queue_options.max_wait, urgent._queue_options.max_queued) == (
        10,
        30.0,
        7,
    )
    assert urgent.with_throttle(max_wait=1.0)._queue_options.priority == 10
    with pytest.raises(ValueError, match="max_wait must be positive"):
        client.with_throttle(max_wait=-1.0)


def test_calls_of_a_higher_priority_go_first():
    async def main():
        script = Script(Says(delay=1.0))
        client = throttled(script, max_concurrency=1)
        first = asyncio.create_task(say(client, "first"))
        await settled()
        calls = [say(client, "usual"), say(client.with_throttle(priority=1), "urgent")]
        await asyncio.gather(first, *calls)
        assert [seen.text for seen in script.seen] == ["first", "urgent", "usual"]

    virtual_run(main())


# The user's HTTP client.


@families
def test_the_users_http_client_is_used_as_it_is(family):
    async def main():
        mine = http_client(server(), family)
        before = dict(vars(mine))
        client = ThrottledAsyncOpenAI(api_key="x", base_url=URL, http_client=mine)
        assert client._client is mine
        await say(client)
        async with await say(client, stream=True) as stream:
            [chunk async for chunk in stream]
        await client.models.list()
        state = before.pop("_state"), dict(vars(mine))
        assert {name: value for name, value in state[1].items() if name != "_state"} == before

    virtual_run(main())


@families
def test_the_http_client_is_closed_as_the_sdk_closes_it(family):
    async def main():
        mine = http_client(server(), family)
        client = throttled(server(), family, http_client=mine)
        copy = client.with_options(timeout=1.0)
        del copy
        assert not mine.is_closed
        async with client as same:
            assert same is client
            await say(client)
        assert mine.is_closed
        assert client.is_closed()

    virtual_run(main())


def test_over_sockets_it_brings_its_own_http_client_and_closes_it():
    async def main():
        simulator = Simulator(latency=0.0)
        async with serve(simulator) as url:
            async with ThrottledAsyncOpenAI(api_key="x", base_url=url) as client:
                assert (await say(client)).choices[0].message.content
                stream = await say(client, stream=True)
                assert len([chunk async for chunk in stream]) == 18
            assert client.is_closed()
            while simulator.connections:
                await asyncio.sleep(0.01)

    asyncio.run(main())


# What calls return.


@families
def test_a_call_returns_what_the_sdks_returns(family):
    async def main():
        ours = throttled(server(), family)
        theirs = AsyncOpenAI(api_key="x", base_url=URL, http_client=http_client(server(), family))

        async def chunks(client):
            return [chunk async for chunk in await say(client, stream=True)]

        answers = await asyncio.gather(*(say(client) for client in (ours, theirs)))
        assert answers[0] == answers[1]
        streams = await asyncio.gather(chunks(ours), chunks(theirs))
        assert streams[0] == streams[1]
        assert len(streams[0]) == 18

    virtual_run(main())


@families
def test_raw_responses_have_headers_and_parse(family):
    async def main():
        client = throttled(server(rpm=600), family)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.headers["x-ratelimit-remaining-requests"] == "599"
        assert raw.retries_taken == 0
        assert raw.parse().choices[0].finish_reason == "stop"
        assert client.throttle.in_flight == 0
        assert client.throttle.stats().budgets[0].tokens_used == 24

    virtual_run(main())


@families
def test_streaming_responses_hold_their_permit_until_they_are_closed(family):
    async def main():
        client = throttled(server(), family)
        create = client.chat.completions.with_streaming_response.create
        async with create(model="gpt-4o", messages=HI, stream=True) as response:
            assert response.retries_taken == 0
            assert client.throttle.in_flight == 1
            lines = [line async for line in response.iter_lines()]
            assert client.throttle.in_flight == 0
        assert lines[-2] == "data: [DONE]"
        async with create(model="gpt-4o", messages=HI, stream=True):
            assert client.throttle.in_flight == 1
        assert client.throttle.in_flight == 0

    virtual_run(main())


class Yes(BaseModel):
    yes: bool


def test_parse_gives_the_model_object():
    async def main():
        body = json.loads(json.dumps(CHAT))
        body["choices"][0]["message"]["content"] = '{"yes": true}'
        client = throttled(Script(Says(body=body)))
        answer = await client.chat.completions.parse(model="gpt-4o", messages=HI, response_format=Yes)
        assert answer.choices[0].message.parsed == Yes(yes=True)
        assert client.throttle.stats().succeeded == 1

    virtual_run(main())


def test_the_stream_helpers_accumulate():
    async def main():
        client = throttled(server())
        async with client.chat.completions.stream(model="gpt-4o", messages=HI) as chat:
            events = [event.type async for event in chat]
            completion = await chat.get_final_completion()
        assert events[-1] == "content.done"
        async with client.responses.stream(model="gpt-4o", input="hi") as stream:
            response = await stream.get_final_response()
        assert completion.choices[0].message.content == response.output_text
        assert client.throttle.stats().succeeded == 2
        assert client.throttle.in_flight == 0

    virtual_run(main())


def test_responses_embeddings_completions_and_moderations_are_admitted():
    async def main():
        client = throttled(server())
        response = await client.responses.create(model="gpt-4o", input="hi")
        assert response.output_text
        embedded = await client.embeddings.create(model="e", input=["a", "b"])
        assert len(embedded.data) == 2
        assert len(embedded.data[0].embedding) == 1536
        assert (await client.completions.create(model="c", prompt="hi")).choices
        assert (await client.moderations.create(input="hi")).results
        stats = client.throttle.stats()
        assert stats.admitted == 4
        used = {budget.name: budget.tokens_used for budget in stats.budgets}
        assert used["gpt-4o"] == response.usage.total_tokens
        assert used["e"] == embedded.usage.total_tokens > 0

    virtual_run(main())


def test_running_a_thread_is_admitted_and_making_one_is_not():
    async def main():
        script = Script(
            Says(body={"id": "thread_1", "object": "thread"}), Says(body={"id": "run_1", "model": "gpt-4o"})
        )
        client = throttled(script)
        with pytest.warns(DeprecationWarning):
            await client.beta.threads.create()
        assert client.throttle.stats().admitted == 0
        with pytest.warns(DeprecationWarning):
            await client.beta.threads.runs.create("thread_1", assistant_id="asst_1")
        assert client.throttle.stats().admitted == 1

    virtual_run(main())


@families
def test_extra_headers_body_query_and_timeout_reach_the_server(family):
    async def main():
        script = Script()
        client = throttled(script, family)
        await say(client, extra_headers={"x-mine": "1"}, extra_body={"top_k": 3}, extra_query={"q": "2"}, timeout=7.0)
        (seen,) = script.seen
        assert seen.headers["x-mine"] == "1"
        assert seen.json["top_k"] == 3
        assert seen.url.endswith("?q=2")
        assert seen.timeout["read"] == 7.0

    virtual_run(main())


# What needs no permit.


def test_what_is_not_metered_passes_a_blocked_queue():
    async def main():
        client = throttled(blocked(), max_concurrency=1)
        async with cancelled_at_the_end(say(client), say(client)):
            assert (client.throttle.in_flight, client.throttle.waiting) == (1, 1)
            assert len([model async for model in client.models.list()]) == 5
            file = await client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
            assert [found.id async for found in client.files.list()] == [file.id]
            assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
            assert now() == 0.0
            assert (client.throttle.in_flight, client.throttle.waiting) == (1, 1)
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)
        assert client.throttle.stats().admitted == 1

    virtual_run(main())


def test_every_page_passes_without_a_permit():
    async def main():
        file = {
            "object": "file",
            "bytes": 1,
            "created_at": 0,
            "filename": "a",
            "purpose": "batch",
            "status": "processed",
        }
        pages = [
            Says(body={"object": "list", "data": [{**file, "id": f"file-{number}"}], "has_more": number < 2})
            for number in range(3)
        ]
        script = Script(*pages)
        client = throttled(script)
        assert [found.id async for found in client.files.list()] == ["file-0", "file-1", "file-2"]
        assert len(script.seen) == 3
        assert client.throttle.stats().admitted == 0

    virtual_run(main())


def test_the_headers_of_a_get_are_observed():
    async def main():
        told = {"x-ratelimit-limit-requests": "300", "x-ratelimit-remaining-requests": "300"}
        told["x-ratelimit-reset-requests"] = "0s"
        client = throttled(Script(Says(), Says(body={"object": "list", "data": []}, headers=told)))
        await say(client)
        assert windows(client) == [[]]
        await client.models.list()
        assert windows(client) == [[("requests", 300.0)]]

    virtual_run(main())


@pytest.mark.parametrize("url", ["ws://server/v1/realtime", "wss://server/v1/responses", "/chat/completions"])
def test_hooks_that_websockets_borrow_take_no_permit(url):
    """The SDK's WebSocket resources call `_prepare_options` outside `request()`."""

    async def main():
        client = throttled(Script())
        options = FinalRequestOptions.construct(method="post", url=url, json_data={"model": "gpt-4o"})
        await client._prepare_options(options)
        assert client.throttle.stats().admitted == 0

    virtual_run(main())


# Faults belong to the SDK.


@families
def test_a_fault_is_retried_by_the_sdk_with_its_own_counters(family):
    async def main():
        simulator = server(faults=[Fault(status=500, last=0)])
        client = throttled(simulator, family)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
        assert raw.retries_taken == 1
        assert [attempt.status for attempt in simulator.log] == [500, 200]
        assert [attempt.retry_count for attempt in simulator.log] == [0, 1]
        stats = client.throttle.stats()
        assert (stats.admitted, stats.succeeded, stats.refused, stats.in_flight) == (2, 1, 0, 0)

    virtual_run(main())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=500), openai.InternalServerError),
        (Fault(status=400), openai.BadRequestError),
        (Fault(status=401), openai.AuthenticationError),
        (Fault(status=404), openai.NotFoundError),
        (Fault(status=409), openai.ConflictError),
        (Fault("disconnect"), openai.APIConnectionError),
        (Fault("hang"), openai.APITimeoutError),
    ],
    ids=str,
)
@families
def test_without_retries_a_fault_is_the_sdks_own_error_after_one_attempt(family, fault, error):
    async def main():
        simulator = server(faults=[fault])
        client = throttled(simulator, family, max_retries=0, timeout=5.0)
        with pytest.raises(openai.APIError) as caught:
            await say(client)
        assert type(caught.value) is error
        assert caught.value.request.method == "POST"
        assert now() == (5.0 if fault.kind == "hang" else 1.0)
        assert simulator.attempts == 1
        assert client.throttle.in_flight == 0

    virtual_run(main())


@families
def test_over_sockets_faults_are_the_sdks_own_errors(family):
    async def main():
        module = importlib.import_module(family)
        simulator = Simulator(
            latency=0.0, faults=[Fault("disconnect", last=0), Fault("hang", first=1, last=1), Fault(status=500, last=2)]
        )
        async with serve(simulator) as url, module.AsyncClient() as mine:
            options = {"api_key": "x", "base_url": url, "http_client": mine, "max_retries": 0}
            client = ThrottledAsyncOpenAI(**options)
            for error in (openai.APIConnectionError, openai.APITimeoutError, openai.InternalServerError):
                with pytest.raises(openai.APIError) as caught:
                    await say(client, timeout=0.2)
                assert type(caught.value) is error
            assert (await say(client)).choices
            assert client.throttle.in_flight == 0

    asyncio.run(main())


def test_a_retry_by_the_sdk_keeps_the_calls_place_in_line():
    async def main():
        script = Script(Says(500, {}, headers={"retry-after-ms": "100"}), Says(delay=1.0))
        client = throttled(script, max_concurrency=1)
        calls = [asyncio.create_task(say(client, str(number))) for number in range(4)]
        await asyncio.gather(*calls)
        # 1 went while 0 was asleep; 0 came back before 2 and 3.
        assert [seen.text for seen in script.seen] == ["0", "1", "0", "2", "3"]

    virtual_run(main())


# Keys.


@families
def test_a_key_is_fetched_once_per_attempt_and_only_after_admission(family):
    async def main():
        fetched = []

        async def key():
            fetched.append(now())
            return f"sk-{len(fetched)}"

        script = Script(Says(delay=10.0), Says(500, {}, headers={"retry-after-ms": "100"}))
        client = throttled(script, family, api_key=key, max_concurrency=1)
        await asyncio.gather(say(client), say(client))
        assert fetched == [0.0, 10.0, 10.1]
        assert [seen.headers["authorization"] for seen in script.seen] == ["Bearer sk-1", "Bearer sk-2", "Bearer sk-3"]

    virtual_run(main())


def test_a_call_whose_key_cannot_be_fetched_gives_everything_back():
    async def main():
        async def key():
            raise LookupError("no key")

        client = throttled(server(), api_key=key, rpm=60, max_retries=0)
        with pytest.raises(LookupError):
            await say(client)
        assert client.throttle.in_flight == 0
        assert client.throttle.stats().budgets[0].windows[0].spendable == 1.0

    virtual_run(main())


def test_a_key_may_be_fetched_with_a_call_of_another_throttled_client():
    async def main():
        other = throttled(server())

        async def key():
            await say(other)
            return "sk-1"

        client = throttled(server(), api_key=key)
        await say(client)
        for one in (client, other):
            assert (one.throttle.stats().succeeded, one.throttle.in_flight) == (1, 0)

    virtual_run(main())


# Errors of admission.


@families
def test_not_being_admitted_in_time_is_a_timeout_of_the_sdk(family):
    async def main():
        client = throttled(blocked(), family, max_concurrency=1)
        async with cancelled_at_the_end(say(client), say(client)):
            with pytest.raises(openai.APITimeoutError) as caught:
                await say(client.with_throttle(max_wait=3.0))
            assert now() == 3.0
        error = caught.value
        assert type(error) is AdmissionTimeout
        assert (error.max_wait, error.waited, error.ahead) == (3.0, 3.0, 1)
        assert str(error) == (
            "not admitted within max_wait=3 s: 1 calls ahead, gpt-4o has 1 calls in flight of 1; "
            "raise max_wait or send less"
        )

    virtual_run(main())


def test_a_timeout_of_admission_is_not_retried_by_the_sdk():
    async def main():
        client = throttled(blocked(), max_concurrency=1, max_retries=5)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout):
                await say(client.with_throttle(max_wait=3.0))
            assert now() == 3.0

    virtual_run(main())


def test_a_full_queue_says_when_to_come_back():
    async def main():
        client = throttled(server(), rpm=60, max_queued=2)
        async with cancelled_at_the_end(*(say(client) for _ in range(3))):
            with pytest.raises(QueueFull) as caught:
                await say(client)
        assert isinstance(caught.value, openai.APIConnectionError)
        assert (caught.value.max_queued, caught.value.waiting, caught.value.retry_after) == (2, 2, 2.0)

    virtual_run(main())


@pytest.mark.parametrize("tells", [True, False])
def test_a_prompt_larger_than_the_limit_is_sent_where_what_a_cache_has_of_it_is_free(tells):
    """96 % of it are in the cache, so the limit of 30,000 lets 15 a minute pass; usage may tell."""

    async def main():
        limits = {
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "28000",
        }
        cached = {"prompt_tokens_details": {"cached_tokens": 48_000}} if tells else {}
        usage = {"prompt_tokens": 50_000, "completion_tokens": 5, "total_tokens": 50_005, **cached}
        answer = Says(body={**CHAT, "usage": usage}, headers=limits, delay=1.0)
        script = Script(*[answer] * 10)
        client = throttled(script, dialect="anthropic")
        for _ in range(5):
            await say(client, "x" * 200_000)
        assert len(script.seen) == 5
        if tells:
            assert now() < 10.0

    virtual_run(main())


def test_a_call_larger_than_the_announced_limit_fails_before_it_is_sent():
    async def main():
        simulator = server(tpm=1000)
        client = throttled(simulator)
        await say(client)
        await say(client)  # a limit that was announced once may be a mistake
        with pytest.raises(RequestTooLarge, match="estimated at 2000 tokens but gpt-4o admits at most 1000"):
            await say(client, "x" * 4 * 1997)
        assert simulator.attempts == 2

    virtual_run(main())


@families
def test_an_error_of_admission_names_the_request_without_body_or_key(family):
    async def main():
        mine = http_client(blocked(), family, headers={"authorization": KEY, "api-key": KEY}, cookies={"session": KEY})
        client = throttled(Script(), api_key=KEY, http_client=mine, max_concurrency=1, max_wait=3.0)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout) as caught:
                await say(client, PROMPT)
        request = caught.value.request
        assert (request.method, str(request.url)) == ("POST", f"{URL}/chat/completions")
        assert KEY not in repr(list(request.headers.items()))
        assert request.content == b""
        assert caught.value.body is None

    virtual_run(main())


@pytest.mark.parametrize("url", ["http://elsewhere/v1/chat/completions", "/chat/completions", "chat/completions"])
def test_an_error_of_admission_names_the_address_that_was_called(url):
    async def main():
        client = throttled(blocked(), max_concurrency=1, max_wait=3.0)
        async with cancelled_at_the_end(say(client)):
            with pytest.raises(AdmissionTimeout) as caught:
                await client.post(url, body={"model": "gpt-4o", "messages": HI}, cast_to=object)
        expected = url if url.startswith("http") else f"{URL}/chat/completions"
        assert str(caught.value.request.url) == expected

    virtual_run(main())


# Nothing secret.


def test_neither_prompts_nor_keys_are_in_logs_reprs_stats_or_errors(caplog):
    caplog.set_level(logging.DEBUG, logger="throttled_openai")
    said = []

    async def main():
        faults = [
            Fault(status=429, retry_after=1.0, last=1),
            Fault(status=503, first=2, last=3),
            Fault(status=500, first=4, last=4),
            Fault("disconnect", first=5, last=5),
            Fault("stream_cut", share=0.5),
        ]
        client = throttled(server(rpm=600, tpm=10_000, faults=faults), api_key=KEY, max_wait=60.0, max_queued=9)
        calls = [say(client, PROMPT, stream=bool(number % 2)) for number in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, openai.AsyncStream):
                try:
                    [chunk async for chunk in answer]
                except Exception:  # noqa: BLE001  # the SDKs differ in what a cut stream raises
                    said.append("cut")
        hasty = client.with_throttle(max_wait=0.001)
        answers += await asyncio.gather(*(say(hasty, PROMPT) for _ in range(30)), return_exceptions=True)
        errors = [error for error in answers if isinstance(error, throttled_openai.AdmissionError)]
        assert {type(error) for error in errors} == {AdmissionTimeout, QueueFull}
        for error in errors:
            said.extend([str(error), repr(error), repr(vars(error)), repr(error.request.headers)])
        said.extend([repr(client), repr(client.throttle), repr(client.throttle.stats()), str(client.throttle.stats())])

    virtual_run(main())
    told = [record.getMessage() for record in caplog.records if record.name == "throttled_openai"]
    assert any("refused" in line for line in told)
    assert any("attempt success" in line for line in told)
    for text in [*told, *said]:
        assert PROMPT not in text
        assert KEY not in text


# Event loops.


@families
def test_one_client_serves_several_event_loops_in_turn(family):
    client = throttled(Script(), family, rpm=6000)

    async def main():
        await asyncio.gather(*(say(client) for _ in range(3)))
        assert client.throttle.in_flight == client.throttle.waiting == 0

    for _ in range(3):
        virtual_run(main())
    asyncio.run(main())
    assert client.throttle.stats().succeeded == 12


def test_what_a_closed_loop_left_behind_does_not_block_the_next():
    client = throttled(blocked(), max_concurrency=2)

    async def leave():
        asyncio.ensure_future(say(client))  # noqa: RUF006  # cancelled with its loop
        stream = asyncio.ensure_future(say(client, stream=True))
        waiting = asyncio.ensure_future(say(client))
        await asyncio.sleep(0.5)
        assert (client.throttle.in_flight, client.throttle.waiting) == (2, 1)
        return await stream, waiting

    async def go_on():
        await asyncio.gather(say(client), say(client), say(client))
        assert (client.throttle.in_flight, client.throttle.waiting) == (0, 0)

    kept = virtual_run(leave())
    virtual_run(go_on())
    del kept
    virtual_run(go_on())


def test_connections_are_let_go_without_a_word_where_nobody_closes_the_loop():
    """At the interpreter's exit, with nest_asyncio: their generator is ended, and nothing can be awaited."""

    class Connections:
        async def aclose(self):
            await asyncio.sleep(0)

    lifetime = _lifetime(Connections())
    for step in (lifetime.__anext__(), lifetime.aclose()):
        with pytest.raises(StopIteration):
            step.send(None)


def test_two_loops_at_once_share_one_client():
    client = throttled(Simulator(latency=0.05), max_concurrency=3)

    async def main():
        await asyncio.gather(*(say(client) for _ in range(10)))

    async def both():
        await asyncio.gather(main(), asyncio.to_thread(lambda: asyncio.run(main())), main())

    asyncio.run(both())
    stats = client.throttle.stats()
    assert (stats.succeeded, stats.waiting, stats.in_flight) == (30, 0, 0)


def test_a_loop_that_stands_still_for_another_one_does_not_hold_it_up():
    """As when a coroutine runs `asyncio.run` in a thread and waits for it, blocking."""
    client = throttled(Simulator(latency=0.05), max_concurrency=3)

    async def main():
        call = asyncio.create_task(say(client))
        await asyncio.sleep(0.01)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, say(client)).result(10)
        await call

    asyncio.run(main())
    assert (client.throttle.stats().succeeded, client.throttle.stats().in_flight) == (2, 0)


# Usage.


def test_usage_is_counted_from_plain_answers_and_streams():
    async def main():
        client = throttled(server(completion_tokens=16))

        def used():
            return client.throttle.stats().budgets[0].tokens_used

        usage = (await say(client)).usage.total_tokens
        assert used() == usage == 24
        async for _ in await say(client, stream=True, stream_options={"include_usage": True}):
            pass
        assert used() == 2 * usage
        async for _ in await say(client, stream=True):
            pass
        assert used() == 2 * usage  # the server did not say

    virtual_run(main())


def test_usage_of_a_streamed_response_is_counted_once():
    async def main():
        client = throttled(server())
        async for event in await client.responses.create(model="gpt-4o", input="hi", stream=True):
            last = event
        assert last.type == "response.completed"
        assert client.throttle.stats().budgets[0].tokens_used == last.response.usage.total_tokens == 17

    virtual_run(main())


def test_a_response_in_the_background_reports_no_usage_yet():
    async def main():
        body = {
            "id": "resp_1",
            "object": "response",
            "status": "queued",
            "model": "gpt-4o",
            "output": [],
            "usage": None,
        }
        client = throttled(Script(Says(body=body), Says(body=body)))
        response = await client.responses.create(model="gpt-4o", input="hi", background=True)
        await client.responses.retrieve(response.id)
        stats = client.throttle.stats()
        assert (stats.admitted, stats.budgets[0].tokens_used) == (1, 0)

    virtual_run(main())


def test_an_upload_that_is_metered_is_admitted_by_its_model():
    async def main():
        script = Script(Says(body={"text": "hello"}))
        client = throttled(script)
        answer = await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", io.BytesIO(b"sound")))
        assert answer.text == "hello"
        assert client.throttle.stats().budgets[0].name == "whisper-1"
        assert b"sound" in script.seen[0].body

    virtual_run(main())


def test_it_works_on_uvloop():
    uvloop = pytest.importorskip("uvloop", reason="there is none for Windows")
    simulator = Simulator(rpm=6000, burst=1.0, latency=0.01)

    async def main():
        async with serve(simulator) as url, ThrottledAsyncOpenAI(base_url=url, api_key="any", rpm=6000) as client:
            answers = await asyncio.gather(*(say(client) for _ in range(150)))
            stream = await say(client, stream=True)
            assert [chunk async for chunk in stream]
            assert len(answers) == 150
            assert (client.throttle.waiting, client.throttle.in_flight) == (0, 0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
