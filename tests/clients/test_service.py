"""The web service of the README, on a real server: what its callers see when the queue is full."""

import asyncio
import contextlib
import functools
import importlib

import uvicorn

from readme import BLOCKS
from scripted import FAMILIES
from servers import real
from throttled_openai import ThrottledAsyncOpenAI
from throttled_openai.simulator import Simulator, serve


@contextlib.asynccontextmanager
async def service(account, **limits):
    """The README's application behind uvicorn, with a small queue; and a client of it."""
    (block,) = (block for block in BLOCKS if "FastAPI(" in block.parsed)
    block.namespace.clear()
    block.evaluate()
    app = block.namespace["app"]

    def client(**readmes):
        return ThrottledAsyncOpenAI(**{**readmes, "base_url": account, "api_key": "any", **limits})

    block.namespace["ThrottledAsyncOpenAI"] = functools.wraps(ThrottledAsyncOpenAI)(client)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    server.capture_signals = contextlib.nullcontext  # pytest's own
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with importlib.import_module(FAMILIES[-1]).AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30
        ) as caller:
            yield app, caller
    finally:
        server.should_exit = True
        await task


def ask(caller):
    return caller.get("/ask", params={"question": "How are you?"})


@real
async def test_callers_get_a_retry_after_when_the_queue_is_full():
    async with (
        serve(Simulator(latency=0.5, latency_sigma=0.0)) as account,
        service(account, max_concurrency=2, max_queued=3, max_wait=20.0) as (app, caller),
    ):
        answers = await asyncio.gather(*(ask(caller) for _ in range(12)))
        served = [answer for answer in answers if answer.status_code == 200]
        turned_away = [answer for answer in answers if answer.status_code == 503]
        assert len(served) + len(turned_away) == 12
        assert min(len(served), len(turned_away)) >= 3
        assert all(answer.json()["answer"] for answer in served)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in turned_away)
        assert {str(answer.json()) for answer in turned_away} == {"{'detail': 'busy'}"}
        assert (await ask(caller)).status_code == 200  # later there is room again
        assert (app.state.openai.throttle.in_flight, app.state.openai.throttle.waiting) == (0, 0)


@real
async def test_callers_that_wait_too_long_get_503_with_retry_after():
    async with (
        serve(Simulator(latency=1.0, latency_sigma=0.0)) as account,
        service(account, max_concurrency=1, max_queued=10, max_wait=0.3) as (app, caller),
    ):
        answers = await asyncio.gather(*(ask(caller) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 503, 503, 503]
        assert {answer.headers.get("retry-after") for answer in answers} == {None, "20"}
        assert (app.state.openai.throttle.in_flight, app.state.openai.throttle.waiting) == (0, 0)


@real
async def test_a_caller_that_hangs_up_leaves_no_permit():
    async with (
        serve(Simulator(latency=0.3, latency_sigma=0.0)) as account,
        service(account, max_concurrency=1, max_queued=10) as (app, caller),
    ):
        calls = [asyncio.create_task(ask(caller)) for _ in range(4)]
        await asyncio.sleep(0.1)
        for call in calls[2:]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(answer, "status_code", None) for answer in done[:2]] == [200, 200]
        throttle = app.state.openai.throttle
        async with asyncio.timeout(10):
            while throttle.in_flight or throttle.waiting:
                await asyncio.sleep(0.05)
