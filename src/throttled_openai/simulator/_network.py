"""The way between a client and the server: how long each message is on it. Only the carrier in memory has to ask."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._settings import Settings


class Network:
    """Draws one-way times, lognormal. Each direction has dice of its own: answers do not shift arrivals."""

    def __init__(self, seed: int) -> None:
        self._there = Random(f"{seed} there")
        self._back = Random(f"{seed} back")

    def there(self, settings: Settings) -> float:
        return _draw(self._there, settings)

    def back(self, settings: Settings) -> float:
        return _draw(self._back, settings)


def _draw(dice: Random, settings: Settings) -> float:
    if settings.network <= 0:
        return 0.0
    return settings.network * math.exp(dice.gauss(0, settings.network_sigma))
