"""Answers are those of the SDK: all its models, built from random JSON by both, are compared to the last detail.

`ANSWERS=40 python -m pytest tests/clients/test_answer_plans.py` tries forty values of each model instead of one.
"""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Optional

import openai
import pytest
from openai import AsyncOpenAI, BaseModel, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from every_model import assert_same, compare
from scripted import FAMILIES, URL
from throttled_openai import AsyncThrottledMixin, ThrottledAsyncOpenAI, ThrottledOpenAI
from throttled_openai._clients import answers

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 100, "total_tokens": 108},
}


def test_every_model_is_built_as_the_sdk_builds_it():
    # In a process of its own, as three thousand classes would slow down the garbage collections of later tests.
    script = Path(__file__).with_name("every_model.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_unknown_and_wrong_values_of_a_call_are_as_the_sdk_has_them():
    for changes in (
        {},
        {"finish_reason": "new"},
        {"message": None},
        {"message": {"role": 1, "tool_calls": [{}]}},
        {"index": 1.5},
    ):
        assert compare(
            ChatCompletion, {**COMPLETION, "choices": [{**COMPLETION["choices"][0], **changes}], "more": [1]}
        )
    assert not compare(ChatCompletion, {**COMPLETION, "_fields_set": 1})


class Mine(BaseModel):
    created: int = 0
    itself: Optional["Mine"] = None
    tags: list[str] = []  # noqa: RUF012

    @classmethod
    def construct(cls, _fields_set=None, **values):
        made = super().construct(_fields_set, **values)
        made.created += 1
        return made


class Holder(BaseModel):
    mine: Mine
    many: dict[str, list[Mine]]
    one: Annotated[Mine | str, "about"]


def test_models_of_the_user_are_built_by_their_own_construct():
    data = {"mine": {"created": 1}, "many": {"a": [{"created": 2}, 3]}, "one": "x"}
    assert compare(Holder, data)
    assert answers.construct(Holder, data).mine.created == 2


def serve(httpx, request):
    if json.loads(request.content).get("stream"):
        chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]}
        events = "".join(f"data: {json.dumps(each)}\n\n" for each in (chunk, {**chunk, "usage": {"new": 1}}, "[DONE]"))
        text = events.replace('"[DONE]"', "[DONE]")
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)
    return httpx.Response(200, json=COMPLETION, headers={"x-request-id": "r"})


ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def answers_of(client_class, **options):
    """What a call brings, and the chunks of a streamed one."""
    httpx = importlib.import_module(FAMILIES[-1])
    transport = httpx.MockTransport(lambda request: serve(httpx, request))
    options = {"api_key": "none", "base_url": URL, **options}
    if issubclass(client_class, OpenAI):
        with client_class(http_client=httpx.Client(transport=transport), **options) as client:
            create = client.chat.completions.create
            return [create(**ASKED), *create(**ASKED, stream=True)]

    async def ask():
        async with client_class(http_client=httpx.AsyncClient(transport=transport), **options) as client:
            create = client.chat.completions.create
            return [await create(**ASKED), *[each async for each in await create(**ASKED, stream=True)]]

    return asyncio.run(ask())


@pytest.fixture
def built(monkeypatch):
    """The types that were built by us."""
    types, construct = [], answers.construct

    def note(cast_to, data):
        made = construct(cast_to, data)
        types.extend([cast_to] if made is not None else [])
        return made

    monkeypatch.setattr(answers, "construct", note)
    return types


CLIENTS = [(ThrottledAsyncOpenAI, AsyncOpenAI), (ThrottledOpenAI, OpenAI)]


@pytest.mark.parametrize(("ours", "stock"), CLIENTS)
def test_answers_and_chunks_of_the_clients_are_those_of_the_sdk(ours, stock, built):
    mine = answers_of(ours)
    assert built == [ChatCompletion, ChatCompletionChunk, ChatCompletionChunk]
    theirs = answers_of(stock)
    assert len(mine) == len(theirs) == 3
    for pair in zip(mine, theirs, strict=True):
        assert_same(*pair)
    assert mine[0]._request_id == "r"


def test_strict_validation_is_left_to_the_sdk(built):
    with pytest.raises(openai.APIResponseValidationError):
        answers_of(ThrottledAsyncOpenAI, _strict_response_validation=True)
    assert not built


class Own(AsyncOpenAI):
    """Of a library between the SDK and us."""

    def _process_response_data(self, **options):
        made = super()._process_response_data(**options)
        made.model = "own"
        return made


class ThrottledOwn(AsyncThrottledMixin, Own):
    pass


def test_a_class_with_a_hook_of_its_own_keeps_it(built):
    assert {each.model for each in answers_of(ThrottledOwn)} == {"own"}
    assert not built


def test_another_library_may_replace_how_the_sdk_builds(monkeypatch, built):
    monkeypatch.setattr(openai._models, "construct_type", lambda **_: "theirs")
    answers_of(ThrottledAsyncOpenAI)
    assert not built


def test_with_an_unknown_sdk_the_answers_are_the_sdks_own(monkeypatch, built):
    monkeypatch.setattr(answers, "_answers", {})
    monkeypatch.setattr(answers, "known", lambda: False)
    answers_of(ThrottledAsyncOpenAI)
    assert not built
