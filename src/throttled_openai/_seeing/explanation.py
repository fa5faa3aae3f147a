"""Explanations: why calls wait, and until when, worked out from the statistics alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from throttled_openai._limits import GROWTH, WHOLE_BURST
from throttled_openai._numbers import number
from throttled_openai._stats import spell

if TYPE_CHECKING:
    from throttled_openai._stats import BudgetStats, WindowStats

Binding = Literal["requests", "tokens", "concurrency", "pause", "nothing"]

# Seconds below which a limit does not count as the reason to wait.
AT_ONCE: Final = 1e-3
# Seconds below which a wait is not shown.
SHOWN: Final = 0.05
# Share of a limit from which on it is the reason by itself; below, calls wait because they are spread over the minute.
NEARLY: Final = 0.9
_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wait:
    """The wait of the calls of one budget, or of one of them.

    `place`: 1 goes next; None: of the whole queue. `binds`: the limit that holds calls back most, and `why` in words.
    `goes_in`: seconds until that call, or the next one, is sent; `done_in`: until the last of all that wait is
    answered. Both are estimates by the limits of this moment. Infinite: until you end a pause; None: not known.
    """

    budget: str
    waiting: int
    place: int | None
    binds: Binding
    why: str
    goes_in: float | None
    done_in: float | None

    def __str__(self) -> str:
        if not self.waiting:
            return f"{self.budget}: {self.why}"
        if self.place is None:
            parts = [f"{self.budget}: {self.waiting:,} waiting", self.why, f"the next goes {_in(self.goes_in)}"]
        else:
            parts = [f"{self.budget}: {_ordinal(self.place)} in line", self.why, f"goes {_in(self.goes_in)}"]
        return "; ".join([*parts, f"all {self.waiting:,} done {_in(self.done_in)}"])


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """Why calls wait: one `Wait` for each budget in use, or that of the one call that was asked about."""

    waits: tuple[Wait, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.waits)) or "no call waits, and none is in flight"

    __repr__ = __str__  # so that a notebook shows it


def explain(budget: BudgetStats, next_tokens: float, place: int | None = None, tokens: float = 0.0) -> Wait:
    """The wait of `budget`.

    `next_tokens`: what the call at the head of the queue takes. `place`: of the call in question; `tokens`: what it
    and all ahead of it take.
    """
    waiting = budget.waiting
    if not waiting:
        state = "" if budget.pause is None else f"; {budget.pause}"
        shadow = "" if budget.enforced else "; limits are only observed"
        why = f"no call waits; {budget.in_flight:,} in flight of {budget.concurrency_limit:,}{state}{shadow}"
        return Wait(budget.name, 0, None, "nothing", why, None, None)
    goes_in, _ = _until_sent(budget, place or 1, tokens if place else next_tokens)
    sent_in, binding = _until_sent(budget, waiting, budget.waiting_tokens)
    done_in = None if sent_in is None else sent_in + (budget.latency or 0.0)
    if budget.pause is not None and (sent_in is None or budget.pause.seconds >= sent_in / 2):
        binds: Binding = "pause"
        why = str(budget.pause)
    elif binding is None:
        binds, why = "concurrency", _room(budget)
    else:
        binds, why = binding.dimension, _used(binding)
    return Wait(budget.name, waiting, place, binds, why, goes_in, done_in)


def seconds_to_send(budget: BudgetStats, calls: float, tokens: float) -> float | None:
    """Seconds until `calls` further calls, of `tokens` together, are sent; None: not known."""
    return _until_sent(budget, calls, tokens)[0]


def _until_sent(budget: BudgetStats, calls: float, tokens: float) -> tuple[float | None, WindowStats | None]:
    """Seconds, and the window that binds; None: the room, or nothing that is known."""
    pause = 0.0 if budget.pause is None else budget.pause.seconds
    # What is reserved beyond its real cost comes back when the call is answered.
    tokens *= 1 + max(-0.9, budget.estimate_error or 0.0)
    longest, binding = 0.0, None
    for window in budget.windows:
        seconds = _until_window(window, calls if window.dimension == "requests" else tokens, pause)
        if seconds > longest:
            longest, binding = seconds, window
    room = budget.concurrency_limit
    is_full = budget.in_flight >= room and (budget.concurrency_found or not budget.windows)
    if is_full and budget.latency is None and binding is None:
        return None, None
    if is_full and budget.latency is not None:
        seconds = calls * budget.latency / room + pause
        if seconds > longest:
            longest, binding = seconds, None
    return max(longest, pause), binding if longest > AT_ONCE else None


def _until_window(window: WindowStats, units: float, pause: float) -> float:
    by_pace = _until_paced(units - window.spendable, window.limit / window.period, window.opens_in)
    by_server = 0.0
    if window.left is not None and window.refill > 0:
        by_server = max(0.0, (units - window.left) / window.refill)
    return max(by_pace + pause if by_pace else 0.0, by_server)


def _until_paced(missing: float, rate: float, opens_in: float | None) -> float:
    """Seconds until `missing` units have refilled at `rate`, while the burst may grow until it is open."""
    seconds = max(0.0, missing / rate)
    if opens_in is None or not seconds:
        return seconds
    burst = WHOLE_BURST * math.exp(-GROWTH * opens_in)
    low, high = 0.0, min(seconds, opens_in)
    while high - low > AT_ONCE * max(1.0, high):
        half = (low + high) / 2
        came = rate * (half + burst * (math.exp(GROWTH * half) - 1))
        low, high = (half, high) if came < missing else (low, half)
    return high


def _used(window: WindowStats) -> str:
    if window.source == "learnt":
        return f"about {window}, as refusals have shown"
    when = {_MINUTE: "this minute", 3600.0: "this hour", 86_400.0: "today"}.get(
        window.period, f"in {number(window.period)} s"
    )
    used = min(max(window.used, 0.0), window.limit)
    if used < NEARLY * window.limit:
        return f"{window}, sent evenly"
    return f"{used:,.0f} of {window.limit:,.0f} {window.dimension} {when} used"


def _room(budget: BudgetStats) -> str:
    if budget.in_flight >= budget.concurrency_limit:
        return f"{budget.in_flight:,} in flight, as many as there is room for"
    return f"{budget.in_flight:,} in flight of {budget.concurrency_limit:,}"


def _in(seconds: float | None) -> str:
    if seconds is None:
        return "at an unknown time"
    if seconds == math.inf:
        return "when you resume"
    return "now" if seconds < SHOWN else f"in about {about(seconds)}"


def about(seconds: float) -> str:
    """A duration as exact as an estimate: `3.1 s`, `45 s`, `12 min`, `2 h 5 min`."""
    if seconds < 99.5:
        return spell(seconds)
    return spell(60.0 * round(seconds / 60)) if seconds >= 600 else spell(10.0 * round(seconds / 10))


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
