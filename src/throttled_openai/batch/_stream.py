"""The stream: `run_batch`, which yields the results of requests from Python as they arrive, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import openai

from throttled_openai._clients.base import AsyncThrottledMixin
from throttled_openai._clients.raw import RawCalls
from throttled_openai._clients.wrap import wrap

from ._feed import Feed, IterableFeed
from ._order import MOST_HELD, InOrder
from ._runner import Runner
from ._tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping

    from openai import AsyncOpenAI

    from ._result import BatchResult


class BatchStoppedError(openai.OpenAIError):
    """Every request would fail for the same reason, given in the message, so the remaining ones were not sent."""


async def run_batch(
    client: AsyncOpenAI,
    requests: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
    *,
    order: Literal["completion", "input"] = "completion",
    max_retries: int | None = None,
    keep_going: bool = False,
) -> AsyncIterator[BatchResult]:
    """Send many requests through `client` as fast as its limits allow, and yield each result as it arrives.

    A request is a mapping: a line of OpenAI's batch format (`custom_id`, `method`, `url`, `body`), or a request body
    alone, whose endpoint is found from its fields. `requests` may be endless: they are read only as there is room for
    them, and no faster than the results are consumed. A failed request gives a result too, with `ok` false.
    `order`: whether results come as they complete or in the order of `requests`. `max_retries`: by default the
    client's.

    Leaving the loop cancels the requests under way. Raises `BatchStoppedError` after failures that every request would
    meet, such as a wrong key; with `keep_going` they are results like all others.
    """
    throttled = client if isinstance(client, AsyncThrottledMixin) else wrap(client)
    ready: deque[BatchResult] = deque()
    came = asyncio.Event()

    def sink(result: BatchResult, raw: bytes | None) -> None:
        del raw
        ready.append(result)
        came.set()

    feed: Feed = IterableFeed(requests)
    in_order = InOrder(feed, sink) if order == "input" else None
    runner = Runner(
        RawCalls(throttled, retries=max_retries),
        feed if in_order is None else in_order,
        sink if in_order is None else in_order.sink,
        Tally(),
        keep_going=keep_going,
        room=lambda: len(ready) < MOST_HELD and (in_order is None or in_order.has_room()),
    )
    running = asyncio.ensure_future(runner.run())
    running.add_done_callback(lambda _: came.set())
    try:
        while not running.done() or ready:
            await came.wait()
            came.clear()
            while ready:
                yield ready.popleft()
        if in_order is not None:
            in_order.close()
            while ready:
                yield ready.popleft()
        running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    if runner.stopped is not None:
        raise BatchStoppedError(f"{runner.stopped}; the requests that follow were not sent")
