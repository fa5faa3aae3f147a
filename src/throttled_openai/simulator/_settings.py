"""The settings of the simulated server: its limits, its speed, and what it says to clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, get_args

ChargeKind = Literal["estimate", "reserve", "usage"]
DialectName = Literal["openai", "azure", "groq", "mistral", "cerebras", "anthropic", "openrouter", "gemini", "ietf"]


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings`, as keyword arguments."""

    rpm: float | None
    tpm: float | None
    rpd: float | None
    tpd: float | None
    shared_limit: str | None
    burst: float
    show_burst: bool
    fixed_window: float | None
    latency: float
    latency_sigma: float
    network: float
    network_sigma: float
    slots: int | None
    slowdown: float
    seed: int
    announce: bool
    retry_after: bool
    explain_refusals: bool
    dialect: DialectName
    max_in_flight: int | None
    overload_status: int
    overload_code: str | None
    overload_wait: float | None
    slow_down_above: float | None
    charge: ChargeKind
    refund: bool
    charge_refused_requests: bool
    neighbour_rpm: float
    neighbour_tpm: float
    completion_tokens: int
    initial_level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the simulated server behaves. Durations are seconds; limits hold for each model by itself."""

    # Requests and tokens per minute; None: unlimited, and not announced.
    rpm: float | None = None
    tpm: float | None = None

    # Requests and tokens per day. Where there are requests per day, the headers show them instead of
    # those per minute; tokens per day show only in refusals.
    rpd: float | None = None
    tpd: float | None = None

    # All models whose names start with this share one set of limits, which has this name.
    shared_limit: str | None = None

    # The burst that a limit allows, in seconds of its rate. Below 60, a hidden bucket of this size is
    # enforced beside the minute bucket that the headers show.
    burst: float = 60.0

    # Whether that bucket is the one that the headers show, in place of a minute's.
    show_burst: bool = False

    # Count the limits in fixed windows of this many seconds; unused units expire with their window.
    # 60: the headers show this window. Shorter: a hidden window is enforced beside the minute bucket.
    fixed_window: float | None = None

    # Median of the lognormal time from arrival to the last byte, and its sigma. Refusals take no time.
    latency: float = 0.5
    latency_sigma: float = 0.2

    # Median of the lognormal one-way network time, and its sigma, for each request, whole answer and
    # head of a stream. Attempts may overtake each other. In memory only: over TCP the network is real.
    network: float = 0.0
    network_sigma: float = 0.5

    # Attempts that run at the same time; the others queue without limit. An attempt's latency is
    # multiplied by 1 + `slowdown` x (attempts running as it starts) / `slots`.
    slots: int | None = None
    slowdown: float = 0.0

    # Seed of the latencies, network times and faults.
    seed: int = 0

    # Whether responses carry x-ratelimit-* headers.
    announce: bool = True

    # Whether a 429 says when to retry, in headers and text.
    retry_after: bool = True

    # Whether a 429 names the limit and its numbers.
    explain_refusals: bool = True

    # The provider whose headers and error bodies are imitated.
    dialect: DialectName = "openai"

    # Attempts beyond this number in flight are refused with `overload_status`. The refusal carries
    # `overload_code`, such as `slow_down`, and names a wait of `overload_wait` seconds, where these are set.
    max_in_flight: int | None = None
    overload_status: int = 429
    overload_code: str | None = None
    overload_wait: float | None = None

    # A model's request rate (over ten seconds) above both this rate per second and 1.5 times its mean
    # of the last 15 minutes is refused with "503 Slow Down". Refused requests count in both rates.
    slow_down_above: float | None = None

    # How tokens are charged. `estimate`: the prompt's estimate, on arrival. `reserve`: also the
    # answer's token limit, or 16 if it has none. `usage`: prompt and answer, once the answer is
    # complete; admission then needs one token, and the bucket may go into debt.
    charge: ChargeKind = "estimate"

    # Whether the unused part of a reserve is refunded when the attempt ends.
    refund: bool = False

    # Whether a refused attempt is charged one request too, as far as any are left.
    charge_refused_requests: bool = False

    # What the account's other clients steadily take from each model's limits per minute, as far as
    # they allow, from the model's first use on. They leave half of a limit's capacity and, once that
    # half is drawn on, half of its refill.
    neighbour_rpm: float = 0.0
    neighbour_tpm: float = 0.0

    # Tokens of each answer, unless the request asks for fewer.
    completion_tokens: int = 16

    # Share of each bucket that is full when a model is first used.
    initial_level: float = 1.0

    def __post_init__(self) -> None:
        for name, at_least, at_most in _NUMBERS:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                _check_number(name, value, at_least=at_least, at_most=at_most)
        for name, at_least, at_most in _WHOLE:
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                _check_whole(name, value, at_least=at_least, at_most=at_most)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")  # noqa: TRY004
        for name, known in (("charge", get_args(ChargeKind)), ("dialect", get_args(DialectName))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        _check_word("shared_limit", self.shared_limit, "the start of a model's name")
        _check_word("overload_code", self.overload_code, "a word")


# Name, minimum, maximum.
_NUMBERS: Final = (
    ("rpm", 1.0, math.inf),
    ("tpm", 1.0, math.inf),
    ("rpd", 1.0, math.inf),
    ("tpd", 1.0, math.inf),
    ("burst", 0.001, 60.0),
    ("fixed_window", 0.001, 60.0),
    ("latency", 0.0, math.inf),
    ("latency_sigma", 0.0, 10.0),
    ("network", 0.0, math.inf),
    ("network_sigma", 0.0, 10.0),
    ("slowdown", 0.0, math.inf),
    ("slow_down_above", 0.0, math.inf),
    ("overload_wait", 0.0, math.inf),
    ("neighbour_rpm", 0.0, math.inf),
    ("neighbour_tpm", 0.0, math.inf),
    ("initial_level", 0.0, 1.0),
)
_WHOLE: Final = (
    ("seed", -math.inf, math.inf),
    ("completion_tokens", 1, 1_000_000),
    ("overload_status", 400, 599),
    ("max_in_flight", 1, math.inf),
    ("slots", 1, math.inf),
)
_SWITCHES: Final = ("show_burst", "announce", "retry_after", "explain_refusals", "refund", "charge_refused_requests")

# Larger numbers are mistakes, and their sums could become infinite.
_HUGE: Final = 1e15

# Settings that may be None, which means unlimited; of `overload_wait`, that no wait is named.
_OPTIONAL: Final = {
    "rpm",
    "tpm",
    "rpd",
    "tpd",
    "fixed_window",
    "slow_down_above",
    "overload_wait",
    "max_in_flight",
    "slots",
}


def _check_number(name: str, value: object, *, at_least: float, at_most: float = math.inf) -> None:
    """Values also come from the command line and over HTTP, so the types are checked too."""
    # `math.isfinite` fails for an integer too large to be a float, so compare instead.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_HUGE <= value <= _HUGE:
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least:,}, got {value!r}")
    if value > at_most:
        raise ValueError(f"{name} must be at most {at_most:,}, got {value!r}")


def _check_whole(name: str, value: object, *, at_least: float = -math.inf, at_most: float = math.inf) -> None:
    if not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")  # noqa: TRY004
    _check_number(name, value, at_least=at_least, at_most=at_most)


def _check_word(name: str, value: object, what: str) -> None:
    if value is not None and not (value and isinstance(value, str)):
        raise ValueError(f"{name} must be {what}, got {value!r}")
