"""Waits: calls that have not been admitted yet, and end when their client is closed."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._admission.home import post
from throttled_openai._admission.portal import portal
from throttled_openai._admission.throttle import dispatcher_of
from throttled_openai.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from throttled_openai._admission.call import Call
    from throttled_openai._admission.permit import Permit
    from throttled_openai._admission.posted_permit import PostedPermit
    from throttled_openai._admission.throttle import Throttle

    Waits = set["_Wait | Call"]

# By the HTTP client, which is what is closed, and which copies of a client share.
_waits: Final[weakref.WeakKeyDictionary[Any, Waits]] = weakref.WeakKeyDictionary()


def waits_of(http: Any) -> Waits:
    """The calls that wait to be sent through `http`."""
    return _waits.setdefault(http, set())


class _Wait:
    """A task that waits."""

    __slots__ = ("ended", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.ended = False


async def wait(waits: Waits, admission: Awaitable[Permit]) -> Permit:
    """What `admission` gives. Raises `ClientClosed` if the client is closed before."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop of asyncio's
        task = None
    if task is None:
        return await admission
    this = _Wait(task)
    waits.add(this)
    try:
        return await admission
    except asyncio.CancelledError:
        if not this.ended or task.uncancel() > 0:  # somebody else cancels it
            raise
        raise ClientClosed from None
    finally:
        waits.discard(this)


def wait_blocking(waits: Waits, throttle: Throttle, call: Call) -> PostedPermit:
    """As `wait`, for a thread."""
    waits.add(call)
    try:
        return dispatcher_of(throttle).admit_blocking(call)
    except asyncio.CancelledError:
        if not call.withdrawn:
            raise
        raise ClientClosed from None
    finally:
        waits.discard(call)


def end_waits(waits: Waits) -> None:
    """The client is about to be closed, in whatever thread."""
    for each in list(waits):
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
