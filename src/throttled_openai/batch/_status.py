"""The status of a run at one moment: its figures, and what limits its speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from throttled_openai._numbers import number
from throttled_openai._stats import spell

from ._tally import limit_of, rate_of

if TYPE_CHECKING:
    from throttled_openai._stats import BudgetStats, Stats

    from ._tally import Now, Tally

# Seconds after which the time left is computed from the measured rate rather than from the limits.
_MEASURED_AFTER: Final = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a run.

    `total`: requests in the input; None if not known. `before`: requests finished by earlier runs. `rpm`, `tpm`:
    current rates. `rpm_limit`, `tpm_limit`: the sum over all models in use; None if a limit is not known.
    `seconds_left`: None if not known. `reason`: what limits the speed.
    """

    seconds: float
    total: int | None
    before: int
    done: int
    failed: int
    waiting: int
    in_flight: int
    room: int
    rpm: float
    rpm_limit: float | None
    tpm: float
    tpm_limit: float | None
    refusals: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds_left: float | None
    reason: str

    @property
    def share(self) -> float | None:
        return None if not self.total else min(1.0, (self.before + self.done) / self.total)

    def __str__(self) -> str:
        """One line for a log."""
        total = "" if self.total is None else f" of {self.total:,}"
        share = "" if self.share is None else f" ({self.share:.0%})"
        parts = [
            f"{self.before + self.done:,}{total} done{share}, {self.failed:,} failed",
            f"{self.in_flight:,} in flight of {self.room:,}, {self.waiting:,} waiting",
            f"{shown(self.rpm, self.rpm_limit)} requests/min",
            f"{shown(self.tpm, self.tpm_limit)} tokens/min",
            f"{self.refusals:,} refusals",
        ]
        if self.cost is not None:
            parts.append(f"cost {number(self.cost)}")
        left = "" if self.seconds_left is None else f"{spell(self.seconds_left)} left"
        parts.append(f"{left} ({self.reason})" if left else self.reason)
        return "; ".join(parts)


def shown(value: float, limit: float | None) -> str:
    return f"{value:,.0f}" if limit is None else f"{value:,.0f} of {limit:,.0f}"


def status_of(tally: Tally, stats: Stats, *, reading: bool = False, draining: bool = False) -> Status:
    """The status now. `reading`: the input is being read, and nothing has been sent yet."""
    now = tally.now()
    used = [budget for budget in stats.budgets if budget.admitted or budget.waiting]
    left = tally.left
    return Status(
        **tally.counts(),
        waiting=stats.waiting,
        in_flight=stats.in_flight,
        room=sum(budget.concurrency_limit for budget in used),
        rpm=now.calls_per_minute,
        rpm_limit=_per_minute(used, "requests"),
        tpm=_tokens_per_minute(used, now),
        tpm_limit=_per_minute(used, "tokens"),
        refusals=stats.refused,
        cost=tally.cost or None,
        seconds_left=None if left is None or reading else _seconds_left(left, tally, stats, now.calls_per_minute / 60),
        reason="reading the input" if reading else "finishing what is in flight" if draining else reason_of(stats),
    )


def reason_of(stats: Stats) -> str:
    """What limits the speed of the model that has the most waiting requests."""
    waiting = [budget for budget in stats.budgets if budget.waiting]
    if not waiting:
        return "nothing waits: the input or this machine is the bottleneck" if stats.in_flight else "beginning"
    budget = max(waiting, key=lambda each: each.waiting)
    whose = f" of {budget.name}" if len(stats.budgets) > 1 else ""
    short = [window for window in budget.windows if window.spendable < _needs(window.dimension, budget)]
    if short:
        window = min(short, key=lambda each: each.limit / each.period / _needs(each.dimension, budget))
        day = ", per day," if window.period > 3600 else ""
        return f"{window.dimension.removesuffix('s')} limit{whose}{day} binds"
    if budget.in_flight >= budget.concurrency_limit:
        return f"room binds: {budget.in_flight} in flight{whose}"
    return f"waiting for a pause{whose} to end" if not budget.in_flight else f"the pace{whose} is being learnt"


def _needs(dimension: str, budget: BudgetStats) -> float:
    # At the pace of a limit, hardly more than the cost of one call is ever spendable.
    return 2.0 if dimension == "requests" else 2.0 * budget.tokens_per_call


def _per_minute(budgets: list[BudgetStats], dimension: str) -> float | None:
    """The sum of the limits of all models in use, from windows of a minute or less; None if one is not known."""
    total = 0.0
    for budget in budgets:
        limits = [60 * w.limit / w.period for w in budget.windows if w.dimension == dimension and w.period <= 60]
        if not limits:
            return None
        total += min(limits)
    return total or None


def _tokens_per_minute(budgets: list[BudgetStats], now: Now) -> float:
    """Tokens as the limit counts them, which differs from usage at many providers; without a limit, the usage."""
    admitted = sum(budget.admitted for budget in budgets)
    if not admitted or not any(w.dimension == "tokens" for budget in budgets for w in budget.windows):
        return now.tokens_per_minute
    return now.calls_per_minute * sum(budget.admitted * budget.tokens_per_call for budget in budgets) / admitted


def _seconds_left(left: int, tally: Tally, stats: Stats, rate: float) -> float | None:
    limit = limit_of(stats.budgets)
    if rate > 0 and (tally.seconds > _MEASURED_AFTER or limit is None):
        return left / rate
    return None if not limit else left / limit


__all__ = ["Status", "rate_of", "reason_of", "shown", "status_of"]
