"""The status of shared budgets: what the store has, read without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from throttled_openai._stats import spell

from .broker import LocalLine
from .place import client_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .place import Place

_LIMITS = (
    ("requests", 60.0, "min"),
    ("tokens", 60.0, "min"),
    ("requests", 86_400.0, "day"),
    ("tokens", 86_400.0, "day"),
)


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process. `places`: how many calls it may have in flight; 0: not limited."""

    name: str
    waiting: int
    in_flight: int
    places: int

    def __str__(self) -> str:
        of = f" of {self.places}" if self.places else ""
        return f"    process {self.name}: {self.waiting:,} waiting, {self.in_flight:,} in flight{of}"


@dataclass(frozen=True, slots=True)
class SharedStatus:
    """One budget. `paused`: seconds for which nothing is sent. `backlog`: until all that is spent has come back."""

    name: str
    limits: tuple[str, ...]
    paused: float
    backlog: float
    room: int
    processes: tuple[ProcessStatus, ...]

    def __str__(self) -> str:
        waiting = sum(process.waiting for process in self.processes)
        facts = [
            ", ".join(self.limits) or "no limit known",
            f"{len(self.processes)} processes, {waiting:,} calls waiting",
        ]
        if self.processes and self.limits:
            facts.append(f"each has 1/{len(self.processes)}")
        if self.room:
            facts.append(f"{self.room} in flight together")
        if self.paused > 0:
            facts.append(f"paused for {spell(self.paused)}")
        return "\n".join([f"{self.name}: {'; '.join(facts)}", *map(str, self.processes)])


def read_status(place: Place) -> list[SharedStatus]:
    """The budgets at `place`. Raises what the store's package raises if it does not answer."""
    found = _at_broker(place) if place.kind == "local" else _in_store(place)
    return sorted((_status(*each) for each in found), key=lambda budget: budget.name)


def _at_broker(place: Place) -> Iterator[tuple[Any, Any, Any, float]]:
    line = LocalLine(place.address, starts=False)
    try:
        found: Any = line.step("", [])
    except (FileNotFoundError, ConnectionError):
        return  # no process keeps any
    finally:
        line.close()
    for _, state, leases, demand in found:
        yield state, leases, demand, float(state["now"])


def _in_store(place: Place) -> Iterator[tuple[Any, Any, Any, float]]:
    client = client_of(place, patience=5.0)
    try:
        seconds, micros = _clock(client)
        for key in list(client.scan_iter(match=f"{_escaped(place.prefix)}*:state", count=1000)):
            text = key.decode() if isinstance(key, bytes) else key
            begin = text.removesuffix("state")
            leases = dict(client.zrange(f"{begin}leases", 0, -1, withscores=True))
            yield client.hgetall(text), leases, client.hgetall(f"{begin}demand"), seconds + micros / 1e6
    finally:
        client.close()


def _clock(client: Any) -> tuple[int, int]:
    found = client.time()
    seconds, micros = next(iter(found.values())) if isinstance(found, dict) else found  # a cluster: for each node
    return seconds, micros


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in text)


def _status(state: Mapping[str, str], leases: Mapping[str, Any], demand: Mapping[str, str], now: float) -> SharedStatus:
    rates = [float(state.get(f"in_force{i}", 0)) for i in range(1, 5)]
    arrivals = [float(state.get(f"arrival{i}", 0)) for i in (1, 2)]
    live = []
    for name, until in leases.items():
        if float(until) >= now:
            waiting, in_flight, places, _ = (int(float(part)) for part in demand.get(name, "0 0 0 0").split())
            live.append(ProcessStatus(name, waiting, in_flight, places))
    limits = [
        f"{rate * period:,.0f} {dimension}/{unit}"
        for rate, (dimension, period, unit) in zip(rates, _LIMITS, strict=True)
        if rate > 0
    ]
    return SharedStatus(
        name=state.get("name", "?"),
        limits=tuple(limits),
        paused=max(0.0, float(state.get("pause", 0)) - now),
        backlog=max(0.0, max(arrivals) - now),
        room=int(float(state.get("note2") or 0)),
        processes=tuple(sorted(live, key=lambda process: process.name)),
    )
