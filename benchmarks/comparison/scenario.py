"""A scenario: the calls, the server, and the shortest time that the calls can take.

Read in the rivals' environments too, so it imports only the standard library.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

FOLDER = Path(__file__).parent.parent / "scenarios"

# Tokens that OpenAI counts for a prompt beyond its text.
FRAME = 3
MODEL = "gpt-4o"


@dataclass(frozen=True)
class Work:
    """`calls` whose prompts have `sizes` tokens, drawn with `weights`; `per_second`, or all at once.

    `answer`: the most tokens of each answer. `kind`: chat, stream or embeddings.
    """

    calls: int
    sizes: tuple[int, ...] = (12,)
    weights: tuple[float, ...] | None = None
    per_second: float = math.inf
    answer: int = 16
    kind: str = "chat"
    model: str = MODEL


@dataclass(frozen=True)
class PlannedCall:
    """One call, due `at` seconds after the start. `arguments`: for the SDK's `create`."""

    number: int
    at: float
    size: int
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Scenario:
    """One file. `configured`: the limits that each of the `clients` is configured with.

    `changes`: changes of the server's settings, each with its second. Calls that are not done after `until`
    seconds are unfinished. `tuning`: whether rivals' settings are tuned for it.
    """

    name: str
    says: str
    work: Work
    server: dict[str, Any]
    configured: dict[str, float] = field(default_factory=dict)
    changes: tuple[tuple[float, dict[str, Any]], ...] = ()
    faults: tuple[dict[str, Any], ...] = ()
    clients: int = 1
    until: float = 3600.0
    speeds: tuple[str, ...] = ("virtual",)
    tuning: bool = True

    def calls(self, seed: int) -> list[PlannedCall]:
        random = Random(seed)
        work = self.work
        sizes = random.choices(work.sizes, work.weights, k=work.calls)
        span = work.calls / work.per_second
        instants = sorted(random.uniform(0, span) for _ in sizes) if span else [0.0] * work.calls
        return [
            PlannedCall(number, at, size, _arguments(work, number, size))
            for number, (at, size) in enumerate(zip(instants, sizes, strict=True))
        ]

    def ideal(self, calls: list[PlannedCall], tokens: int) -> float:
        """The shortest time for these calls, in seconds: that of a client that knows everything.

        `tokens`: what the server counts for all calls together. A limit of R per minute admits R/60 per
        second after an initial burst; the last answer then takes its latency. With a limit on calls in
        flight, the time is at least the sum of all latencies divided by that limit.
        """
        latency = self.server.get("latency", 0.5)
        sigma = self.server.get("latency_sigma", 0.2)
        bounds = [max(call.at for call in calls)]
        for limit, units in (("rpm", len(calls)), ("tpm", tokens)):
            if self.server.get(limit):
                bounds.append(self._refilled(limit, units))
        least = max(bounds) + latency
        slots = self.server.get("slots") or self.server.get("max_in_flight")
        if slots:
            slower = 1 + self.server.get("slowdown", 0.0) * (slots - 1) / slots
            least = max(least, len(calls) / slots * latency * math.exp(sigma**2 / 2) * slower)
        return least

    def _refilled(self, limit: str, units: float) -> float:
        """The earliest second at which `units` of a limit have become available."""
        settings = dict(self.server)
        minutes = min(60.0, settings.get("burst", 60.0)) / 60
        units -= settings[limit] * minutes * settings.get("initial_level", 1.0)
        at = 0.0
        for when, change in (*self.changes, (math.inf, {})):
            rate = settings[limit] / 60
            # The simulator gives a neighbour at most half while we want more than that.
            rate -= min(settings.get(f"neighbour_{limit}", 0.0) / 60, rate / 2)
            if units <= rate * (when - at):
                return at + max(0.0, units) / rate
            units -= rate * (when - at)
            settings |= change
            at = when
        raise AssertionError("time is infinite")


def read(name: str, scale: float = 1.0) -> Scenario:
    """Read a scenario, with `scale` of its calls. Raises `TypeError` for keys that do not exist."""
    values: dict[str, Any] = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    work = {name: tuple(value) if isinstance(value, list) else value for name, value in values.pop("work").items()}
    work["calls"] = math.ceil(scale * work["calls"])
    changes = tuple((change.pop("at"), change) for change in values.pop("changes", ()))
    return Scenario(
        name=name,
        work=Work(**work),
        changes=changes,
        faults=tuple(values.pop("faults", ())),
        speeds=tuple(values.pop("speeds", ("virtual",))),
        **values,
    )


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _arguments(work: Work, number: int, size: int) -> dict[str, Any]:
    text = "x" * ((size - FRAME) * 4)
    arguments: dict[str, Any] = {"model": work.model, "extra_headers": {"X-Client-Request-Id": str(number)}}
    if work.kind == "embeddings":
        return {**arguments, "input": text}
    arguments |= {"messages": [{"role": "user", "content": text}], "max_tokens": work.answer}
    return {**arguments, "stream": True} if work.kind == "stream" else arguments
