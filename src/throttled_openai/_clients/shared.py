"""Shared throttles: all clients of an account in this process have one, unless their limits differ."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._admission.throttle import Throttle, dispatcher_of, with_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from throttled_openai._protocol.account import Account
    from throttled_openai._stats import Stats

logger = logging.getLogger("throttled_openai")

# Seconds for which an installation keeps a throttle for the next client: programs make one for each call.
KEPT: Final = 3600.0
# Seconds between two searches for throttles kept long enough.
SWEEP: Final = 60.0
# Accounts whose throttles one client keeps, if its requests are for many accounts.
MOST_MET: Final = 64


class Registry:
    """The throttle of each account and set of limits, as long as one of its clients is open.

    A throttle whose event loop is closed is not given to further clients.
    """

    def __init__(self) -> None:
        self._adding = threading.RLock()  # reentrant: a finalizer may need it too
        self._found: dict[Account, weakref.WeakValueDictionary[object, Throttle]] = {}
        self._clients: weakref.WeakKeyDictionary[Throttle, weakref.WeakSet[Throttles]] = weakref.WeakKeyDictionary()
        self._kept: dict[Throttle, float] = {}
        self._sweeps_at = 0.0

    def find(self, account: Account, client: Throttles, mine: Throttle | None) -> Throttle:
        """The throttle for `account` with the limits of `client`; if none exists, `mine` or a new one."""
        key = _comparable(client.limits)
        with self._adding:
            now = time.monotonic()
            self._sweep(now)
            throttles = self._found.setdefault(account, weakref.WeakValueDictionary())
            found = throttles.get(key)
            is_first = found is not None or all(other == key for other in throttles)
            if found is None or (dispatcher_of(found).outlived and found is not mine):
                found = throttles[key] = client.make() if mine is None else mine
            self._clients.setdefault(found, weakref.WeakSet()).add(client)
            if client.keeps:
                self._kept[found] = now + KEPT
        if not is_first:
            logger.info(
                "%s: a client has other limits than one of the same account before it, so its budgets are its own; "
                "give both one throttle=Throttle(...) to share them",
                account.host,
            )
        return found

    def leave(self, account: Account, throttle: Throttle, client: Throttles) -> None:
        """A client is closed. After the last one, the next client gets a new throttle."""
        with self._adding:
            clients = self._clients.get(throttle, weakref.WeakSet())
            clients.discard(client)
            if not clients and throttle not in self._kept:
                throttles = self._found.get(account, weakref.WeakValueDictionary())
                for key in [key for key, each in throttles.items() if each is throttle]:
                    del throttles[key]

    def stats(self) -> list[tuple[Account, Stats]]:
        """The figures of each account."""
        with self._adding:
            found = [(account, list(throttles.values())) for account, throttles in self._found.items()]
        return [(account, throttle.stats()) for account, throttles in found for throttle in throttles]

    def forget(self) -> None:
        """Clients made from now on get new throttles."""
        self.__init__()  # type: ignore[misc]  # also the lock: another thread may have had it at the fork

    def _sweep(self, now: float) -> None:
        if now >= self._sweeps_at:
            self._sweeps_at = now + SWEEP
            self._kept = {
                each: until for each, until in self._kept.items() if now < until and not dispatcher_of(each).outlived
            }
            self._found = {account: throttles for account, throttles in self._found.items() if throttles}


shared: Final = Registry()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared.forget)


class Throttles:
    """The throttles of a client and its copies: the one they were given, or those their accounts share.

    `latest`: the one used last.
    """

    def __init__(self, given: Throttle | None, limits: dict[str, Any], *, threads: bool) -> None:
        self.given = given
        self.limits = limits
        self.threads = threads
        self.keeps = False  # with install(): kept for the next client when this one is closed
        # Made at once, so that invalid limits raise here; the first account may turn out to have one already.
        self.latest = self.make() if given is None else given
        self._unused = self.latest if given is None else None
        self._met: dict[Account, Throttle] = {}
        self._first: Account | None = None

    def make(self) -> Throttle:
        return Throttle(**self.limits, threads=self.threads)

    def of_client(self, account: Account) -> Throttle:
        """The throttle of the client's account, also for a copy with another account, which has its own budgets there.

        With install(), each account has a throttle of its own.
        """
        if self.keeps:
            return self.of(account)
        self._first = self._first or account
        if self._unused is not None or dispatcher_of(self.latest).outlived:
            return self.of(self._first)
        return self.latest

    def of(self, account: Account) -> Throttle:
        """The throttle of `account`."""
        if self.given is not None:
            return self.given
        throttle = self._met.get(account)
        if throttle is None or dispatcher_of(throttle).outlived:
            throttle = self._find(account, throttle)
        self.latest = throttle
        return throttle

    def _find(self, account: Account, mine: Throttle | None) -> Throttle:
        if mine is None:
            mine, self._unused = self._unused, None
        throttle = shared.find(account, self, mine)
        while len(self._met) >= MOST_MET:
            self._met.pop(next(iter(self._met)))
        self._met[account] = throttle
        return throttle

    def leave(self) -> None:
        """The client is closed."""
        for account, throttle in self._met.items():
            shared.leave(account, throttle, self)

    def changed(self, limits: Mapping[str, Any]) -> dict[str, Any]:
        """Options for a copy of the client with these limits changed."""
        if not limits:
            return {"throttle": self}
        return with_changes(self.limits, limits) if self.given is None else {"throttle": self.given.changed(**limits)}


def _comparable(limits: Mapping[str, Any]) -> object:
    """A key, equal for equal limits; in a mapping the same models must share one `Limits` object."""
    written = limits.get("limits")
    rest = frozenset((name, value) for name, value in limits.items() if name != "limits")
    if not isinstance(written, Mapping):
        return rest, written
    return rest, frozenset((name, each, _first(name, written.items())) for name, each in written.items())


def _first(name: str, items: Iterable[tuple[str, Any]]) -> str:
    """The first name that has the same `Limits` object."""
    named = dict(items)
    return next(other for other, each in named.items() if each is named[name])
