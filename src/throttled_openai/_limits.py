"""Limits: what the user configures, and for which models."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from ._numbers import number

# Seconds of the limit that may leave at once. OpenAI documents that it may enforce a limit per minute second by second
# (60,000/min as 1,000/s), so the default stays under one second. The remaining 0.15 s allow for calls that reach the
# server closer together than they were admitted.
BURST: Final = 0.85
# Seconds of the limit at which the burst stops growing: a whole minute. Then the pacer holds nothing back any more.
WHOLE_BURST: Final = 60.0
# Share of itself by which the burst grows in each second in which it holds calls back: 17 s from the first second to a
# whole minute. Where the server enforces a shorter window than it announces, it refuses what is sent beyond that within
# one round trip: with a burst of one second, 25 % of the rate x the round trip.
GROWTH: Final = 0.25
# A call estimated at this many times a limit can never be admitted, because estimates are within 30 %.
OVERSIZE: Final = 1.5


# gpt-4o-2024-08-06, gpt-4-0613, claude-sonnet-4-5-20250929, gpt-4o-latest
_SNAPSHOT: Final = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of one model, or of one group of models. `None` means that a limit is unknown and will be learnt.

    `rpm`, `rpd`: requests per minute and per day. `tpm`, `tpd`: tokens per minute and per day.
    `burst`: seconds of the per-minute limits that may leave at once. Raise it towards 60 for a provider that accepts
    a whole minute's worth at once; lower it for strict windows of 1 s. `None` means 0.85 s, of which a part is used
    until the server has accepted a first call.

    One `Limits` object is one budget: models that are given the same object share it.
    """

    rpm: float | None = None
    tpm: float | None = None
    rpd: float | None = None
    tpd: float | None = None
    burst: float | None = None

    def __post_init__(self) -> None:
        for name in ("rpm", "tpm", "rpd", "tpd"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, "a positive number such as 500, or None to learn the limit")
        if self.burst is not None:
            check_number("burst", self.burst, "seconds of the limit, such as 0.85", most=60.0)


def check_number(name: str, value: object, instead: str, *, least: float = 0.0, most: float = math.inf) -> None:
    """Raise unless `value` is a positive finite number between `least` and `most`.

    A string or a boolean raises `TypeError`; a number out of range raises `ValueError`. `instead` tells the user
    what to write.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {instead}; got {value!r}")
    # Compared rather than converted, because an integer may be too large for a float.
    if not 0 < value < math.inf or value < least or value > min(most, sys.float_info.max):
        bounds = f"between {number(least)} and {number(most)}" if math.isfinite(most) else "positive and finite"
        raise ValueError(f"{name} must be {bounds}: write {instead}; got {value!r}")


def family_of(model: str) -> str:
    """The model whose limits a dated snapshot or a fine-tuned model shares.

    `gpt-4o-2024-08-06` -> `gpt-4o`; `ft:gpt-4o-mini-2024-07-18:org::id` -> `gpt-4o-mini`.
    """
    if model.startswith("ft:"):
        model = model.split(":")[1] or model
    return _SNAPSHOT.sub("", model) or model


class LimitsBook:
    """The `Limits` of each model, and which models share them.

    `limits`: one `Limits` that all models share, or a mapping from model names. `each_model`: the limits that every
    other model has for itself.
    """

    def __init__(
        self,
        limits: Limits | Mapping[str, Limits] | None = None,
        *,
        each_model: Limits | None = None,
    ) -> None:
        if isinstance(limits, Mapping):
            limits = dict(limits)
            for name, value in limits.items():
                _check_entry(name, value)
        elif limits is not None and not isinstance(limits, Limits):
            raise TypeError(
                "limits must be Limits(rpm=..., tpm=...) or a mapping such as "
                f'{{"gpt-4o": Limits(rpm=500, tpm=30_000)}}; got {type(limits).__name__}'
            )
        self._limits = limits
        self._each_model = each_model

    def find(self, model: str, endpoint: str = "") -> tuple[object, str, Limits | None]:
        """`(key, name, limits)` of `model`'s budget. Equal keys mean the same budget.

        `endpoint`: set where `model` is the name of a deployment (Azure). Each endpoint then has its own limits, and
        the name tells nothing about a model family.
        """
        family = f"{endpoint}/{model}" if endpoint else family_of(model)
        if isinstance(self._limits, Limits):
            return id(self._limits), "all models", self._limits
        if self._limits is not None:
            limits = self._limits.get(family) if endpoint else None
            limits = limits or self._limits.get(model) or self._limits.get(family)
            if limits is not None:
                names = [name for name, other in self._limits.items() if other is limits]
                return id(limits), ", ".join(names), limits
        return family, family, self._each_model

    def is_each(self, name: str) -> bool:
        """Whether the model `name` has a budget of its own, rather than limits that the user gave by name."""
        return self.find(name)[0] == name


def _check_entry(name: object, value: object) -> None:
    if not isinstance(name, str) or not name:
        raise TypeError(f"limits must map model names to Limits; got the key {name!r}")
    if isinstance(value, Limits):
        return
    known = ", ".join(field.name for field in fields(Limits))
    hint = ""
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key not in {field.name for field in fields(Limits)}]
        if unknown:
            hint = f"; unknown: {', '.join(unknown)} (known: {known})"
    raise TypeError(f"limits[{name!r}] must be Limits(rpm=..., tpm=...), got {type(value).__name__}{hint}")
