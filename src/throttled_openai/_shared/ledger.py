"""The ledger: one budget that several processes share, and the step in which it is divided, in plain Python.

`step.lua` is its twin, and runs in Redis or Valkey. Both give the same answers to the same history.

The step
========

1. Processes whose lease has ended are forgotten, and the places in flight that they held are free again.
2. The rate of each meter is the lowest that a live process knows (configured or announced). A rate learnt from refusals
   can lower it further.
3. What was spent without a slot, or is given back, moves the arrival time of each meter: the instant at which all that
   is spent has come back. A meter holds `burst` seconds of its rate.
4. The slot of a call is the latest of now, the end of the pause, and the arrival time with the call in it, minus the
   burst. A call larger than the burst waits for a full meter, and leaves it in debt.
5. Slots are given up to a horizon, and up to the share of the process: the horizon, or what has room in it, divided by
   the number of live processes. A process that holds no slot gets one within a second, however small its share is.

No key, prompt or address is in it.
"""

from __future__ import annotations

import math
from typing import Final

# Seconds for which a process counts as live after a step; every step renews it.
LEASE: Final = 1.0
# Seconds within which a process that holds no slot gets one.
FAR: Final = 1.0
DAY: Final = 86400.0
# Where the notes are in what a process asks: version, and text.
NOTES: Final = ((18, 21), (22, 23), (24, 25))


def kept(value: float) -> str:
    """A number as the ledger keeps it."""
    return f"{value:.6f}"


def rounded(value: float) -> float:
    return float(kept(value))


