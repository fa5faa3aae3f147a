"""`async-batch-llm`: workers around an existing client, who all pause when one of them is refused.

Its README for such a client: `process_stream` with a `CallableStrategy`; ten workers, as in its quick
start. With limits: its guide "Choosing Your Limits", whose worked example sets nine tenths of the limit,
five seconds' worth at once, 16 workers and a pause of a minute. Retries are its own, as there recommended.

Tuned: the limit, the burst and the workers, the prompt alone counted, a short pause and no slow start.
"""

from contextlib import aclosing

from async_batch_llm import (
    CallableStrategy,
    CallOutcome,
    OpenAIErrorClassifier,
    ProcessorConfig,
    RateLimitConfig,
    TokenEstimate,
    process_stream,
)
from openai import AsyncOpenAI

from comparison.job import ask

PACKAGE = "async-batch-llm"
REQUIREMENTS = ("openai", "async-batch-llm")
VARIANTS = {
    "async-batch-llm": {},
    "async-batch-llm, RPM and TPM": {"share": 0.9, "burst": 5.0, "concurrency": 16, "cooldown": 60.0},
}
GRID = {
    "share": [1.0, 0.9],
    "burst": [1.0, 60.0],
    "concurrency": [16, 64],
    "answers": [True, False],
    "cooldown": [1.0],
    "slow_start": [0],
}


async def run(job, *, share=None, burst=60.0, concurrency=10, answers=True, cooldown=300.0, slow_start=50):
    calls = {str(call.number): call for call in job.calls}

    async def invoke(prompt, **_):
        usage = await used(client, calls[prompt])
        return CallOutcome(prompt, usage if answers else {})

    async def estimate(prompt, **_):
        call = calls[prompt]
        return TokenEstimate(call.size, call.arguments.get("max_tokens", 0) if answers else 0)

    async def prompts():
        for number, call in calls.items():
            await job.start(call)
            yield number, number

    config = ProcessorConfig(
        concurrency=concurrency,
        rate_limit=RateLimitConfig(cooldown_seconds=cooldown, slow_start_items=slow_start),
        max_requests_per_minute=job.rpm * share if job.rpm and share else None,
        max_tokens_per_minute=int(job.tpm * share) if job.tpm and share else None,
        quota_burst_seconds=burst if share else None,
        token_estimator=estimate,
    )
    async with job.client(AsyncOpenAI, max_retries=0) as client:
        strategy = CallableStrategy(invoke, error_classifier=OpenAIErrorClassifier())
        async with aclosing(process_stream(strategy, prompts(), config=config)) as results:
            async for result in results:
                error = None if result.success else type(result.exception).__name__
                job.end(calls[result.item_id], error)


async def used(client, call):
    """Make a call; the usage its answer tells of, which a stream does not."""
    if call.arguments.get("stream"):
        await ask(client, call)
        return {}
    resource = client.embeddings if "input" in call.arguments else client.chat.completions
    return {"total_tokens": (await resource.create(**call.arguments)).usage.total_tokens}
