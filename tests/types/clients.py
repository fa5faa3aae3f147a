"""What type checkers see: the SDK's own overloads and results. Checked by mypy and pyright in CI; not run."""

from typing import assert_type

import httpx
import httpx2
import openai
from openai import AsyncStream, Stream
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ParsedChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from throttled_openai import (
    AsyncThrottledMixin,
    Limits,
    Stats,
    Throttle,
    ThrottledAsyncAzureOpenAI,
    ThrottledAsyncOpenAI,
    ThrottledAzureOpenAI,
    ThrottledOpenAI,
    install,
    queue_options,
    wrap,
    wrap_http_client,
)

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


class Answer(BaseModel):
    text: str


class Mine(AsyncThrottledMixin, openai.AsyncOpenAI):
    pass


def takes_the_sdks(client: openai.AsyncOpenAI) -> None: ...


async def results_are_the_sdks(client: ThrottledAsyncOpenAI | ThrottledAsyncAzureOpenAI | Mine) -> None:
    assert_type(await client.chat.completions.create(model="m", messages=HI), ChatCompletion)
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
    assert_type(stream, AsyncStream[ChatCompletionChunk])
    async for chunk in stream:
        assert_type(chunk, ChatCompletionChunk)
    parsed = await client.chat.completions.parse(model="m", messages=HI, response_format=Answer)
    assert_type(parsed, ParsedChatCompletion[Answer])
    assert_type(await client.responses.create(model="m", input="hi"), Response)
    assert_type(await client.embeddings.create(model="m", input="hi"), CreateEmbeddingResponse)
    takes_the_sdks(client)


def results_are_the_sdks_in_threads(client: ThrottledOpenAI | ThrottledAzureOpenAI) -> None:
    assert_type(client.chat.completions.create(model="m", messages=HI), ChatCompletion)
    assert_type(client.chat.completions.create(model="m", messages=HI, stream=True), Stream[ChatCompletionChunk])


def copies_are_of_the_same_class(client: ThrottledAsyncOpenAI, azure: ThrottledAsyncAzureOpenAI) -> None:
    assert_type(client.with_options(timeout=3), ThrottledAsyncOpenAI)
    assert_type(client.with_throttle(priority=3, max_wait=2.0), ThrottledAsyncOpenAI)
    assert_type(azure.copy(), ThrottledAsyncAzureOpenAI)
    assert_type(client.throttle.stats(), Stats)


def what_is_wrapped_keeps_its_kind(mine: httpx.AsyncClient, theirs: httpx2.AsyncClient) -> None:
    assert_type(wrap(openai.AsyncOpenAI(), rpm=60), ThrottledAsyncOpenAI)
    assert_type(wrap(openai.AsyncAzureOpenAI(azure_endpoint="https://a")), ThrottledAsyncAzureOpenAI)
    assert_type(wrap(openai.OpenAI(), limits={"m": Limits(rpm=3)}), ThrottledOpenAI)
    assert_type(wrap_http_client(mine, rpm=60), httpx.AsyncClient)
    assert_type(wrap_http_client(theirs, throttle=Throttle()), httpx2.AsyncClient)


def arguments_are_checked() -> None:
    ThrottledAsyncOpenAI(api_key="k", rpm=60, tpm=1e6, pool="aiohttp", max_wait=3, timeout=3)
    install(rpm=60, pool="sdk")
    ThrottledAsyncOpenAI(rpn=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ThrottledAsyncOpenAI(pool="big")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    install(rpm="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with queue_options(priority=3):
        pass
