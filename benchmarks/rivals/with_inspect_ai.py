"""`inspect-ai`: `get_model("openai/...").generate`, whose connections adapt to refusals by default.

Its page "Model Concurrency": adaptive connections (10 to 100, from 20), or a fixed `max_connections`,
10 if one does not know; retries without end. It keeps connections for a process by API key, so each run
has a key of its own. Chat only; headers go through, and a stream is asked for by its `streaming`.

For its log it renders the traceback of each refused attempt, some 0.1 s of CPU. In virtual time, where
code costs nothing, that is left out; no decision depends on it.

Tuned: a fixed number of connections, or others to adapt within ("least-first-most").
"""

import itertools

import inspect_ai.model._model
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from inspect_ai.util import AdaptiveConcurrency

PACKAGE = "inspect-ai"
REQUIREMENTS = ("openai", "inspect-ai")
VARIANTS = {"inspect-ai": {}, "inspect-ai, max_connections=10": {"connections": 10}}
GRID = {"connections": ["10-20-100", "1-4-100", "1-20-300", 3, 5, 10, 20, 40, 80, 160]}

KEYS = itertools.count()


async def run(job, connections="10-20-100"):
    if any("input" in call.arguments for call in job.calls):
        raise NotImplementedError("inspect-ai has no embeddings")
    if isinstance(connections, int):
        config = GenerateConfig(max_connections=connections)
    else:
        config = GenerateConfig(adaptive_connections=AdaptiveConcurrency.model_validate(connections))
    options = {"http_client": job.http_client()} if job.transport else {}
    if job.transport:
        inspect_ai.model._model.format_traceback = lambda *_: ("", "")  # noqa: SLF001
    async with get_model(
        f"openai/{job.model}",
        base_url=job.base_url,
        api_key=f"none-{next(KEYS)}",
        memoize=False,
        streaming=bool(job.calls[0].arguments.get("stream")),
        config=config,
        **options,
    ) as model:

        async def send(call):
            settings = {name: call.arguments[name] for name in ("max_tokens", "extra_headers")}
            messages = [ChatMessageUser(content=each["content"]) for each in call.arguments["messages"]]
            await model.generate(messages, config=GenerateConfig(**settings))

        await job.each(send)
