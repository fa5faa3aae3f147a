"""A job: the calls that a rival has to make, and how each of them ended.

Imported in the rivals' environments, so it imports only the standard library and the SDK.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .scenario import PlannedCall

_Client = TypeVar("_Client")


@dataclass
class EndedCall:
    """How one call ended. Instants are on the loop's clock; `error`: the class of the exception."""

    call: PlannedCall
    asked: float
    at: float
    error: str | None = None


@dataclass
class Job:
    """Some calls, an account, and its limits as configured (None: not known).

    `transport`: to the simulator in this process; None: `base_url` is a real server. `began`: an instant
    on the loop's clock. `gauge`: set by a rival that limits its calls in flight; gives that limit.
    """

    base_url: str
    transport: Callable[[str], Any] | None
    calls: list[PlannedCall]
    began: float
    rpm: float | None = None
    tpm: float | None = None
    ended: list[EndedCall] = field(default_factory=list)
    gauge: Callable[[], float | None] = lambda: None

    @property
    def model(self) -> str:
        model: str = self.calls[0].arguments["model"]
        return model

    def client(self, kind: Callable[..., _Client], **options: Any) -> _Client:
        """A client of the SDK, or of a subclass, connected to the server; `options` are the rival's settings."""
        if self.transport is not None:
            options["http_client"] = self.http_client()
        return kind(api_key="none", base_url=self.base_url, **options)

    def http_client(self, **options: Any) -> Any:
        """The HTTP client that the SDK would create itself."""
        from openai import DefaultAsyncHttpxClient  # noqa: PLC0415

        if self.transport is not None:
            modules = {each.__module__.partition(".")[0] for each in DefaultAsyncHttpxClient.__mro__}
            options["transport"] = self.transport("httpx2" if "httpx2" in modules else "httpx")
        return DefaultAsyncHttpxClient(**options)

    async def each(self, send: Callable[[PlannedCall], Awaitable[object]]) -> None:
        """Make every call at its instant, each in a task of its own."""
        await asyncio.gather(*(self._one(call, send) for call in self.calls))

    async def start(self, call: PlannedCall) -> None:
        """Wait until it is time for `call`."""
        loop = asyncio.get_running_loop()
        if call.at:
            await asyncio.sleep(self.began + call.at - loop.time())

    def end(self, call: PlannedCall, error: str | None = None) -> None:
        self.ended.append(EndedCall(call, self.began + call.at, asyncio.get_running_loop().time(), error))

    async def _one(self, call: PlannedCall, send: Callable[[PlannedCall], Awaitable[object]]) -> None:
        await self.start(call)
        try:
            await send(call)
        except Exception as error:  # noqa: BLE001  # counted and shown
            self.end(call, type(error).__name__)
        else:
            self.end(call)


async def ask(client: Any, call: PlannedCall) -> None:
    """Make a call with a client of the SDK, and read all of the answer."""
    if "input" in call.arguments:
        await client.embeddings.create(**call.arguments)
        return
    answer = await client.chat.completions.create(**call.arguments)
    if call.arguments.get("stream"):
        async for _ in answer:
            pass
