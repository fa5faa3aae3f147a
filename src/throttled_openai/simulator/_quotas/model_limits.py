"""The limits of one model: what they admit, what they refuse, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .neighbours import Neighbours
from .quota import DAY, MINUTE, Quota

if TYPE_CHECKING:
    from .._settings import Settings
    from .charge import Charge

Unit = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class QuotaRefusal:
    """The quota that refused an attempt. `wait` is seconds; None: the attempt can never be admitted."""

    dimension: Unit
    period: int
    limit: float
    used: int
    requested: int
    wait: float | None


class ModelLimits:
    """All quotas of one model, or of several models that share them, and the neighbours who use them too."""

    __slots__ = ("_quotas", "_settings", "name", "neighbours")

    def __init__(self, name: str, settings: Settings, now: float) -> None:
        self.name = name
        self.neighbours = Neighbours(settings, now)
        self._settings = settings
        # In the order in which they are checked: requests first, as OpenAI does.
        self._quotas: dict[tuple[Unit, int], Quota] = {}
        self._resize(now)

    @property
    def requests(self) -> Quota | None:
        """The quota that headers show: the daily one if there is one, else that of the minute."""
        return self._quotas.get(("requests", DAY), self._quotas.get(("requests", MINUTE)))

    @property
    def tokens(self) -> Quota | None:
        """The quota that headers show, which is never the daily one."""
        return self._quotas.get(("tokens", MINUTE))

    def catch_up(self, now: float) -> None:
        """Let the neighbours take their share up to `now`. Every other change to the quotas does this first."""
        neighbours = self.neighbours
        for at, seconds in neighbours.slices(now):
            neighbours.taken_requests += self._share("requests", neighbours.requests, seconds, at)
            neighbours.taken_tokens += self._share("tokens", neighbours.tokens, seconds, at)

    def admit(self, charge: Charge, now: float) -> QuotaRefusal | None:
        """Charge one request and the tokens of `charge`, or return the refusal.

        A refused attempt is charged no tokens, and a request only if the settings say so.
        """
        self.catch_up(now)
        wanted = {"requests": 1, "tokens": charge.needed}
        hit = next((key for key, quota in self._quotas.items() if _refuses(quota, wanted[key[0]], now)), None)
        if hit is None:
            self._take(1, charge.taken, now)
            return None
        if self._settings.charge_refused_requests:
            self.drain(1, 0, now)
        quota, amount = self._quotas[hit], wanted[hit[0]]
        used = math.ceil(quota.limit) - quota.remaining(now)
        wait = None if amount > quota.limit else quota.wait(amount, now)
        return QuotaRefusal(*hit, quota.limit, used, amount, wait)

    def settle(self, tokens: int, now: float) -> None:
        """Charge or, if negative, refund `tokens` at the end of an attempt."""
        if tokens:
            self.catch_up(now)
            self._take(0, tokens, now)

    def drain(self, requests: float, tokens: float, now: float) -> None:
        """Take both, or what is left of each if that is less: this never leaves a debt."""
        self.catch_up(now)
        for (unit, _), quota in self._quotas.items():
            quota.drain(requests if unit == "requests" else tokens, now)

    def change(self, settings: Settings, now: float) -> None:
        self.catch_up(now)
        self.neighbours.change(settings)
        self._settings = settings
        self._resize(now)

    def _take(self, requests: float, tokens: float, now: float) -> None:
        for (unit, _), quota in self._quotas.items():
            quota.take(requests if unit == "requests" else tokens, now)

    def _share(self, unit: Unit, wanted: float, seconds: float, now: float) -> float:
        """Take what neighbours who want `wanted` units per second get over `seconds`."""
        quotas = [quota for (of, _), quota in self._quotas.items() if of == unit]
        amount = min((quota.spare(wanted, seconds, now) for quota in quotas), default=0.0)
        for quota in quotas:
            quota.take(amount, now)
        return amount

    def _resize(self, now: float) -> None:
        """Create the quotas of the settings; those that already exist keep their levels."""
        settings, old, self._quotas = self._settings, self._quotas, {}
        wanted: tuple[tuple[Unit, int, float | None], ...] = (
            ("requests", MINUTE, settings.rpm),
            ("requests", DAY, settings.rpd),
            ("tokens", MINUTE, settings.tpm),
            ("tokens", DAY, settings.tpd),
        )
        for unit, period, limit in wanted:
            if limit is None:
                continue
            quota = old.get((unit, period))
            if quota is None:
                quota = Quota(limit, settings, now, period)
            else:
                quota.resize(limit, settings, now)
            self._quotas[unit, period] = quota


def _refuses(quota: Quota, amount: float, now: float) -> bool:
    return amount > quota.limit or quota.wait(amount, now) > 0
