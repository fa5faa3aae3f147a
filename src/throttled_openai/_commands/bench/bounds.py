"""The bounds of `--goodput`: how fast a call must be answered to count as good."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .call import TimedCall

_MS: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest durations of a good call, in milliseconds; None: any. Named as `vllm bench serve` names them."""

    ttft: float | None = None
    tpot: float | None = None
    e2el: float | None = None

    @classmethod
    def of(cls, words: Sequence[str]) -> Bounds:
        """From words such as `ttft:200`. Raises `ValueError` with what is wrong."""
        found: dict[str, float] = {}
        names = [field.name for field in fields(cls)]
        if not words:
            raise ValueError("give at least one, as ttft:200 in milliseconds")
        for word in words:
            name, _, text = word.partition(":")
            try:
                value = float(text)
            except ValueError:
                value = 0.0
            if name not in names or name in found or not 0 < value < float("inf"):
                raise ValueError(f"give {', '.join(names)} once each, as ttft:200 in milliseconds; got {word!r}")
            found[name] = value
        return cls(**found)

    def hold(self, call: TimedCall) -> bool:
        """True if the answered call is good.

        One token has no time per output token. An unstreamed answer has no first token: its latency counts instead.
        """
        values = (
            (self.ttft, call.latency if call.to_first_token is None else call.to_first_token),
            (self.tpot, call.per_output_token or 0.0),
            (self.e2el, call.latency),
        )
        return all(bound is None or (value is not None and _MS * value <= bound) for bound, value in values)

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}:{value:g}" for name, value in values if value is not None)
