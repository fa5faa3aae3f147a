"""Haystack: its generators and embedders make their clients at the first call, unless they have some."""

import asyncio

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

from account import account
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI

KEY = Secret.from_token("any")
QUESTIONS = [[ChatMessage.from_user(f"What is {n} squared?")] for n in range(20)]


async def asynchronous():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        generator = OpenAIChatGenerator(KEY, model="gpt-4o")
        generator.async_client = client

        answers = await asyncio.gather(*map(generator.run_async, QUESTIONS))
        assert all(answer["replies"][0].text for answer in answers)

        told = []

        async def tell(chunk):
            told.append(chunk)

        await asyncio.gather(*(generator.run_async(said, streaming_callback=tell) for said in QUESTIONS[:5]))
        assert told

        embedder = OpenAIDocumentEmbedder(KEY, batch_size=2, progress_bar=False)
        embedder.async_client = client
        embedded = await embedder.run_async([Document(content=f"{n}") for n in range(10)])
        assert all(document.embedding for document in embedded["documents"])

        server.settles(client.throttle, calls=20 + 5 + 10 // 2)


async def in_threads():
    async with account() as server:
        with ThrottledOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
            generator = OpenAIChatGenerator(KEY, model="gpt-4o")
            generator.client = client

            answers = await asyncio.gather(*(asyncio.to_thread(generator.run, said) for said in QUESTIONS))
            assert all(answer["replies"][0].text for answer in answers)

            server.settles(client.throttle, calls=20)


if __name__ == "__main__":
    asyncio.run(asynchronous())
    asyncio.run(in_threads())
