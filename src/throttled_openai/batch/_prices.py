"""The prices of tokens by model, from a file of the user. There are no built-in prices, as they would soon be wrong.

[gpt-4o-mini]
input = 0.15
output = 0.60
cached = 0.075
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._limits import family_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from throttled_openai._protocol.usage import Usage

_MILLION: Final = 1e6


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of a million tokens. `cached`: the price of input read from a cache."""

    input: float
    output: float = 0.0
    cached: float | None = None

    def of(self, usage: Usage) -> float:
        cached = self.input if self.cached is None else self.cached
        fresh = usage.input - usage.cached
        return (fresh * self.input + usage.cached * cached + usage.output * self.output) / _MILLION


class Prices:
    """The price of each model. A dated snapshot has the price of its family unless it has its own."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

    @classmethod
    def read(cls, path: str) -> Prices:
        """Read a TOML file. Raises `ValueError` if it is not a valid file of prices, and `OSError`."""
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not TOML: {error}") from None
        return cls({model: _price(path, model, table) for model, table in tables.items()})

    def of(self, model: str) -> Price | None:
        return self._prices.get(model) or self._prices.get(family_of(model))


def _price(path: str, model: str, table: Any) -> Price:
    given = table if isinstance(table, dict) else {}
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) and each >= 0 for each in given.values())
    if "input" not in given or not given.keys() <= {"input", "output", "cached"} or not numbers:
        raise ValueError(
            f"{path}: [{model}] needs input = the price of a million tokens, and may have output = and cached ="
        )
    return Price(**given)
