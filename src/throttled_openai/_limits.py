"""Limits: what a provider allows, as the user writes it, and which model they apply to."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

# Seconds of the limit that may leave at once. OpenAI documents that a minute may be enforced in
# shares of a second (60,000/min as 1,000/s), so the default stays under one second: 0.15 s is for
# calls that reach the server closer together than they were admitted.
BURST: Final = 0.85
# A call this many times larger than a limit can never be admitted: estimates are within 30 %.
OVERSIZE: Final = 1.5


# gpt-4o-2024-08-06, gpt-4-0613, claude-sonnet-4-5-20250929, gpt-4o-latest
_SNAPSHOT: Final = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one model, or one group of models, may spend. `None` means: not known, learn it.

    `rpm`, `rpd`: requests per minute and per day. `tpm`, `tpd`: tokens per minute and per day.
    `burst`: seconds of the per-minute limits that may leave at once. Raise it towards 60 where the
    provider is known to take a whole minute's worth in one go; lower it for strict 1 s windows.
    `None` is 0.85 s, and a part of that until the server has accepted a first call.

    One `Limits` object is one shared budget: give the same object to several models to make them
    draw on the same one.
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
    """Raise unless `value` is a finite number above `least` (0: strictly) and at most `most`.

    A string or a boolean raises `TypeError`; a number out of range raises `ValueError`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {instead}; got {value!r}")
    # Compared, not converted: a whole number may be too large for a float.
    if not 0 < value < math.inf or value < least or value > min(most, sys.float_info.max):
        bounds = f"between {least:g} and {most:g}" if math.isfinite(most) else "positive and finite"
        raise ValueError(f"{name} must be {bounds}: write {instead}; got {value!r}")


def family_of(model: str) -> str:
    """The model a dated snapshot or a fine-tuned model draws its limits from.

    `gpt-4o-2024-08-06` -> `gpt-4o`; `ft:gpt-4o-mini-2024-07-18:org::id` -> `gpt-4o-mini`.
    """
    if model.startswith("ft:"):
        model = model.split(":")[1] or model
    return _SNAPSHOT.sub("", model) or model


class LimitsBook:
    """Which `Limits` a model has, and which models share them.

    Built from what the user passed: one `Limits` for everything together, a mapping from model
    names, or a default that each model has for itself.
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
        """`(key, name, limits)` of `model`'s budget. Equal keys are one budget.

        `endpoint`: where `model` is the name of a deployment of the user's own, which has limits at
        each endpoint and says nothing of a family.
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
        """Whether the model of that name has limits for itself, rather than ones written down for it."""
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
