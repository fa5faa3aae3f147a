"""The network: how long each message travels. Only the memory carrier asks; TCP has a real network."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._settings import Settings


class Network:
    """Draws lognormal one-way times. Each direction has its own generator, so replies do not change later arrivals."""

    def __init__(self, seed: int) -> None:
        self._requests = Random(f"{seed} there")
        self._replies = Random(f"{seed} back")

    def to_server(self, settings: Settings) -> float:
        return _draw(self._requests, settings)

    def to_client(self, settings: Settings) -> float:
        return _draw(self._replies, settings)


def _draw(generator: Random, settings: Settings) -> float:
    if settings.network <= 0:
        return 0.0
    return settings.network * math.exp(generator.gauss(0, settings.network_sigma))
