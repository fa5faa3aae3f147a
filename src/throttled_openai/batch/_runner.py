"""The runner: takes requests from a feed, sends them, passes results to a sink, and decides when to stop.

It keeps a bounded number of requests in memory: those that the throttle has admitted, and some that wait. Each is
handled by one worker, a task that takes a request, sends it and passes on its result.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import openai

from throttled_openai._numbers import literal
from throttled_openai._protocol.estimate import estimate
from throttled_openai._protocol.usage import Usage
from throttled_openai.errors import ClientClosed, RequestTooLarge

from ._request import BadLineError, Request
from ._result import BatchResult
from ._source import InputError
from ._verdict import StopRunError, Verdict, message_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from throttled_openai._clients.raw import Answer

    from ._calls import Calls
    from ._feed import Feed
    from ._order import Sink
    from ._prices import Prices
    from ._tally import Tally

logger = logging.getLogger("throttled_openai")

# Requests that wait for admission. In a file with several models, one model may fill these places while the limit of
# another is free. If the models alternate in the file, that costs nothing, as the slowest model determines the end.
MOST_WAITING: Final = 1000
# Bytes. While more than this is in memory, no further request is read.
MOST_BYTES: Final = 64 * 1024 * 1024
# Seconds between two checks whether more requests can be sent.
_LOOK: Final = 0.05
# Seconds between two samples of the tally.
_SAMPLE: Final = 1.0
# Characters of an answer that are kept if it is not JSON.
_LONGEST_TEXT: Final = 10_000


class Runner:
    """One run. `limit`: the most requests to send. `max_cost`: the most they may cost, by `prices`."""

    def __init__(
        self,
        calls: Calls,
        feed: Feed,
        sink: Sink,
        tally: Tally,
        *,
        limit: int | None = None,
        prices: Prices | None = None,
        max_cost: float | None = None,
        keep_going: bool = False,
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._calls = calls
        self._feed = feed
        self._sink = sink
        self._tally = tally
        self._left = limit
        self._prices = prices
        self._max_cost = max_cost
        self._room = room
        self._verdict = Verdict(keep_going=keep_going)
        self._workers: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Future[bool] | None = None
        self._read_all = False
        self._bytes = 0
        self._under_way = 0
        self._reserved = 0.0  # expected cost of the requests under way
        self._over: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self.stopped: str | None = None
        self.reached_limit = False
        self.draining = False

    @property
    def under_way(self) -> int:
        """Requests in memory: sent, or waiting for their turn."""
        return self._under_way

    async def run(self) -> None:
        """Run to the end of the feed, or until it is stopped. Raises what the feed or the sink raised."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self._calls.on_wait_end = self._fill
        looks = loop.create_task(self._look())
        try:
            self._spawn()
            await self._over
            self._tally.sample(self._calls.throttle.stats())
            if self._failure is not None:
                raise self._failure
            self._stop_for_held()
        finally:
            looks.cancel()
            self.draining = True  # workers that end are not replaced
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(looks, *self._workers, return_exceptions=True)

    def drain(self) -> None:
        """Take no more requests; those under way are finished."""
        if self.draining:
            return
        self.draining = True
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(False)
        self._end()

    def stop(self, why: str) -> None:
        """Take no more requests, and drop those that wait for admission; those in flight are finished."""
        self.stopped = self.stopped or why
        self.drain()
        self._calls.end_waits(self._workers)

    def abort(self, why: str) -> None:
        """Stop at once; requests in flight are cancelled."""
        self.stopped = self.stopped or why
        self.draining = True
        for worker in self._workers:
            worker.cancel()
        self._end()

    # Workers

    def _spawn(self) -> None:
        worker = asyncio.get_running_loop().create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and worker.exception() is not None:
            self._failure = self._failure or worker.exception()
            self.abort("it failed")
        self._end()

    def _end(self) -> None:
        """End the run if it is over. Having no workers is not enough, as the run may be waiting for room."""
        is_over = not self._workers and (self.draining or self._read_all)
        if is_over and self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _work(self) -> None:
        while not self.draining and self._room():
            item = self._feed.take()
            if item is None:
                if self._read_all or not await self._more():
                    return
                continue
            if isinstance(item, BatchResult):
                assert item.error is not None
                self._tally.failure(item.error["code"])
                self._sink(item, None)
                continue
            if not await self._send(item):
                return

    async def _more(self) -> bool:
        """Wait until the feed has read more. One worker asks the feed, and the others wait for it."""
        if self._reading is not None:
            return await asyncio.shield(self._reading)
        loop = asyncio.get_running_loop()
        self._reading = reading = loop.create_future()
        asking = asyncio.ensure_future(self._feed.more())
        try:
            await asyncio.wait({asking, reading}, return_when=asyncio.FIRST_COMPLETED)
            more = asking.done() and asking.result()
            if asking.done():
                self._read_all = not more
            return more
        except InputError as error:
            self._read_all, more = True, False
            self.stop(str(error))
            return False
        finally:
            asking.cancel()
            self._reading = None
            if not reading.done():
                reading.set_result(not self._read_all)

    async def _look(self) -> None:
        """Start workers when there is room, even if no request has just ended, and sample the tally."""
        loop = asyncio.get_running_loop()
        sampled = loop.time()
        while True:
            await asyncio.sleep(_LOOK)
            self._fill()
            if loop.time() - sampled >= _SAMPLE:
                sampled = loop.time()
                self._tally.sample(self._calls.throttle.stats())

    def _fill(self) -> None:
        if self._wants_more() and self._reading is None:
            self._spawn()

    def _wants_more(self) -> bool:
        """Whether one more request should be taken into memory."""
        if self.draining or self._read_all or (self._bytes > MOST_BYTES and self._under_way):
            return False
        if len(self._workers) - self._under_way > 0:  # a worker is about to take one
            return False
        return self._waiting() < MOST_WAITING and self._room()

    def _waiting(self) -> int:
        return self._calls.waiting or self._calls.throttle.waiting

    # One request

    async def _send(self, request: Request) -> bool:
        """Send one request. Returns whether the worker should take another."""
        expected = self._take(request)
        if expected is None:
            return False
        size = len(request.content)
        self._bytes += size
        self._under_way += 1
        self._reserved += expected
        self._fill()
        try:
            return await self._settle(request)
        except StopRunError as stop:
            self.stop(str(stop))
            return False
        finally:
            self._bytes -= size
            self._under_way -= 1
            self._reserved -= expected

    async def _settle(self, request: Request) -> bool:
        answer: Answer | None = None
        error: Exception | None = None
        try:
            answer = await self._calls.post(request.path, request.content, request.body)
        except ClientClosed:
            if self.stopped is None:
                self.stop("the client was closed")
            return False
        except StopRunError:
            raise
        except openai.OpenAIError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001  # an unexpected answer fails its own line only
            logger.debug("line %d failed with %s", request.line, type(failure).__name__)
            error = failure
        if answer is not None:
            self._count(request, answer)
        result, raw = result_of(request, answer, error)
        return self._judge(
            result, raw, None if result.ok else self._verdict.about(answer, error), answered=answer is not None
        )

    def _judge(self, result: BatchResult, raw: bytes | None, why: str | None, *, answered: bool) -> bool:
        """Pass on a result, or hold it back if every request may fail for the same reason, `why`.

        Returns whether the worker should take another request.
        """
        if why is not None:
            if self.stopped is not None:
                return False
            self._verdict.hold(result, why)
            return True
        for held in self._verdict.served() if answered else ():
            self._hand_over(held, None)
        self._hand_over(result, raw)
        return True

    def _hand_over(self, result: BatchResult, raw: bytes | None) -> None:
        if result.ok:
            self._tally.success()
        else:
            self._tally.failure(reason_of(result))
        self._sink(result, raw)

    def _stop_for_held(self) -> None:
        why = self._verdict.end()
        if why is not None and self.stopped is None:
            self.stopped = why

    # Cost, and the number of requests

    def _take(self, request: Request) -> float | None:
        """The expected cost of a request; None if it must not be sent."""
        if self._left is not None:
            if self._left <= 0:
                self.reached_limit = True
                self.drain()
                return None
            self._left -= 1
        if self._max_cost is None or self._prices is None:
            return 0.0
        price = self._prices.of(request.body["model"])
        if price is None:
            self.stop(f"max_cost needs the price of {request.body['model']}")
            return None
        asked = expected_usage(request, self._tally)
        expected = price.of(asked)
        if self._tally.cost + self._reserved + expected > self._max_cost:
            self.stopped = self.stopped or f"max_cost={literal(self._max_cost)} would be passed"
            self.drain()
            return None
        return expected

    def _count(self, request: Request, answer: Answer) -> None:
        self._tally.answered(answer.took, answer.waited, answer.usage)
        if answer.usage is not None and self._prices is not None:
            price = self._prices.of(request.body["model"])
            if price is None:
                self._tally.unpriced += 1
            else:
                self._tally.cost += price.of(answer.usage)


