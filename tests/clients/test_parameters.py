"""`fast_parameters()`: the same on the wire, for less; on only by request, and off again."""

import asyncio
import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from openai._utils import _transform as sdk
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from scripted import FAMILIES, URL
from throttled_openai import ThrottledAsyncOpenAI, fast_parameters
from throttled_openai._clients import parameters

FUNCTIONS = sdk.transform, sdk.async_transform


@pytest.fixture
def fast():
    assert fast_parameters()
    yield
    fast_parameters(False)
    assert (sdk.transform, sdk.async_transform) == FUNCTIONS


@pytest.fixture
def calls_of_the_sdk(monkeypatch):
    """How often the SDK looks at types."""
    calls, look = [], sdk._async_transform_recursive

    async def note(*args, **more):
        calls.append(args)
        return await look(*args, **more)

    monkeypatch.setattr(sdk, "_async_transform_recursive", note)
    return calls


async def sent(create):
    """The body of a call."""
    httpx = importlib.import_module(FAMILIES[-1])
    bodies = []

    def answer(request):
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"data": []})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with AsyncOpenAI(api_key="none", base_url=URL, http_client=http) as client:
        await create(client)
    return bodies[0]


def chat(messages):
    return lambda client: client.chat.completions.create(model="m", messages=messages, temperature=openai.NOT_GIVEN)


def test_every_type_is_transformed_as_the_sdk_does_it():
    # In a process of its own, as three thousand classes would slow down the garbage collections of later tests.
    script = Path(__file__).with_name("every_parameter.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_it_is_not_on_by_itself():
    assert sdk.transform.__module__ == "openai._utils._transform"


def test_bodies_are_the_same_on_the_wire(calls_of_the_sdk):
    cases = [
        (lambda: chat([{"role": "user", "content": [{"type": "text", "text": "x"}]}]), True),
        (lambda: chat([ChatCompletionMessage.construct(role="assistant", content="x")]), False),
        (lambda: chat(message for message in [{"role": "user", "content": "x"}]), False),
        (lambda: lambda c: c.embeddings.create(model="m", input=[[1, 2]], encoding_format="float"), True),
        (lambda: lambda c: c.responses.create(model="m", input="x", tools=[{"type": "function", "a": {}}]), True),
    ]
    for make, ours in cases:
        plain = asyncio.run(sent(make()))
        fast_parameters()
        try:
            calls_of_the_sdk.clear()
            assert asyncio.run(sent(make())) == plain
            assert (not calls_of_the_sdk) == ours
        finally:
            fast_parameters(False)


def test_what_the_caller_changes_while_its_call_waits_is_not_sent(fast):
    messages = [{"role": "user", "content": "x"}]
    copied = sdk.transform({"model": "m", "messages": messages}, CompletionCreateParamsNonStreaming)
    messages[0]["content"] = "y"
    messages.append(1)
    assert copied == {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def test_twice_on_is_on_and_once_off_is_off():
    assert fast_parameters()
    assert fast_parameters()
    assert not fast_parameters(False)
    assert (sdk.transform, sdk.async_transform) == FUNCTIONS
    assert not fast_parameters(False)


def test_another_library_that_came_later_keeps_its_functions(monkeypatch):
    fast_parameters()
    ours = sdk.transform

    def theirs(data, expected_type):
        return ours(data, expected_type)

    monkeypatch.setattr(sdk, "transform", theirs)
    fast_parameters(False)
    assert sdk.transform is theirs
    assert sdk.transform({"a": openai.NOT_GIVEN}, dict[str, object]) == {"a": openai.NOT_GIVEN}
    monkeypatch.undo()
    fast_parameters()
    fast_parameters(False)


def test_with_an_unknown_sdk_it_stays_off_and_warns_once(monkeypatch):
    monkeypatch.setattr(parameters, "digest", lambda: "another")
    parameters._known.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="fast_parameters.. changes nothing"):
            assert not fast_parameters()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not fast_parameters()
        assert sdk.transform is FUNCTIONS[0]
    finally:
        parameters._known.cache_clear()


def test_throttled_clients_gain_too(fast, calls_of_the_sdk):
    httpx = importlib.import_module(FAMILIES[-1])
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})))

    async def go():
        async with ThrottledAsyncOpenAI(api_key="none", base_url=URL, http_client=http) as client:
            await chat([{"role": "user", "content": "x"}])(client)

    asyncio.run(go())
    assert not calls_of_the_sdk
