"""A job: what a rival is given, and what is remembered of how its calls ended.

Imported in the rivals' environments: nothing but the standard library and the SDK here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .scenario import Call

_Client = TypeVar("_Client")


@dataclass
class Ended:
    """How one call ended. Instants are the loop's; `error`: the exception's class."""

    call: Call
    asked: float
    at: float
    error: str | None = None


@dataclass
class Job:
    """Some calls, an account, and what is known of its limits (None: nothing is).

    `transport`: to the simulator in this process; None: `base_url` is a real server. `began`: when,
    on the loop's clock. `gauge`: set by a rival that knows how many calls it would have in flight.
    """

    base_url: str
    transport: Callable[[str], Any] | None
    calls: list[Call]
    began: float
    rpm: float | None = None
    tpm: float | None = None
    ended: list[Ended] = field(default_factory=list)
    gauge: Callable[[], float | None] = lambda: None

    @property
    def model(self) -> str:
        model: str = self.calls[0].arguments["model"]
        return model

    def client(self, kind: Callable[..., _Client], **options: Any) -> _Client:
        """A client of the SDK, or of a class built on it, with everything but its settings."""
        if self.transport is not None:
            options["http_client"] = self.http_client()
        return kind(api_key="none", base_url=self.base_url, **options)

    def http_client(self, **options: Any) -> Any:
        """What the SDK would make for itself."""
        from openai import DefaultAsyncHttpxClient  # noqa: PLC0415

        if self.transport is not None:
            modules = {each.__module__.partition(".")[0] for each in DefaultAsyncHttpxClient.__mro__}
            options["transport"] = self.transport("httpx2" if "httpx2" in modules else "httpx")
        return DefaultAsyncHttpxClient(**options)

    async def each(self, send: Callable[[Call], Awaitable[object]]) -> None:
        """Make every call in its time, with a task for each."""
        await asyncio.gather(*(self._one(call, send) for call in self.calls))

    async def start(self, call: Call) -> None:
        """Wait until it is time for `call`."""
        loop = asyncio.get_running_loop()
        if call.at:
            await asyncio.sleep(self.began + call.at - loop.time())

    def end(self, call: Call, error: str | None = None) -> None:
        self.ended.append(Ended(call, self.began + call.at, asyncio.get_running_loop().time(), error))

    async def _one(self, call: Call, send: Callable[[Call], Awaitable[object]]) -> None:
        await self.start(call)
        try:
            await send(call)
        except Exception as error:  # noqa: BLE001  # counted and shown
            self.end(call, type(error).__name__)
        else:
            self.end(call)


async def ask(client: Any, call: Call) -> None:
    """Make a call with a client of the SDK, and read all of the answer."""
    if "input" in call.arguments:
        await client.embeddings.create(**call.arguments)
        return
    answer = await client.chat.completions.create(**call.arguments)
    if call.arguments.get("stream"):
        async for _ in answer:
            pass
