"""LangChain: models take our clients, under two names each; or make theirs with a throttled HTTP client."""

import asyncio

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import DefaultAsyncHttpxClient
from pydantic import BaseModel

from account import account
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI, wrap_http_client

QUESTIONS = [f"What is {n} squared?" for n in range(20)]


class Square(BaseModel):
    number: int
    square: int


async def asynchronous():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        model = ChatOpenAI(model="gpt-4o", root_async_client=client, async_client=client.chat.completions)

        answers = await model.abatch(QUESTIONS)
        assert all(answer.text for answer in answers)

        async def tell(question):
            return "".join([chunk.text async for chunk in model.astream(question)])

        assert all(await asyncio.gather(*map(tell, QUESTIONS[:5])))

        squares = await model.with_structured_output(Square).abatch(QUESTIONS[:5])
        assert squares[0] == Square(number=1, square=1)

        # The length is counted with an encoding that has to be downloaded first.
        embeddings = OpenAIEmbeddings(async_client=client.embeddings, check_embedding_ctx_length=False)
        assert len(await embeddings.aembed_documents(QUESTIONS)) == 20

        server.settles(client.throttle, calls=20 + 5 + 5 + 1)


async def by_http_client():
    async with account() as server, wrap_http_client(DefaultAsyncHttpxClient(), rpm=600) as http_client:
        where = {"base_url": server.url, "api_key": "any", "http_async_client": http_client}

        model = ChatOpenAI(model="gpt-4o", **where)
        answers = await model.abatch(QUESTIONS)
        assert all(answer.text for answer in answers)

        embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **where)
        assert len(await embeddings.aembed_documents(QUESTIONS)) == 20

        server.settles(http_client.throttle, calls=20 + 1)


async def in_threads():
    async with account() as server:
        with ThrottledOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
            # The key is for the asynchronous client that it makes as well, unless it has that too.
            model = ChatOpenAI(model="gpt-4o", root_client=client, client=client.chat.completions, api_key="any")

            answers = await asyncio.to_thread(model.batch, QUESTIONS)
            assert all(answer.text for answer in answers)

            server.settles(client.throttle, calls=20)


if __name__ == "__main__":
    asyncio.run(asynchronous())
    asyncio.run(by_http_client())
    asyncio.run(in_threads())
