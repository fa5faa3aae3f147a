"""OpenAI Agents SDK: our client as the default one. Each turn of an agent is a call of its own.

Traces go to OpenAI by a client of their own, with the key of the environment; here they are off.
"""

import asyncio

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from pydantic import BaseModel

from account import account
from throttled_openai import ThrottledAsyncOpenAI


class Square(BaseModel):
    number: int
    square: int


@function_tool
def square(number: int) -> int:
    return number * number


async def main():
    set_tracing_disabled(True)
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        set_default_openai_client(client, use_for_tracing=False)

        agent = Agent("Squares", model="gpt-4o", tools=[square])
        questions = [f"What is {n} squared?" for n in range(10)]
        results = await asyncio.gather(*(Runner.run(agent, question) for question in questions))
        assert all(result.final_output for result in results)  # one call asked for the tool, one answered

        async def tell(question):
            result = Runner.run_streamed(Agent("Tells", model="gpt-4o"), question)
            return [event async for event in result.stream_events()]

        assert all(await asyncio.gather(*map(tell, questions[:5])))

        # or for one agent
        model = OpenAIChatCompletionsModel("gpt-4o", client)
        result = await Runner.run(Agent("Fills in", model=model, output_type=Square), questions[0])
        assert result.final_output == Square(number=1, square=1)

        server.settles(client.throttle, calls=2 * 10 + 5 + 1)


if __name__ == "__main__":
    asyncio.run(main())
