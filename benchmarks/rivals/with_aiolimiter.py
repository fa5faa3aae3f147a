"""`aiolimiter` around each call: a leaky bucket of requests, which starts with a minute's worth at once.

One of tokens instead where only tokens are limited: `acquire(amount)`, of the prompt's size.

Tuned: spread over a second or less, tokens in a bucket of their own, and a share left as a margin.
"""

from contextlib import AsyncExitStack

from aiolimiter import AsyncLimiter
from openai import AsyncOpenAI

from comparison.job import ask

PACKAGE = "aiolimiter"
REQUIREMENTS = ("openai", "aiolimiter")
VARIANTS = {"aiolimiter": {}}
GRID = {"period": [60.0, 1.0], "share": [1.0, 0.9], "tokens": [False, True], "max_retries": [2, 10]}


async def run(job, period=60.0, share=1.0, tokens=None, max_retries=2):
    limiters = []
    if job.rpm:
        limiters.append((AsyncLimiter(max(1.0, job.rpm * share * period / 60), period), lambda _: 1))
    if job.tpm and (tokens or (tokens is None and not job.rpm)):
        most = max(job.tpm * share * period / 60, *(call.size for call in job.calls))
        limiters.append((AsyncLimiter(most, most / (job.tpm * share / 60)), lambda call: call.size))

    async def send(call):
        for limiter, units in limiters:
            await limiter.acquire(units(call))
        await ask(client, call)

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(job.client(AsyncOpenAI, max_retries=max_retries))
        await job.each(send)
