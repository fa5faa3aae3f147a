"""`langchain-openai`: `ChatOpenAI` with an `InMemoryRateLimiter`, a call `ainvoke` each.

As the limiter's own example: it looks ten times a second whether a request may go, and lets at most ten
go at once; here a second's worth, which is ten of 600 a minute. It knows no tokens: a limit of them is
told as requests of the mean size. Told nothing, there is no limiter. Chat only; headers go through.
"""

from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI

PACKAGE = "langchain-openai"
REQUIREMENTS = ("langchain-openai",)
VARIANTS = {"ChatOpenAI + InMemoryRateLimiter": {}}
GRID = {
    "share": [1.0, 0.9],
    "untold": [None, 600.0, 1800.0],
    "every": [0.1, 0.01],
    "max_retries": [10],
}


async def run(job, *, share=1.0, untold=None, burst=1.0, every=0.1, max_retries=2):
    if any("input" in call.arguments for call in job.calls):
        raise NotImplementedError("ChatOpenAI has no embeddings, and OpenAIEmbeddings takes no limiter")
    told = [job.rpm] if job.rpm else []
    if job.tpm:
        told.append(job.tpm * len(job.calls) / sum(call.size for call in job.calls))
    rpm = share * min(told) if told else untold
    limiter = rpm and InMemoryRateLimiter(
        requests_per_second=rpm / 60, check_every_n_seconds=every, max_bucket_size=max(1.0, rpm / 60 * burst)
    )
    options = {"http_async_client": job.http_client()} if job.transport else {}
    model = ChatOpenAI(
        model=job.model,
        base_url=job.base_url,
        api_key="none",
        max_retries=max_retries,
        rate_limiter=limiter or None,
        **options,
    )

    async def send(call):
        messages = [(each["role"], each["content"]) for each in call.arguments["messages"]]
        settings = {name: call.arguments[name] for name in ("max_tokens", "extra_headers")}
        if call.arguments.get("stream"):
            async for _ in model.astream(messages, **settings):
                pass
        else:
            await model.ainvoke(messages, **settings)

    await job.each(send)
