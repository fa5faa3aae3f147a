"""DSPy: its own engine, the default, talks to the server itself, past the SDK. Nothing of ours can throttle that.

`engine="litellm"` goes through the SDK, in clients that LiteLLM makes: `install()` throttles those, for
asynchronous calls and for DSPy's threads.
"""

import asyncio

import dspy

from account import account
from throttled_openai import Throttle, install


async def main():
    throttle = Throttle(rpm=600, threads=True)
    install(throttle=throttle)  # in a program: install(rpm=600)

    async with account() as server:
        past_us = dspy.LM("openai/gpt-4o", cache=False, api_base=server.url, api_key="any")
        assert await past_us.acall("What is 2 squared?")
        assert (server.stats()["attempts"], throttle.stats().admitted) == (1, 0)

    async with account() as server:
        model = dspy.LM("openai/gpt-4o", engine="litellm", cache=False, api_base=server.url, api_key="any")

        questions = [f"What is {n} squared?" for n in range(20)]
        assert all(await asyncio.gather(*map(model.acall, questions[:10])))
        assert all(await asyncio.gather(*(asyncio.to_thread(model, question) for question in questions[10:])))

        with dspy.context(lm=model, adapter=dspy.JSONAdapter()):
            square = dspy.Predict("question -> square: int")
            answers = await asyncio.gather(*(square.acall(question=question) for question in questions[:5]))
        assert answers[0].square == 1

        server.settles(throttle, calls=20 + 5)


if __name__ == "__main__":
    asyncio.run(main())
