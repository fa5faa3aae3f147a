"""The SDK's client and `gather`: what people write first. Two retries are its default."""

from openai import AsyncOpenAI

from comparison.job import ask

PACKAGE = "openai"
REQUIREMENTS = ("openai",)
VARIANTS = {"AsyncOpenAI + gather": {"max_retries": 2}, "AsyncOpenAI(max_retries=10) + gather": {"max_retries": 10}}


async def run(job, max_retries):
    async with job.client(AsyncOpenAI, max_retries=max_retries) as client:
        await job.each(lambda call: ask(client, call))
