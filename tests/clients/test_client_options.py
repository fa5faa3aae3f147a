"""`ThrottledAsyncOpenAI` takes the arguments of `AsyncOpenAI` and its own, in its constructor and in copies."""

import asyncio
import inspect
import math
import threading
import typing

import openai
import pytest
from openai import AsyncOpenAI

import throttled_openai
from async_clients import OURS, server, windows
from scripted import Says, Script, families, http_client, say, settled, throttled
from throttled_openai import Limits, Throttle, ThrottledAsyncOpenAI
from throttled_openai.simulator import virtual_run

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


def test_arguments_have_the_same_effect_as_in_the_sdk():
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


def test_an_unknown_argument_is_the_sdks_type_error():
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
def test_invalid_options_fail_in_the_constructor(options, error, words):
    with pytest.raises(error, match=words):
        ThrottledAsyncOpenAI(api_key="x", **options)


# Copies.


@pytest.mark.parametrize("method", ["copy", "with_options"])
def test_a_copy_shares_the_budgets_and_keeps_its_queue_options(method):
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


def test_with_throttle_changes_queue_options_and_nothing_else():
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
