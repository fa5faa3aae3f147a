"""LiteLLM: a call takes our client, or a session is set for all calls.

That is for what LiteLLM sends through the SDK: `openai/...`, with any `api_base`, `azure/...` and some more.
It sets `max_retries` of our client to its own number, 2 if not told otherwise; that is for faults only.

It has handlers of its own for `groq/...`, `mistral/...`, `deepseek/...`, `openrouter/...` and others, which
go past the SDK and take a client of theirs. Close their streams: they leave them to the garbage collector.
"""

import asyncio
from contextlib import aclosing

import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from openai import DefaultAsyncHttpxClient

from account import account
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI, wrap_http_client

QUESTIONS = [[{"role": "user", "content": f"What is {n} squared?"}] for n in range(20)]


async def asynchronous():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:

        def ask(question, **options):
            return litellm.acompletion("openai/gpt-4o", messages=question, client=client, **options)

        answers = await asyncio.gather(*map(ask, QUESTIONS))
        assert all(answer.choices[0].message.content for answer in answers)

        async def tell(question):
            return [chunk async for chunk in await ask(question, stream=True)]

        assert all(await asyncio.gather(*map(tell, QUESTIONS[:5])))

        embedded = await litellm.aembedding("openai/text-embedding-3-small", input=["one", "two"], client=client)
        assert len(embedded.data) == 2

        server.settles(client.throttle, calls=20 + 5 + 1)


async def by_http_client():
    async with account() as server, wrap_http_client(DefaultAsyncHttpxClient(), rpm=600) as session:
        litellm.aclient_session = session  # before the first call, since LiteLLM keeps its clients

        def ask(question):
            return litellm.acompletion("openai/gpt-4o", messages=question, api_base=server.url, api_key="any")

        answers = await asyncio.gather(*map(ask, QUESTIONS))
        assert all(answer.choices[0].message.content for answer in answers)

        server.settles(session.throttle, calls=20)


async def past_the_sdk():
    async with account() as server:
        handler = AsyncHTTPHandler()
        handler.client = wrap_http_client(handler.client, rpm=600)

        def ask(question, **options):
            options |= {"api_base": server.url, "api_key": "any", "client": handler}
            return litellm.acompletion("mistral/mistral-small-latest", messages=question, **options)

        answers = await asyncio.gather(*map(ask, QUESTIONS))
        assert all(answer.choices[0].message.content for answer in answers)

        async def tell(question):
            async with aclosing(await ask(question, stream=True)) as stream:
                return [chunk async for chunk in stream]

        assert all(await asyncio.gather(*map(tell, QUESTIONS[:5])))

        server.settles(handler.client.throttle, calls=20 + 5)
        await handler.client.aclose()  # LiteLLM closes only what it made itself


async def in_threads():
    async with account() as server:
        with ThrottledOpenAI(base_url=server.url, api_key="any", rpm=600) as client:

            def ask(question):
                return litellm.completion("openai/gpt-4o", messages=question, client=client)

            answers = await asyncio.gather(*(asyncio.to_thread(ask, question) for question in QUESTIONS))
            assert all(answer.choices[0].message.content for answer in answers)

            server.settles(client.throttle, calls=20)


if __name__ == "__main__":
    asyncio.run(asynchronous())
    asyncio.run(by_http_client())
    asyncio.run(past_the_sdk())
    asyncio.run(in_threads())
