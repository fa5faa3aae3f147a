"""What an attempt costs in tokens, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ._request import Call
    from ._settings import Settings

ChargeKind = Literal["estimate", "reserve", "usage"]


@dataclass(frozen=True, slots=True)
class Charge:
    """`needed` tokens have to be there at admission, `taken` are taken then.

    `settled` are taken when the attempt ends, negative: given back; `settled_unanswered` where it
    ends without an answer. `total` is what the log tells.
    """

    needed: int
    taken: int
    settled: int
    settled_unanswered: int
    total: int


def charge_of(call: Call, settings: Settings) -> Charge:
    if settings.charge == "estimate":
        return Charge(call.cost, call.cost, 0, 0, call.cost)
    completion = call.completion_tokens(settings.completion_tokens) * call.choices if call.generates else 0
    if settings.charge == "reserve":
        reserved = call.reserved_tokens
        total = call.cost + reserved
        refund, whole = (min(0, completion - reserved), -reserved) if settings.refund else (0, 0)
        return Charge(total, total, refund, whole, total)
    # One token has to be left. The prompt has been read, whatever became of the answer.
    total = call.prompt_tokens + completion
    return Charge(1, 0, total, call.prompt_tokens, total)
