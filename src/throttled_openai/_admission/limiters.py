"""The limiters of one throttle, by account, endpoint and model."""

from __future__ import annotations

import logging
import math
import operator
from typing import TYPE_CHECKING, Final

from throttled_openai._protocol.account import NO_ACCOUNT
from throttled_openai._stats import sum_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from throttled_openai._limits import Limits, LimitsBook
    from throttled_openai._protocol.account import Account
    from throttled_openai._stats import BudgetStats

    from .limiter import Limiter

    Make = Callable[[str, "Limits | None", Account], Limiter]

logger = logging.getLogger("throttled_openai")

# Limiters that are kept: a service may pass on its users' model names. Beyond it idle ones go, longest unused first.
MOST_LIMITERS: Final = 2000


class Limiters:
    """The limiter of each account and model; models that share their limits have one."""

    def __init__(self, book: LimitsBook, make: Make) -> None:
        self._book = book
        self._make = make
        self.by_key: dict[object, Limiter] = {}  # replaced, never changed: other threads may be reading it
        self.by_model: dict[object, Limiter] = {}  # by account, endpoint and model
        self._first_account: Account | None = None  # of the first call
        # By server: the first account there, and the first owner that a request there named.
        self._firsts: dict[object, tuple[Account, tuple[object, ...]]] = {}
        self._dismissed: BudgetStats | None = None  # what dismissed limiters have done

    def __len__(self) -> int:
        return len(self.by_key)

    def __iter__(self) -> Iterator[Limiter]:
        return iter(self.by_key.values())

    def find(self, model: str, endpoint: str = "", account: Account | None = None) -> Limiter:
        """The limiter of that model; without an account, of the first one that called."""
        if account is None:
            account = self._first_account or NO_ACCOUNT
        whose = account, endpoint, model
        limiter = self.by_model.get(whose)
        if limiter is None:
            account = self.known_as(account)
            key, name, limits = self._book.find(model, endpoint)
            limiter = self.by_key.get((account, key))
            if limiter is None:
                limiter = self._add(account, key, name, limits)
            if len(self.by_model) >= 4 * MOST_LIMITERS:
                self.by_model.clear()
            self.by_model[whose] = limiter
        return limiter

    def known_as(self, account: Account) -> Account:
        """The account under which limiters are kept: requests without credentials count as the first owner's there."""
        server = account[:3]
        first, owner = self._firsts.setdefault(server, (account, account.owner))
        if account.owner and not owner:
            owner = account.owner
            self._firsts[server] = first, owner
        return first if not account.owner or account.owner == owner else account

    def share(self, limiter: Limiter, group: str) -> None:
        """The server said that the model of `limiter` draws on the limits of `group`: they have one budget now."""
        key, name, limits = self._book.find(group)
        if name == limiter.name or not self._book.is_each(limiter.name):
            return
        other = self.by_key.get((limiter.account, key))
        if other is None:
            other = self._add(limiter.account, key, name, limits)
            other.draw_on(limiter.budget)
        if other.budget is not limiter.budget:
            limiter.draw_on(other.budget)
            logger.info("%s: draws on the limits of %s", limiter.name, name)

    def stats(self, now: float) -> list[BudgetStats]:
        """Figures of each limiter, and of the dismissed ones together."""
        return [*(limiter.stats(now) for limiter in list(self)), *self._dismissed_stats()]

    def _add(self, account: Account, key: object, name: str, limits: Limits | None) -> Limiter:
        if len(self.by_key) >= MOST_LIMITERS:
            self._dismiss_idle()
        self._first_account = self._first_account or account
        limiter = self._make(name, limits, account)
        self.by_key = {**self.by_key, (account, key): limiter}
        return limiter

    def _dismiss_idle(self) -> None:
        """Drop up to a quarter of the limiters: idle ones, longest unused first. Their counts are kept."""
        idle = sorted((limiter for limiter in self if limiter.is_idle), key=operator.attrgetter("used_at"))
        going = set(idle[: MOST_LIMITERS // 4])
        self._dismissed = sum_of([*self._dismissed_stats(), *(each.stats(math.inf) for each in going)], "other models")
        self.by_key = {key: each for key, each in self.by_key.items() if each not in going}
        self.by_model = {whose: each for whose, each in self.by_model.items() if each not in going}

    def _dismissed_stats(self) -> list[BudgetStats]:
        return [] if self._dismissed is None else [self._dismissed]