class Ledger:
    """One shared budget. It starts empty, as a key that the store does not have."""

    def __init__(self) -> None:
        self.generation = self.name = ""
        self.pause = self.last = 0.0
        self.places = self.short = 0.0
        self.rate = [0.0] * 4  # requests and tokens per second, and the same by the limits of a day
        self.owner = [""] * 4
        self.burst = [0.0] * 4
        self.arrival = [0.0] * 4
        self.in_force = [0.0] * 4
        self.spent = [0.0] * 2
        self.learnt = [0.0] * 2
        self.note = [""] * 3  # what refusals taught of rates; places in flight; the reason to send nothing
        self.version = [0.0] * 3
        self.noted = [0.0] * 3
        self.leases: dict[str, float] = {}
        self.demand: dict[str, tuple[float, float, float, float]] = {}

    def step(self, asked: list[str], now: float) -> list[str]:
        """Answer what a process asks; both as `wire.py` writes them."""
        process, horizon, waiting, flying = asked[1], float(asked[2]), float(asked[3]), float(asked[4])
        held = [float(asked[5]), float(asked[6])]
        fresh = not self.generation
        for dead in [each for each, until in self.leases.items() if until < rounded(now)]:
            _, _, places, short = self.demand.pop(dead, (0.0, 0.0, 0.0, 0.0))
            self.places, self.short = self.places - places, self.short - short
            del self.leases[dead]
        _, _, places, short = self.demand.get(process, (0.0, 0.0, 0.0, 0.0))
        newcomer = process not in self.leases
        self.leases[process] = rounded(now + LEASE)
        live = len(self.leases)
        self._agree_on_rates(process, asked)
        self._take_notes(asked, now)
        self._settle(asked, now, horizon, fresh=fresh)
        self.pause = max(self.pause, now + float(asked[17]))
        if fresh:
            self.generation = f"{kept(now)} {process}"
        costs = [float(tokens) for tokens in asked[28:]]
        slots, again = self._slots(costs, held, horizon, live, now, newcomer=newcomer)
        granted, lacks = self._places(float(asked[26]), flying, places, short, live)
        self.places, self.short = self.places - places + granted, self.short - short + lacks
        self.demand[process] = waiting, flying, granted, lacks
        self.name = self.name or asked[27]
        answer = [self.generation, str(live), kept(self.pause - now), kept(again), *map(kept, self.in_force)]
        answer += [*map(kept, self.spent), *(kept(arrival - now) for arrival in self.arrival[:2])]
        for i, (version, _) in enumerate(NOTES):
            note = "" if float(asked[version]) == self.version[i] else self.note[i]
            answer += [kept(self.version[i]), note, kept(max(0.0, now - self.noted[i]))]
        self.pause, self.last = rounded(self.pause), rounded(self.last)
        self.arrival, self.in_force = [*map(rounded, self.arrival)], [*map(rounded, self.in_force)]
        self.rate, self.burst = [*map(rounded, self.rate)], [*map(rounded, self.burst)]
        self.learnt = [*map(rounded, self.learnt)]
        return [*answer, f"{granted:g}", *slots]

    def summary(self, now: float) -> list[dict[str, str]]:
        """State, leases and demand, as the store keeps them; for `shared status`."""
        state = {"name": self.name, "pause": kept(self.pause), "now": kept(now), "note2": self.note[1]}
        for i in range(4):
            state[f"in_force{i + 1}"], state[f"arrival{i + 1}"] = kept(self.in_force[i]), kept(self.arrival[i])
        demand = {process: " ".join(f"{value:g}" for value in four) for process, four in self.demand.items()}
        return [state, {process: kept(until) for process, until in self.leases.items()}, demand]

    def _agree_on_rates(self, process: str, asked: list[str]) -> None:
        for i in range(4):
            rate, owner = float(asked[8 + i]), self.owner[i]
            if rate > 0:
                known = self.rate[i]
                if known == 0 or rate < known or owner == process or owner not in self.leases:
                    self.rate[i], self.owner[i] = rate, process
                    self.burst[i] = DAY if i > 1 else float(asked[12])
            elif owner == process:
                self.rate[i], self.owner[i] = 0.0, ""

    def _take_notes(self, asked: list[str], now: float) -> None:
        """The first of several processes that saw the same thing writes it down."""
        for i, (version, text) in enumerate(NOTES):
            current = float(asked[version]) == self.version[i]
            if current and asked[text]:
                self.version[i], self.note[i], self.noted[i] = self.version[i] + 1, asked[text], rounded(now)
                if i == 0:
                    self.learnt = [float(asked[19]), float(asked[20])]
            elif current and i == 0:
                self.learnt = [max(mine, float(theirs)) for mine, theirs in zip(self.learnt, asked[19:21], strict=True)]

    def _settle(self, asked: list[str], now: float, horizon: float, *, fresh: bool) -> None:
        for i in range(4):
            rate, burst, learnt = self.rate[i], self.burst[i], self.learnt[i] if i < 2 else 0.0
            if learnt > 0 and (rate == 0 or learnt < rate):
                rate = learnt
            burst = burst or float(asked[12])
            arrival, before = max(self.arrival[i], now), self.in_force[i]
            if fresh and asked[7] and i < 2:  # what it knew is lost, and slots that it gave are still used
                arrival = now + burst + horizon
            if before > 0 and rate > 0 and before != rate:  # what is spent stays spent, but no wait becomes longer
                arrival = now + min((arrival - now) * before / rate, max(burst, arrival - now))
            spent = float(asked[13 + i % 2])
            if i < 2:
                self.spent[i] = rounded(self.spent[i] + spent)
            if rate > 0:
                arrival += spent / rate
                if spent < 0:
                    arrival = max(arrival, self.last, now)
                if i < 2 and asked[15 + i]:
                    arrival = max(arrival, now + burst - float(asked[15 + i]) / rate)
            else:
                arrival = now
            self.in_force[i], self.burst[i], self.arrival[i] = rate, burst, arrival

    def _slots(  # noqa: C901  # reads as its twin does
        self, costs: list[float], held: list[float], horizon: float, live: int, now: float, *, newcomer: bool
    ) -> tuple[list[str], float]:
        allowed = [math.inf, math.inf]
        for i in range(2):
            rate = self.in_force[i]
            if rate > 0:
                room = now + horizon + self.burst[i] - self.arrival[i]
                allowed[i] = max(horizon / live - held[i] / rate, room / live)
        slots: list[str] = []
        used = [0.0, 0.0]
        for tokens in costs:
            if newcomer and len(slots) == 1:
                break
            slot, fits, taken = max(now, self.pause), True, {}
            for i in range(4):
                rate = self.in_force[i]
                if rate > 0:
                    cost = taken[i] = (tokens if i % 2 else 1.0) / rate
                    slot = max(slot, self.arrival[i] + min(cost, self.burst[i]) - self.burst[i])
                    fits = fits and (i > 1 or used[i] + cost <= allowed[i])
            first = not slots and held[0] == 0
            if slot > now + (max(horizon, FAR) if first else horizon):
                return slots, slot - horizon - now
            if not fits and not first:
                break
            for i, cost in taken.items():
                self.arrival[i] = max(self.arrival[i], slot) + cost
                if i < 2:
                    used[i] += cost
            self.spent = [rounded(self.spent[0] + 1), rounded(self.spent[1] + tokens)]
            self.last = max(self.last, slot)
            slots.append(kept(slot - now))
        return slots, 0.0

    def _places(self, wish: float, flying: float, places: float, short: float, live: int) -> tuple[float, float]:
        """Places in flight for the process, and whether it lacks some."""
        room = float(self.note[1] or 0)
        if room <= 0:
            return 0.0, 0.0
        granted = min(wish, room - (self.places - places))
        if self.short - short > 0:
            granted = min(granted, float(math.ceil(room / live)))
        granted = max(granted, flying, 1.0)
        return granted, float(granted < wish)
