"""The ledger: what the attempts of one budget cost, and what the server was seen to take for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from .tariff import Tariff

if TYPE_CHECKING:
    from throttled_openai._protocol.estimate import Estimate, Usage
    from throttled_openai._protocol.headers import Announcement
    from throttled_openai._protocol.providers import Provider

# Snapshots that are kept; in what order they come is up to the service times.
KEPT: Final = 256
# Seconds by which the server may have seen two attempts closer together or further apart than they left.
SPREAD: Final = 0.03


class _Entry(NamedTuple):
    """What was left when an attempt had been admitted."""

    sent_at: float
    remaining: float
    limit: float
    rate: float
    estimate: Estimate
    provider: Provider


class Ledger:
    """Prices attempts by a tariff per provider, and teaches the tariffs what the server tells."""

    def __init__(self) -> None:
        self._tariffs: dict[str, Tariff] = {}  # clients of several providers may share a throttle
        self._entries: OrderedDict[int, _Entry] = OrderedDict()

    def price(self, estimate: Estimate, provider: Provider) -> float:
        """Tokens to reserve for an attempt, by what is known now."""
        return self._tariff(provider).cost(estimate)

    def used(self, estimate: Estimate, provider: Provider, usage: Usage) -> float | None:
        """An attempt reported its usage: the tokens the server took for it in the end; None: its estimate."""
        tariff = self._tariff(provider)
        final = tariff.final_cost(estimate, usage)
        tariff.learn_usage(estimate, usage)
        return final

    def requested(self, tokens: float, estimate: Estimate, provider: Provider) -> None:
        """A refusal told how many tokens the server would have taken."""
        self._tariff(provider).learn_requested(tokens, estimate)

    def announced(
        self, announcement: Announcement, number: int, sent_at: float, estimate: Estimate, provider: Provider
    ) -> None:
        """The attempt of that `number` brought a snapshot.

        Between two attempts that left one after the other, what the bucket lost, and what it had
        refilled meanwhile, is what the server took for the second: whether it reserves output shows.
        """
        window = next((window for window in announcement.tokens if window.remaining is not None), None)
        if window is None or window.remaining is None:
            return
        entry = _Entry(sent_at, window.remaining, window.limit, window.rate, estimate, provider)
        self._entries[number] = entry
        while len(self._entries) > KEPT:
            self._entries.popitem(last=False)
        for first, second in ((self._entries.get(number - 1), entry), (entry, self._entries.get(number + 1))):
            if first is not None and second is not None and first.limit == second.limit and second.estimate.output > 0:
                # It does not refill beyond the limit.
                before = min(second.limit, first.remaining + second.rate * (second.sent_at - first.sent_at))
                noise = 1.0 if before == second.limit else 1.0 + SPREAD * second.rate
                self._tariff(second.provider).learn_charge(before - second.remaining, second.estimate, noise)

    def _tariff(self, provider: Provider) -> Tariff:
        tariff = self._tariffs.get(provider.name)
        if tariff is None:
            tariff = self._tariffs[provider.name] = Tariff(provider)
        return tariff

    def rebind(self) -> None:
        """Forget instants: the clock is another one."""
        self._entries.clear()
