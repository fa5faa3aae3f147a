"""What kind of server the simulator plays: its limits, its speed, what it tells its clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict


class Options(TypedDict, total=False):
    """The fields of `Settings`, as keyword arguments."""

    rpm: float | None
    tpm: float | None
    burst: float
    latency: float
    latency_sigma: float
    seed: int
    announce: bool
    retry_after: bool
    max_in_flight: int | None
    overload_status: int
    charge_refused_requests: bool
    completion_tokens: int
    initial_level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the simulated server behaves. Durations are seconds; limits hold for each model by itself."""

    # Requests and tokens per minute; None: unlimited, and not announced.
    rpm: float | None = None
    tpm: float | None = None

    # Seconds of the limit that may arrive at once. Below 60 a second, hidden bucket of this size
    # stands beside the minute bucket whose numbers the headers show.
    burst: float = 60.0

    # Median of the lognormal time from arrival to the last byte, and its sigma. Refusals take no time.
    latency: float = 0.5
    latency_sigma: float = 0.2

    # Of latencies and faults.
    seed: int = 0

    # Whether responses carry x-ratelimit-* headers.
    announce: bool = True

    # Whether a 429 says when to come back, in headers and text.
    retry_after: bool = True

    # Above this many attempts in flight: a bare refusal with `overload_status`.
    max_in_flight: int | None = None
    overload_status: int = 429

    # Whether a 429 takes from the request bucket too, down to nothing.
    charge_refused_requests: bool = False

    # Tokens of each answer, unless the request asks for fewer.
    completion_tokens: int = 16

    # Share of each bucket that is full when a model is first used.
    initial_level: float = 1.0

    def __post_init__(self) -> None:
        if self.rpm is not None:
            _check_number("rpm", self.rpm, at_least=1.0)
        if self.tpm is not None:
            _check_number("tpm", self.tpm, at_least=1.0)
        _check_number("burst", self.burst, at_least=0.001, at_most=60.0)
        _check_number("latency", self.latency, at_least=0.0)
        _check_number("latency_sigma", self.latency_sigma, at_least=0.0)
        _check_number("initial_level", self.initial_level, at_least=0.0, at_most=1.0)
        _check_whole("seed", self.seed)
        _check_whole("completion_tokens", self.completion_tokens, at_least=1)
        _check_whole("overload_status", self.overload_status, at_least=400, at_most=599)
        if self.max_in_flight is not None:
            _check_whole("max_in_flight", self.max_in_flight, at_least=1)
        for name in ("announce", "retry_after", "charge_refused_requests"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")  # noqa: TRY004


def _check_number(name: str, value: object, *, at_least: float, at_most: float = math.inf) -> None:
    """Values also come from the command line and over HTTP, so the types are checked too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least:g}, got {value!r}")
    if value > at_most:
        raise ValueError(f"{name} must be at most {at_most:g}, got {value!r}")


def _check_whole(name: str, value: object, *, at_least: float = -math.inf, at_most: float = math.inf) -> None:
    if not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")  # noqa: TRY004
    _check_number(name, value, at_least=at_least, at_most=at_most)
