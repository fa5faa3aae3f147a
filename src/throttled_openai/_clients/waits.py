"""Waits: calls not admitted yet, which end when their client is closed."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeVar

from throttled_openai._admission.home import post
from throttled_openai._admission.portal import portal
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Container

    from throttled_openai._admission.call import Call
    from throttled_openai._admission.posted_permit import PostedPermit
    from throttled_openai._admission.throttle import Throttle

    Waits = set["_Wait | Call"]

T = TypeVar("T")

# By HTTP client: that is what a close closes, and what copies of a client share.
_waits: Final[weakref.WeakKeyDictionary[Any, Waits]] = weakref.WeakKeyDictionary()


def waits_of(http: Any) -> Waits:
    """The calls that wait to be sent through `http`."""
    return _waits.setdefault(http, set())


class _Wait:
    """A waiting task."""

    __slots__ = ("ended", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.ended = False


async def wait(waits: Waits, admission: Awaitable[T]) -> T:
    """The result of `admission`, or of another wait of a call. Raises `ClientClosed` if the client is closed first."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # not an asyncio event loop
        task = None
    if task is None:
        return await admission
    this = _Wait(task)
    waits.add(this)
    try:
        return await admission
    except asyncio.CancelledError:
        if not this.ended or task.uncancel() > 0:  # cancelled by other code
            raise
        raise ClientClosed from None
    finally:
        waits.discard(this)


def wait_blocking(waits: Waits, throttle: Throttle, call: Call) -> PostedPermit:
    """As `wait`, for a blocking call."""
    waits.add(call)
    try:
        return dispatcher_of(throttle).admit_blocking(call)
    except asyncio.CancelledError:
        if not call.withdrawn:
            raise
        raise ClientClosed from None
    finally:
        waits.discard(call)


def end_waits(waits: Waits, tasks: Container[asyncio.Task[Any]] | None = None) -> None:
    """End all waits, as the client is about to be closed, or only those of `tasks`; may run in any thread."""
    for each in list(waits):
        if tasks is not None and not (isinstance(each, _Wait) and each.task in tasks):
            continue
        if isinstance(each, _Wait):
            loop = each.task.get_loop()
            if loop is asyncio._get_running_loop():  # noqa: SLF001  # None in a thread without one
                _end(waits, each)
            else:
                post(loop, _end, waits, each)
        else:
            each.withdrawn = True
            post(portal.loop, _withdraw, each)


def _end(waits: Waits, this: _Wait) -> None:
    if this in waits and not this.ended:
        this.ended = True
        this.task.cancel()


def _withdraw(call: Call) -> None:
    if call.admission is not None:
        call.admission.cancel()
