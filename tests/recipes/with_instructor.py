"""Instructor: it wraps our clients. What does not fit is asked for again, and every time is throttled."""

import asyncio
import itertools

import instructor
from pydantic import BaseModel, field_validator

from account import account
from throttled_openai import ThrottledAsyncOpenAI, ThrottledOpenAI

QUESTIONS = [[{"role": "user", "content": f"What is {n} squared?"}] for n in range(20)]
TRIES = itertools.count(1)


class Square(BaseModel):
    number: int
    square: int


class Doubted(Square):
    @field_validator("square")
    @classmethod
    def third_time_lucky(cls, square):
        if next(TRIES) < 3:
            raise ValueError("think again")
        return square


async def asynchronous():
    async with account() as server, ThrottledAsyncOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
        extractor = instructor.from_openai(client)

        def extract(question, model):
            return extractor.create(model="gpt-4o", response_model=model, messages=question, max_retries=3)

        squares = await asyncio.gather(*(extract(question, Square) for question in QUESTIONS))
        assert squares[0].square == 1

        await extract(QUESTIONS[0], Doubted)

        server.settles(client.throttle, calls=20 + 3)


async def in_threads():
    async with account() as server:
        with ThrottledOpenAI(base_url=server.url, api_key="any", rpm=600) as client:
            extractor = instructor.from_openai(client)

            def extract(question):
                return extractor.create(model="gpt-4o", response_model=Square, messages=question)

            squares = await asyncio.gather(*(asyncio.to_thread(extract, question) for question in QUESTIONS))
            assert squares[0].square == 1

            server.settles(client.throttle, calls=20)


if __name__ == "__main__":
    asyncio.run(asynchronous())
    asyncio.run(in_threads())
