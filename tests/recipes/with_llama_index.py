"""LlamaIndex: the model takes our clients."""

import asyncio

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel

from account import account
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI

QUESTIONS = [[ChatMessage(f"What is {n} squared?")] for n in range(20)]


class Square(BaseModel):
    number: int
    square: int


async def asynchronous():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        model = OpenAI("gpt-4o", async_openai_client=client)

        answers = await asyncio.gather(*map(model.achat, QUESTIONS))
        assert all(answer.message.content for answer in answers)

        async def tell(question):
            return [chunk.delta async for chunk in await model.astream_chat(question)]

        assert all(await asyncio.gather(*map(tell, QUESTIONS[:5])))

        answer = await model.as_structured_llm(Square).achat(QUESTIONS[0])
        assert answer.raw == Square(number=1, square=1)

        server.settles(client.throttle, calls=20 + 5 + 1)


async def in_threads():
    async with account() as server:
        with ThrottledOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
            model = OpenAI("gpt-4o", openai_client=client)

            answers = await asyncio.gather(*(asyncio.to_thread(model.chat, question) for question in QUESTIONS))
            assert all(answer.message.content for answer in answers)

            server.settles(client.throttle, calls=20)


if __name__ == "__main__":
    asyncio.run(asynchronous())
    asyncio.run(in_threads())
