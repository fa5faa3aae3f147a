"""What is sent, and when: arrivals, prompts, and the load of one step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Three letters and a space: one token each to every tokenizer, and to those who count a quarter of the bytes.
_WORDS: Final = tuple(
    re.findall(
        r"\w+",
        "the and for you not are but all any can had her was one our out day get has him his how man new now old see "
        "two way who did its let put say she too use big end far few got hot low own red run sea set six ten top yes",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one step sends.

    `rate`: calls per second, that come at random whether or not others have ended. `concurrency`: so
    many calls in flight, each followed by another. Neither: as many as the client admits.
    `duration`: seconds that count; `calls`: calls that count; whichever is reached first ends the step.
    `warm_up`, `warm_up_calls`: seconds and calls before these, which do not count.
    """

    rate: float | None = None
    concurrency: int | None = None
    calls: int | None = None
    duration: float | None = None
    warm_up: float = 0.0
    warm_up_calls: int = 0
    seed: int = 0

    @property
    def warming(self) -> float:
        """Seconds before the first arrival that counts, where calls have a rate."""
        by_calls = 0.0 if self.rate is None else self.warm_up_calls / self.rate
        return max(self.warm_up, by_calls)

    @property
    def horizon(self) -> float | None:
        """Seconds in which calls that count arrive; None: until there are enough."""
        if self.rate is None or self.calls is None:
            return self.duration
        needed = self.calls / self.rate
        return needed if self.duration is None else min(needed, self.duration)

    @property
    def arrivals(self) -> list[float]:
        """When calls arrive at `rate`, in seconds from the start."""
        assert self.rate is not None
        assert self.horizon is not None
        warm = arrivals(self.rate, self.warming, self.seed)
        # From a seed of their own, so that those that count do not depend on the warm-up.
        return warm + [self.warming + at for at in arrivals(self.rate, self.horizon, self.seed + 1)]

    @property
    def total(self) -> int | None:
        """Calls that will be made; None: as many as fit."""
        if self.rate is not None:
            assert self.horizon is not None
            return round(self.rate * self.warming) + round(self.rate * self.horizon)
        return None if self.calls is None or self.warm_up else self.calls + self.warm_up_calls

    def __str__(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g} calls a second"
        if self.concurrency is not None:
            return f"{self.concurrency:,} in flight"
        return "as many as the client admits"


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Instants of a Poisson process on [0, `seconds`) of which is known that it has `rate` x `seconds` arrivals.

    As random as the process from one second to the next, and the same number of calls in every run.
    """
    random = Random(seed)
    return sorted(random.random() * seconds for _ in range(round(rate * seconds)))


class Prompts:
    """Prompts without end: `lines` in turn, or about `tokens` tokens of words, no two with the same beginning.

    A server that keeps the work of earlier prompts would do less than all of it for one that begins
    as another did; with another `seed` none begins as in an earlier run.
    """

    def __init__(self, tokens: int, seed: int, lines: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._random = Random(seed)
        self._lines = lines
        self._next = 0

    @property
    def samples(self) -> Sequence[str]:
        """All that there are, or one of those that are made up: none is longer."""
        return self._lines or [" ".join(_WORDS[:1] * self._tokens)]

    def next(self) -> str:
        if self._lines:
            line = self._lines[self._next % len(self._lines)]
            self._next += 1
            return line
        return " ".join(self._random.choices(_WORDS, k=self._tokens))
