"""The worker: a process that sends requests for the run, and reports their answers and the throttle's figures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import openai

from throttled_openai import errors
from throttled_openai._clients.raw import Answer, RawCalls, parsed

from ._channel import Channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from throttled_openai._protocol.usage import Usage
    from throttled_openai._stats import Stats

# Seconds between two reports of the throttle's figures.
REPORT_EVERY: Final = 0.05


class Ask(NamedTuple):
    """A message: send this request."""

    number: int
    path: str
    content: bytes


class Drop(NamedTuple):
    """A message: cancel this call."""

    number: int


class EndWaits(NamedTuple):
    """A message: calls that wait for admission must fail."""


class Answered(NamedTuple):
    """A message: the server's answer. `headers`: only those in `_HEADERS`."""

    number: int
    status: int
    headers: dict[str, str]
    content: bytes
    usage: Usage | None
    waited: float
    took: float

    def answer(self) -> Answer:
        return Answer(self.status, self.headers, self.content, parsed(self.content), self.usage, self.waited, self.took)


class Failed(NamedTuple):
    """A message: a call failed without an answer. `kind`: the class of the error; `cause`: the class of its cause."""

    number: int
    kind: str
    message: str
    code: str | None
    cause: str | None

    def error(self) -> Exception:
        """An error of the same class and with the same message, but without other attributes."""
        cls = getattr(errors, self.kind, None) or getattr(openai, self.kind, None)
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            return openai.OpenAIError(self.message)
        error: Any = cls.__new__(cls, self.message)
        error.args, error.code = (self.message,), self.code
        if self.cause is not None:
            error.__cause__ = type(self.cause, (Exception,), {})()
        made: Exception = error
        return made


class Report(NamedTuple):
    """A message: the figures of the worker's throttle."""

    stats: Stats


class Warned(NamedTuple):
    """A message: a warning of the worker's throttle."""

    message: str


# Headers of answers that results and verdicts need.
_HEADERS: Final = "x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "content-type"


def work(end: socket.socket, make_client: Callable[[], Any], retries: int, patience: float) -> None:
    """The main function of the process: serve the run until it closes the channel."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process of the run handles them
    gc.freeze()
    asyncio.run(_Worker(make_client(), retries, patience).serve(end))


class _Worker:
    def __init__(self, client: Any, retries: int, patience: float) -> None:
        self._client = client
        self._calls = RawCalls(client, retries=retries, patience=patience)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ended = asyncio.Event()
        self._channel = Channel(self._received, self._ended.set)

    async def serve(self, end: socket.socket) -> None:
        await self._channel.connect(end)
        logger = logging.getLogger("throttled_openai")
        logger.addHandler(handler := _Sending(self._channel))
        logger.propagate = False
        reporting = asyncio.create_task(self._report())
        try:
            await self._ended.wait()
        finally:
            logger.removeHandler(handler)
            reporting.cancel()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(reporting, *self._tasks.values(), return_exceptions=True)
            await self._client.close()

    def _received(self, message: Any) -> None:
        if isinstance(message, Ask):
            task = asyncio.get_running_loop().create_task(self._serve(message))
            self._tasks[message.number] = task
        elif isinstance(message, Drop):
            if message.number in self._tasks:
                self._tasks[message.number].cancel()
        else:
            self._calls.end_waits(set(self._tasks.values()))

    async def _serve(self, asked: Ask) -> None:
        try:
            reply = await self._answer_to(asked)
        finally:
            self._tasks.pop(asked.number, None)
        self._channel.send(reply)

    async def _answer_to(self, asked: Ask) -> Answered | Failed:
        try:
            answer = await self._calls.post(asked.path, asked.content, json.loads(asked.content))
        except Exception as error:  # noqa: BLE001  # an unexpected answer fails its own line only
            code, cause = getattr(error, "code", None), error.__cause__
            return Failed(
                *(asked.number, type(error).__name__, str(error), code if isinstance(code, str) else None),
                None if cause is None else type(cause).__name__,
            )
        headers = {name: value for name in _HEADERS if (value := answer.headers.get(name)) is not None}
        return Answered(
            *(asked.number, answer.status, headers, answer.content, answer.usage, answer.waited, answer.took)
        )

    async def _report(self) -> None:
        before = None
        while True:
            stats = self._calls.throttle.stats()
            if stats != before:
                self._channel.send(Report(stats))
                before = stats
            await asyncio.sleep(REPORT_EVERY)


class _Sending(logging.Handler):
    """Sends warnings to the run, which shows them beside its progress."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(RuntimeError):  # another thread's
            self._channel.send(Warned(record.getMessage()))
