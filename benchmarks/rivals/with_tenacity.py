"""`tenacity` around each call, as in OpenAI's cookbook: random exponential backoff, six attempts."""

from openai import AsyncOpenAI
from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

from comparison.job import ask

PACKAGE = "tenacity"
REQUIREMENTS = ("openai", "tenacity")
VARIANTS = {"tenacity": {}}
GRID = {"attempts": [6, 20], "longest": [20, 60], "max_retries": [0, 2]}


async def run(job, attempts=6, longest=60, max_retries=2):
    async with job.client(AsyncOpenAI, max_retries=max_retries) as client:

        async def send(call):
            async for attempt in AsyncRetrying(
                wait=wait_random_exponential(min=1, max=longest), stop=stop_after_attempt(attempts), reraise=True
            ):
                with attempt:
                    await ask(client, call)

        await job.each(send)
