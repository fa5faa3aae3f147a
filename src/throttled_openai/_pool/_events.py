"""Events: what httpcore tells the `trace` of a request about its exchange, name by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ._wire import MalformedRequest, MalformedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Events:
    """Tells the listener of `request`, if it has one. `core` is the module httpcore or httpcore2."""

    def __init__(self, core: Any, request: Any) -> None:
        self._core = core
        self.request = request
        self.listener = request.extensions.get("trace")

    def around(
        self,
        name: str,
        work: Coroutine[Any, Any, T],
        info: dict[str, Any] | None = None,
        *,
        result: Callable[[T], Any] = lambda _: None,
    ) -> Coroutine[Any, Any, T]:
        """`work`, with events before and after it. `result` is what they show of its result."""
        if self.listener is None:
            return work
        return self._around(name, work, {"request": self.request} if info is None else info, result)

    async def tell(self, name: str, info: dict[str, Any]) -> None:
        await self.listener(name, info)

    async def _around(
        self, name: str, work: Coroutine[Any, Any, T], info: dict[str, Any], result: Callable[[T], Any]
    ) -> T:
        try:
            await self.tell(f"{name}.started", info)
            try:
                done = await work
            except BaseException as failure:
                named = named_by_httpcore(self._core, failure)
                await self.tell(f"{name}.failed", {"exception": named})
                if named is failure:
                    raise
                raise named from failure
            await self.tell(f"{name}.complete", {"return_value": result(done)})
            return done
        finally:
            work.close()  # where the listener itself has failed


def named_by_httpcore(core: Any, failure: BaseException) -> BaseException:
    """`failure` itself, or httpcore's error for what the wire found malformed."""
    if isinstance(failure, MalformedRequest):
        return core.LocalProtocolError(str(failure))  # type: ignore[no-any-return]
    if isinstance(failure, MalformedResponse):
        return core.RemoteProtocolError(str(failure))  # type: ignore[no-any-return]
    return failure
