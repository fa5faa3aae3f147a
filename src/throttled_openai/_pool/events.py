"""Events: httpcore's reports of an exchange, to the `trace` extension of a request and to httpcore's loggers."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from .wire import MalformedRequest, MalformedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Events:
    """Reports to the listener of `request`, if it has one, and to the loggers of `core`, httpcore or httpcore2."""

    def __init__(self, core: Any, request: Any = None) -> None:
        self._core = core
        self.request = request
        self._listener = None if request is None else request.extensions.get("trace")
        self.wanted = self._listener is not None or any(
            logger.isEnabledFor(logging.DEBUG) for logger in _loggers(core.__name__).values()
        )

    def around(
        self,
        name: str,
        work: Coroutine[Any, Any, T],
        info: dict[str, Any] | None = None,
        *,
        result: Callable[[T], Any] = lambda _: None,
    ) -> Coroutine[Any, Any, T]:
        """`work`, with events before and after it. `result` turns its result into what the events show."""
        if not self.wanted:
            return work
        return self._around(name, work, {"request": self.request} if info is None else info, result)

    async def emit(self, name: str, info: dict[str, Any]) -> None:
        if self._listener is not None:
            await self._listener(name, info)
        area, _, name = name.partition(".")
        logger = _loggers(self._core.__name__)[area]
        if logger.isEnabledFor(logging.DEBUG):
            shown = [] if info.get("return_value", info) is None else [f"{key}={info[key]!r}" for key in info]
            logger.debug("%s", " ".join([name, *shown]))

    async def _around(
        self, name: str, work: Coroutine[Any, Any, T], info: dict[str, Any], result: Callable[[T], Any]
    ) -> T:
        try:
            await self.emit(f"{name}.started", info)
            try:
                done = await work
            except BaseException as failure:
                named = named_by_httpcore(self._core, failure)
                await self.emit(f"{name}.failed", {"exception": named})
                if named is failure:
                    raise
                raise named from failure
            await self.emit(f"{name}.complete", {"return_value": result(done)})
            return done
        finally:
            work.close()  # never awaited if the listener itself failed


def named_by_httpcore(core: Any, failure: BaseException) -> BaseException:
    """`failure` itself, or httpcore's error for a malformed message."""
    if isinstance(failure, MalformedRequest):
        return core.LocalProtocolError(str(failure))  # type: ignore[no-any-return]
    if isinstance(failure, MalformedResponse):
        return core.RemoteProtocolError(str(failure))  # type: ignore[no-any-return]
    return failure


@functools.cache
def _loggers(core: str) -> dict[str, logging.Logger]:
    return {area: logging.getLogger(f"{core}.{area}") for area in ("connection", "http11")}
