"""Statistics of a throttle: frozen snapshots without prompts or keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping  # noqa: TC003  # so that `typing.get_type_hints` works
from dataclasses import dataclass, field
from typing import Any, Literal

from ._numbers import number


def spell(seconds: float) -> str:
    """A duration in words for messages: `0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 days`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours / 24:.0f} days"


@dataclass(frozen=True, slots=True)
class WindowStats:
    """One limit: `limit` units per `period` seconds.

    `spendable`: units that may leave at once; negative is debt. `source`: where the limit comes from: the user has
    `configured` it, the server has `announced` it, or refusals have taught it (`learnt`). `used`: units that count
    against it now: what the server says is used, else what left in the last `period` seconds. `left`: units that the
    server has left by our picture of it; None where it announces none. `refill`: units per second that come back to
    us, as others may use the same limit. `opens_in`: seconds of sending at the limit's pace after which all of `left`
    may leave at once; None: never.
    """

    dimension: Literal["requests", "tokens"]
    period: float
    limit: float
    spendable: float
    source: Literal["configured", "announced", "learnt"] = "configured"
    used: float = 0.0
    left: float | None = None
    refill: float = 0.0
    opens_in: float | None = None

    @property
    def announced(self) -> bool:
        """Whether the server announced this limit."""
        return self.source == "announced"

    @property
    def debt(self) -> float:
        """Units that left beyond what the limit allows; they delay further calls."""
        return max(0.0, -self.spendable)

    @property
    def unit(self) -> str:
        """The period in words: `min`, `day`."""
        return {60.0: "min", 3600.0: "h", 86_400.0: "day"}.get(self.period, f"{number(self.period)} s")

    def __str__(self) -> str:
        return f"{self.limit:,.0f} {self.dimension}/{self.unit}"


@dataclass(frozen=True, slots=True)
class PauseStats:
    """Why nothing is sent now. `seconds`: until it ends; infinite: until `Throttle.resume()`.

    `reason`: `refusals` (the server refused, or asked for the wait), `billing` (the account has to pay), `wait` (the
    server asks for a wait of hours), `silence` (the server answers nothing), or `user` (`Throttle.pause()`).
    """

    seconds: float
    reason: Literal["refusals", "billing", "wait", "silence", "user"]

    def __str__(self) -> str:
        if self.reason == "user":
            return "paused by you" + ("" if self.seconds == math.inf else f" for {spell(self.seconds)}")
        why = {
            "refusals": "after refusals",
            "billing": "as the account has to pay",
            "wait": "as the server asks for a long wait",
            "silence": "as the server answers nothing",
        }[self.reason]
        return f"paused for {spell(self.seconds)} {why}"


@dataclass(frozen=True, slots=True)
class WaitStats:
    """Seconds that the last `count` admitted attempts waited: the median, percentiles, and the longest."""

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetStats:
    """One budget: that of a model, or of several models that share their limits.

    `waiting`: calls not yet admitted, and `waiting_tokens`, what they are estimated to take. `in_flight`: attempts
    admitted and not settled. `concurrency_limit`: how many of them the server has room for, as far as is known;
    `concurrency_found`: whether refusals have shown that.

    Attempts so far: `admitted`, `succeeded`, `refused`, and `settled`, which counts every end. `refused_by`: the
    refused ones by kind: `rate`, `overload`, `too_large`, `billing`. `turned_away`: calls that failed in the queue
    (`AdmissionTimeout`, `QueueFull` and the like).

    `tokens_used`: tokens that the server reported. `tokens_per_call`: what an attempt takes from the token limit, on
    average. `estimate_error`: by what share tokens charged exceed their estimate, smoothed; -0.2 is 20 % too much
    reserved. `windows`: the limits. `pause`: why nothing is sent now, if so. `latency`: seconds of a successful
    attempt, smoothed. `waits`: of the latest admitted attempts. `enforced`: False if calls are only observed
    (`enforce=False`): then `waits` and `turned_away` say what would have happened.
    """

    name: str
    waiting: int
    in_flight: int
    concurrency_limit: int
    admitted: int
    succeeded: int
    refused: int
    tokens_used: int
    windows: tuple[WindowStats, ...]
    tokens_per_call: float = 0.0
    settled: int = 0
    refused_by: Mapping[str, int] = field(default_factory=dict)
    turned_away: int = 0
    waiting_tokens: float = 0.0
    pause: PauseStats | None = None
    latency: float | None = None
    estimate_error: float | None = None
    waits: WaitStats = WaitStats()
    enforced: bool = True
    concurrency_found: bool = False

    def __str__(self) -> str:
        limits = ", ".join(map(str, self.windows)) or "no limit known"
        paused = "" if self.pause is None else f"{self.pause}, "
        observed = ""
        if not self.enforced:
            half, longest = spell(self.waits.p50), spell(self.waits.longest)
            observed = f" | only observed: half would wait up to {half}, the longest {longest}; "
            observed += f"{self.turned_away} would have failed"
        return (
            f"{self.name}: {paused}{self.waiting} waiting, {self.in_flight} in flight of {self.concurrency_limit}, "
            f"{self.succeeded} succeeded, {self.refused} refused | {limits}{observed}"
        )


def sum_of(budgets: list[BudgetStats], name: str) -> BudgetStats:
    """The totals of budgets that are no longer kept, as one budget called `name`."""
    admitted, succeeded, refused, tokens, settled, turned_away = (
        sum(getattr(budget, counted) for budget in budgets)
        for counted in ("admitted", "succeeded", "refused", "tokens_used", "settled", "turned_away")
    )
    kinds = {kind for budget in budgets for kind in budget.refused_by}
    return BudgetStats(
        name,
        *(0, 0, 0, admitted, succeeded, refused, tokens, ()),
        settled=settled,
        turned_away=turned_away,
        refused_by={kind: sum(budget.refused_by.get(kind, 0) for budget in budgets) for kind in sorted(kinds)},
    )


@dataclass(frozen=True, slots=True)
class Stats:
    """The state of a throttle. `waiting`: calls not yet admitted. `in_flight`: attempts not yet settled."""

    waiting: int
    in_flight: int
    budgets: tuple[BudgetStats, ...]

    @property
    def admitted(self) -> int:
        return sum(budget.admitted for budget in self.budgets)

    @property
    def succeeded(self) -> int:
        return sum(budget.succeeded for budget in self.budgets)

    @property
    def refused(self) -> int:
        return sum(budget.refused for budget in self.budgets)

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts, lists and numbers, for JSON; what is infinite is None there."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found

    def summary(self) -> str:
        """The totals and every budget in one line."""
        parts = [f"{self.waiting} waiting, {self.in_flight} in flight, {self.succeeded} succeeded"]
        parts += [str(budget) for budget in self.budgets]
        return " | ".join(parts)

    def __str__(self) -> str:
        return "\n".join([f"{self.waiting} waiting, {self.in_flight} in flight", *map(str, self.budgets)])


def stats_from(found: Mapping[str, Any]) -> Stats:
    """The `Stats` of which `found` is the `as_dict()`."""
    return Stats(found["waiting"], found["in_flight"], tuple(map(_budget_from, found["budgets"])))


def _budget_from(found: Mapping[str, Any]) -> BudgetStats:
    windows = tuple(WindowStats(**window) for window in found["windows"])
    pause = found["pause"]
    if pause is not None:
        pause = PauseStats(math.inf if pause["seconds"] is None else pause["seconds"], pause["reason"])
    return BudgetStats(**{**found, "windows": windows, "pause": pause, "waits": WaitStats(**found["waits"])})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
