"""`token-throttle` around each call: reserve before, refund what was not used.

As its README's quick start: quotas a minute in memory, `reserve()` for the most a call may use (prompt
and answer) and the answer's `usage` as what it did use. Its own counter of tokens fetches a table from
the internet, so usage is passed, as its README says for any provider. It needs Python 3.12.

Tuned: quotas over shorter times, a share left as a margin, or the prompt alone reserved.
"""

import math

from openai import AsyncOpenAI
from token_throttle import MemoryBackendBuilder, PerModelConfig, Quota, RateLimiter, UsageQuotas

from comparison.job import ask

PACKAGE = "token-throttle"
REQUIREMENTS = ("openai", "token-throttle")
PYTHON = ">=3.12"
VARIANTS = {"token-throttle": {}}
GRID = {"period": [60, 1], "share": [1.0, 0.9], "answers": [True, False], "max_retries": [2, 10]}


async def run(job, period=60, share=1.0, answers=True, max_retries=2):
    most = max(reserved(call, answers) for call in job.calls)
    quotas = []
    for metric, limit, least in (("requests", job.rpm, 1), ("tokens", job.tpm, most)):
        if limit:
            seconds = max(period, math.ceil(least / (limit * share / 60)))
            quotas.append(Quota(metric=metric, limit=limit * share * seconds / 60, per_seconds=seconds))
    known = [quota.metric for quota in quotas]
    config = PerModelConfig(quotas=UsageQuotas(quotas) if quotas else UsageQuotas.unlimited())
    limiter = RateLimiter(config, backend=MemoryBackendBuilder())

    async def send(call):
        usage = {"requests": 1, "tokens": reserved(call, answers)}
        usage = {metric: usage[metric] for metric in known}
        async with limiter.reserve(usage, model=job.model) as handle:
            tokens = await used(client, call)
            if answers and tokens is not None and "tokens" in known:
                usage["tokens"] = tokens
            handle.set_actual_usage(usage)

    async with job.client(AsyncOpenAI, max_retries=max_retries) as client:
        await job.each(send)
    await limiter.aclose()


def reserved(call, answers):
    return call.size + (call.arguments.get("max_tokens", 0) if answers else 0)


async def used(client, call):
    """Make a call; the tokens its answer says it used, or None of a stream."""
    if call.arguments.get("stream"):
        return await ask(client, call)
    resource = client.embeddings if "input" in call.arguments else client.chat.completions
    return (await resource.create(**call.arguments)).usage.total_tokens
