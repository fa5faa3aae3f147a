"""`litellm`'s `Router` over one deployment, whose `rpm` and `tpm` it is told, with three retries.

Its page "Router": the strategy `simple-shuffle`, which it recommends; of the limits it makes a number
of calls at once (RPM, or TPM / 6,000), and refuses what is above it. The strategies that count usage
refuse as well, by the minutes of the clock on the wall, so they are not run. Headers go through.

It keeps clients for a process by API key, so each run has a key of its own.

Tuned: more retries, with a least wait before each, and fewer calls at once.
"""

import itertools

import litellm

PACKAGE = "litellm"
REQUIREMENTS = ("litellm",)
VARIANTS = {"litellm Router": {}}
GRID = {"num_retries": [30], "retry_after": [0, 5], "at_once": [None, 20]}

KEYS = itertools.count()


async def run(job, *, num_retries=3, retry_after=0, at_once=None):
    if job.transport:
        litellm.aclient_session = job.http_client()
    limits = {"rpm": job.rpm and int(job.rpm), "tpm": job.tpm and int(job.tpm), "max_parallel_requests": at_once}
    deployment = {
        "model": f"openai/{job.model}",
        "api_base": job.base_url,
        "api_key": f"none-{next(KEYS)}",
        **{name: value for name, value in limits.items() if value},
    }
    router = litellm.Router(
        model_list=[{"model_name": job.model, "litellm_params": deployment}],
        routing_strategy="simple-shuffle",
        num_retries=num_retries,
        retry_after=retry_after,
    )

    async def send(call):
        if "input" in call.arguments:
            await router.aembedding(**call.arguments)
            return
        answer = await router.acompletion(**call.arguments)
        if call.arguments.get("stream"):
            async for _ in answer:
                pass

    await job.each(send)
