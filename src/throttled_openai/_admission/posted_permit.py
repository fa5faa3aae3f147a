"""Permits held by a thread other than the deciding one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .home import post
from .permit import Permit

if TYPE_CHECKING:
    import asyncio

    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.refusals import Refusal
    from throttled_openai._protocol.usage import Usage

    from .call import Outcome
    from .permit import Attempt, PermitOwner


class _PostedOwner:
    """A `PermitOwner` that passes everything on to `owner` on the event loop where it decides."""

    __slots__ = ("_loop", "_owner")

    def __init__(self, owner: PermitOwner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop

    def started(self, attempt: Attempt) -> None:
        post(self._loop, self._owner.started, attempt)

    def observe(self, attempt: Attempt, announcement: Announcement) -> None:
        post(self._loop, self._owner.observe, attempt, announcement)

    def settle(self, attempt: Attempt, outcome: Outcome, refusal: Refusal | None, response: Any) -> None:
        post(self._loop, self._owner.settle, attempt, outcome, refusal, response)

    def used(self, attempt: Attempt, usage: Usage) -> None:
        post(self._loop, self._owner.used, attempt, usage)


class PostedPermit(Permit):
    """A permit whose owner decides on `loop`, which another thread runs.

    It is settled even when it is dropped: an exception such as KeyboardInterrupt may come between any
    two instructions.
    """

    __slots__ = ("loop",)

    def __init__(self, permit: Permit, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(_PostedOwner(permit.owner, loop), permit.attempt)
        self.loop = loop

    def __del__(self) -> None:
        if self.open and not self.streaming:  # an open stream settles it
            self.release()
