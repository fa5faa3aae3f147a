"""The reservation: what one attempt took from a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from throttled_openai._protocol.headers import Dimension

    from .server_window import Checkpoint


@dataclass(slots=True, eq=False)
class Reservation:
    """What one attempt took from a budget, and what was believed of each server window then.

    `number`: attempts of a budget are numbered as they leave; instants would be equal where a
    clock is coarse.
    """

    number: int
    tokens: float
    at: float
    checkpoints: tuple[tuple[Dimension, Checkpoint], ...]
    requests_spent: float
    tokens_spent: float
    against: tuple[tuple[Dimension, float], ...] = ()
    """Doubtful limits that would have held it back."""

    def amount(self, dimension: Dimension) -> float:
        return 1.0 if dimension == "requests" else self.tokens
