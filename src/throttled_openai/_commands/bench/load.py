"""The load of one step: when its calls arrive, and with which prompts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Three letters and a space: one token each for every tokenizer, and for servers that count bytes / 4.
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

    `rate`: calls per second with random arrivals (open loop); `burstiness`: see `arrivals`.
    `concurrency`: calls in flight, each followed by another (closed loop). Neither: as many as the client
    admits. The step ends after
    `duration` measured seconds or `calls` measured calls, whichever comes first. `warm_up` seconds and
    `warm_up_calls` come before and are not measured.
    """

    rate: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    calls: int | None = None
    duration: float | None = None
    warm_up: float = 0.0
    warm_up_calls: int = 0
    seed: int = 0

    @property
    def warming(self) -> float:
        """Seconds of warm-up before the measured time."""
        by_calls = 0.0 if self.rate is None else self.warm_up_calls / self.rate
        return max(self.warm_up, by_calls)

    @property
    def horizon(self) -> float | None:
        """Seconds in which measured calls arrive; None: until there are enough."""
        if self.rate is None or self.calls is None:
            return self.duration
        needed = self.calls / self.rate
        return needed if self.duration is None else min(needed, self.duration)

    @property
    def arrivals(self) -> list[float]:
        """The arrivals of an open loop, in seconds from the start."""
        assert self.rate is not None
        assert self.horizon is not None
        warm = arrivals(self.rate, self.warming, self.seed, self.burstiness)
        # A seed of their own keeps the measured arrivals independent of the warm-up.
        measured = arrivals(self.rate, self.horizon, self.seed + 1, self.burstiness)
        return warm + [self.warming + at for at in measured]

    @property
    def total(self) -> int | None:
        """The number of calls that will be made; None: as many as fit."""
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


def arrivals(rate: float, seconds: float, seed: int, burstiness: float = 1.0) -> list[float]:
    """Random instants on [0, `seconds`), `rate` x `seconds` of them.

    Their distances are gamma-distributed with the shape `burstiness`: 1 is a Poisson process, less comes in
    bursts, more is more even. From second to second they are as random as the process, but every run has the
    same number of calls.
    """
    random = Random(seed)
    number = round(rate * seconds)
    if burstiness == 1:
        return sorted(random.random() * seconds for _ in range(number))
    # The last distance reaches from the last arrival to the end.
    gaps = [random.gammavariate(burstiness, 1.0) for _ in range(number + 1)]
    whole = math.fsum(gaps) or 1.0
    # Below `seconds`, although rounding may reach it.
    return [min(seconds * at / whole, math.nextafter(seconds, 0)) for at in list(accumulate(gaps))[:-1]]


class Prompts:
    """An endless supply of prompts: `lines` in turn, or about `tokens` tokens of random words.

    No two random prompts share a beginning, in this run or in one with another `seed`: a server with a
    prefix cache would do less work for them.
    """

    def __init__(self, tokens: int, seed: int, lines: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._random = Random(seed)
        self._lines = lines
        self._next = 0

    @property
    def samples(self) -> Sequence[str]:
        """All lines, or one random prompt: all of those are equally long."""
        return self._lines or [" ".join(_WORDS[:1] * self._tokens)]

    def next(self) -> str:
        if self._lines:
            line = self._lines[self._next % len(self._lines)]
            self._next += 1
            return line
        return " ".join(self._random.choices(_WORDS, k=self._tokens))
