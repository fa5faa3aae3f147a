"""Pydantic AI: the provider takes our client. Each step of an agent is a call of its own."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from account import account
from throttled_openai import ThrottledAsyncOpenAI


class Square(BaseModel):
    number: int
    square: int


async def main():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))

        questions = [f"What is {n} squared?" for n in range(20)]
        answers = await asyncio.gather(*map(Agent(model).run, questions))
        assert all(answer.output for answer in answers)

        async def tell(question):
            async with Agent(model).run_stream(question) as result:
                return await result.get_output()

        assert all(await asyncio.gather(*map(tell, questions[:5])))

        agent = Agent(model, output_type=Square)
        answer = await agent.run(questions[0])
        assert answer.output == Square(number=1, square=1)

        agent = Agent(OpenAIResponsesModel("gpt-4o", provider=OpenAIProvider(openai_client=client)))
        agent.tool_plain(square)
        await asyncio.gather(*map(agent.run, questions[:5]))  # one call asks for the tool, one answers

        server.settles(client.throttle, calls=20 + 5 + 1 + 2 * 5)


def square(number: int) -> int:
    return number * number


if __name__ == "__main__":
    asyncio.run(main())
