"""The SDK's client behind a semaphore: ten at once, or RPM / 6, as questions about 429s are answered."""

import asyncio

from openai import AsyncOpenAI

from comparison.job import ask

PACKAGE = "openai"
REQUIREMENTS = ("openai",)
VARIANTS = {"Semaphore(10)": {"at_once": 10}, "Semaphore(RPM / 6)": {"at_once": None}}
GRID = {"at_once": [5, 20, 40, 80, 160, 320], "max_retries": [2, 10]}


async def run(job, at_once, max_retries=2):
    if at_once is None:
        at_once = max(1, round((job.rpm or 60) / 6))
    semaphore = asyncio.Semaphore(at_once)

    async def send(call):
        async with semaphore:
            await ask(client, call)

    async with job.client(AsyncOpenAI, max_retries=max_retries) as client:
        await job.each(send)