def expected_usage(request: Request, tally: Tally) -> Usage:
    """The tokens of a request: its estimated input, and the most output it allows, or the mean of earlier answers."""
    most = [request.body.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    output = next((each for each in most if isinstance(each, int)), None)
    if output is None:
        mean = tally.output_tokens // max(1, tally.ok) or 256
        output = 0 if request.path in {"/embeddings", "/moderations"} else mean
    return Usage(estimate(request.path, request.body).input, max(0, output))


def result_of(request: Request, answer: Answer | None, error: Exception | None) -> tuple[BatchResult, bytes | None]:
    """The result of a request, and the answer's body as JSON."""
    line, custom_id = request.line, request.custom_id
    if answer is None:
        assert error is not None
        return BatchResult(line, custom_id, error=_problem(error)), None
    request_id = answer.headers.get("x-request-id")
    if answer.data is None:
        body: Any = answer.content[:_LONGEST_TEXT].decode("utf-8", "replace")
        served = answer.status < 300
        problem = {"code": "invalid_answer", "message": "the answer is not JSON"} if served else None
        return BatchResult(line, custom_id, answer.status, request_id, body, problem), None
    return BatchResult(line, custom_id, answer.status, request_id, answer.data, _error_in(answer)), answer.content


def _error_in(answer: Answer) -> dict[str, Any] | None:
    """The error in an answer of status 200: a failed response, or a gateway's error without choices."""
    data = answer.data
    if answer.status >= 300 or not isinstance(data, dict):
        return None
    found = data.get("error")
    if not found or any(data.get(name) for name in ("choices", "data", "results")):
        return None
    code = found.get("code") if isinstance(found, dict) else None
    return {"code": str(code or "error")[:100], "message": "the answer is an error"}


def _problem(error: Exception) -> dict[str, Any]:
    if isinstance(error, openai.APITimeoutError):
        return {"code": "timeout", "message": message_of(error)}
    if isinstance(error, RequestTooLarge):
        return {"code": "request_too_large", "message": message_of(error)}
    if isinstance(error, openai.APIConnectionError):
        return {"code": "connection_error", "message": message_of(error)}
    if isinstance(error, BadLineError | openai.OpenAIError):
        return {"code": "not_sent", "message": message_of(error)}
    return {"code": "unexpected", "message": type(error).__name__}


def reason_of(result: BatchResult) -> str:
    """Why a result failed: a code, or the status."""
    if result.error is not None:
        return str(result.error["code"])
    body = result.body if isinstance(result.body, dict) else {}
    found = body.get("error")
    code = found.get("code") or found.get("type") if isinstance(found, dict) else None
    return f"status {result.status_code}" + (f" {code}"[:60] if isinstance(code, str) else "")
