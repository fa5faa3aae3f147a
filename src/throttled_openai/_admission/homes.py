"""The event loops that calls come from, and which of them have ended."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import stall
from .home import post

if TYPE_CHECKING:
    import weakref

    from .home import Home


class Homes:
    """Event loops of calls, until they are known to be closed or no longer to answer."""

    def __init__(self) -> None:
        self.known: set[weakref.ref[Home]] = set()
        self._silent: set[weakref.ref[Home]] = set()  # those that have not answered the last call
        self._called_at = -math.inf

    def reset_clock(self) -> None:
        self._called_at = -math.inf

    def closed(self) -> set[weakref.ref[Home]]:
        return {ref for ref in self.known if _is_closed(ref())}

    def unanswered(self, now: float) -> set[weakref.ref[Home]] | None:
        """Those that are closed or have not answered since the last time; all others are called again.

        None if they have been called only just now.
        """
        if now - self._called_at < stall.STALL_TIMEOUT:
            return None
        self._called_at = now
        return self.closed() | self._silent

    def call(self) -> None:
        """Ask each event loop to show that it still runs."""
        self._silent = set(self.known)
        for ref in self.known:
            loop = ref()
            if loop is not None:
                post(loop, self._silent.discard, ref)


def _is_closed(loop: Home | None) -> bool:
    return loop is None or loop.is_closed()
