"""Changes of one limiter's limits, pause and breaker: one INFO line each, and one event."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, Literal

from throttled_openai._protocol.durations import MINUTE
from throttled_openai._seeing.events import BreakerChanged, LimitChanged, Paused

from .notices import say

if TYPE_CHECKING:
    from throttled_openai._control.budget import Budget
    from throttled_openai._protocol.headers import Dimension
    from throttled_openai._seeing.events import Event, Subscribers

    from .gate import Gate

    _State = tuple[Literal["suspected", "open", "closed"], Literal["billing", "wait", "silence"]]

logger = logging.getLogger("throttled_openai")  # asked for its level only; `notices.say` logs

# Share by which a learnt rate, or the concurrency limit, changes before that is logged: both move with every answer.
WORTH_A_LINE: Final = 0.1


class Changes:
    """What was last said of a limiter's limits, pause and breaker."""

    __slots__ = ("_breaker", "_concurrency", "_logged", "_paused", "_rates", "_subscribers")

    def __init__(self, subscribers: Subscribers, budget: Budget, concurrency: int) -> None:
        self._subscribers = subscribers
        self._rates: dict[Dimension, float | None] = {name: pacer.rate for name, pacer in budget.pacers.items()}
        self._concurrency = self._logged = concurrency
        self._paused = -math.inf
        self._breaker: _State | None = None

    def look(self, gate: Gate, concurrency: int, now: float) -> None:
        """Say what has changed since the last look."""
        budget = gate.rates.budget
        for dimension, pacer in budget.pacers.items():
            before, after = self._rates[dimension], pacer.rate
            if before != after and (pacer.source != "learnt" or _differ(before, after)):
                self._rates[dimension] = after
                was, is_now = _per_minute(before), _per_minute(after)
                self._tell(LimitChanged(now, gate.name, dimension, MINUTE, was, is_now, pacer.source))
        if concurrency != self._concurrency:
            event = LimitChanged(now, gate.name, "concurrency", None, self._concurrency, concurrency, "learnt")
            self._concurrency = concurrency
            loud = concurrency < self._logged and _differ(self._logged, concurrency)
            self._logged = concurrency if loud else max(self._logged, concurrency)
            self._tell(event, logging.INFO if loud else logging.DEBUG)
        if budget.paused_until > max(now, self._paused):
            self._paused = budget.paused_until
            self._tell(Paused(now, gate.name, self._paused - now, "refusals"))
        self._look_at_breaker(gate, now)

    def paused(self, gate: Gate, now: float, seconds: float) -> None:
        """The user has paused the budget."""
        self._tell(Paused(now, gate.name, seconds, "user"))

    def _look_at_breaker(self, gate: Gate, now: float) -> None:
        breaker = gate.breaker
        state: _State | None = None
        if breaker.cause is not None:
            state = "open" if breaker.open else "suspected", breaker.cause
        elif gate.aside:
            state = "open", "silence"
        if state != self._breaker:
            before, self._breaker = self._breaker, state
            name, cause = state or ("closed", "silence" if before is None else before[1])
            self._tell(BreakerChanged(now, gate.name, name, cause), logging.DEBUG)  # the gate warns of it in words

    def _tell(self, event: Event, level: int = logging.INFO) -> None:
        if logger.isEnabledFor(level):
            say(level, "%s", event)
        if self._subscribers.callbacks:
            self._subscribers.tell(event)


def _per_minute(rate: float | None) -> float | None:
    return None if rate is None else rate * MINUTE


def _differ(one: float | None, other: float | None) -> bool:
    """Whether two limits differ enough for a line."""
    return one is None or other is None or abs(one - other) > WORTH_A_LINE * one
