"""`backstop-ai`: `Backstop.wrap(client)`, as its README has it: few calls at once, fewer after refusals.

It replaces the SDK's retries by its own. Its budget, 50,000 tokens by default, is for money and is not
set here: no limit of the server would be kept by it. Its limiter of rates refuses instead of waiting,
so it is not set either.

Tuned: more or fewer at once, more and longer retries, and a circuit that never opens.
"""

from backstop import Backstop, BackstopConfig
from openai import AsyncOpenAI

from comparison.job import ask

PACKAGE = "backstop-ai"
REQUIREMENTS = ("openai", "backstop-ai")
VARIANTS = {"backstop": {}}
GRID = {
    "initial_concurrency": [4, 8, 16, 64],
    "circuit_min_requests": [1_000_000],
    "retry_max_attempts": [3, 20],
    "retry_max_delay": [2.0, 30.0],
}


async def run(job, **settings):
    async with Backstop.wrap(job.client(AsyncOpenAI), budget=None, config=BackstopConfig(**settings)) as client:
        await job.each(lambda call: ask(client, call))
