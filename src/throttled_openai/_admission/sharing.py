"""Sharing: keeps the budget of one limiter in step with those of other processes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Protocol, cast, get_args

from throttled_openai._limits import BURST
from throttled_openai._shared.share import MOST_COSTS, Fallback, Note, Share, View

if TYPE_CHECKING:
    from collections.abc import Callable

    from throttled_openai._control.budget import Budget
    from throttled_openai._protocol.account import Account
    from throttled_openai._shared.share import Answer, Ask
    from throttled_openai._shared.store import Store

    from .queue import Queue


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """Where and how a throttle shares its budgets."""

    store: Store
    fallback: Fallback


def sharing_at(place: str | None, fallback: str | None) -> Callable[[], Shared] | None:
    """How a throttle shares its budgets, found anew in each process; None if it does not. Raises for a wrong place."""
    if fallback is not None and fallback not in get_args(Fallback):
        raise ValueError(f"shared_fallback must be 'open' or 'closed'; got {fallback!r}")
    if place is None:
        if fallback is not None:
            raise ValueError("shared_fallback is for shared budgets: give shared= too")
        return None
    from throttled_openai._shared.place import read_place  # noqa: PLC0415  # only where budgets are shared
    from throttled_openai._shared.store import stores  # noqa: PLC0415

    where, how = read_place(place), cast("Fallback", fallback or "open")
    return lambda: Shared(stores.at(where), how)


class Limited(Protocol):
    """The limiter whose budget is shared."""

    account: Account
    name: str
    budget: Budget
    queue: Queue
    in_flight: int

    @property
    def free(self) -> int:
        """How many more attempts may be in flight."""
        ...

    def learned(self) -> None:
        """The rate that the budget comes to has changed."""


class Sharing:
    """One limiter, as one of several processes that draw on the same limits."""

    def __init__(self, limiter: Limited, share: Share, key: str) -> None:
        self.key = key
        self.share = share
        self._limiter = limiter
        self._lessons = 0  # how many the others know of
        self._read = 0  # version of the lessons that this process goes by

    @classmethod
    def of(cls, limiter: Limited, shared: Shared) -> Sharing:
        """For a new limiter. All processes call its budget the same."""
        account, name = limiter.account, limiter.name
        label = f"{name} at {account.host}" if account.host else name
        return cls(limiter, Share(label, fallback=shared.fallback), account.digest(of=name))

    def ask(self, now: float) -> Ask | None:
        """What to ask of the others now, if anything."""
        limiter, share = self._limiter, self.share
        if share.asking or limiter.budget.share is not share:
            return None  # or it draws on another limiter's budget now
        return share.ask(self._view(now), self._costs(), now)

    def due_at(self, now: float) -> float:
        """The instant of the next step if nothing else happens."""
        limiter = self._limiter
        return self.share.due_at(now, waiting=limiter.queue.waiting, in_flight=limiter.in_flight)

    def _costs(self) -> list[float]:
        """Tokens of the calls at the head of the queue for which there is room, in about the order of the queue."""
        limiter = self._limiter
        most = min(MOST_COSTS, limiter.free)
        return [] if most <= 0 else [call.tokens for call in itertools.islice(limiter.queue.first(most), most)]

    def _view(self, now: float) -> View:
        limiter, known = self._limiter, self.share.notes
        taught = limiter.budget.lessons != self._lessons
        lessons = Note(known[0].version, limiter.budget.write_lessons(now) if taught else "")
        self._lessons = limiter.budget.lessons
        budget = limiter.budget
        burst = budget.limits.burst
        return View(
            rates=budget.told,
            burst=BURST if burst is None else burst,
            learnt=(budget.pacers["requests"].learner.rate or 0.0, budget.pacers["tokens"].learner.rate or 0.0),
            pause=max(0.0, budget.paused_until - now),
            waiting=limiter.queue.waiting,
            in_flight=limiter.in_flight,
            notes=(lessons, Note(known[1].version), Note(known[2].version)),
        )

    def answered(self, answer: Answer | None, now: float) -> None:
        share, budget = self.share, self._limiter.budget
        if answer is None:
            share.failed(now)
            return
        share.answered(answer, now)
        budget.hear_of_others(now)
        lessons = answer.notes[0]
        if lessons.text:
            budget.read_lessons(lessons.text, lessons.age, now)
            self._lessons = budget.lessons
            self._limiter.learned()
