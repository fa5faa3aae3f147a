"""The tokens that an attempt is charged, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._requests.metered import MeteredRequest
    from .._settings import Settings


@dataclass(frozen=True, slots=True)
class Charge:
    """Admission needs `needed` tokens to be left and takes `taken`.

    The end of the attempt takes `settled` more, or `settled_unanswered` if it ends without an answer;
    negative amounts are refunds. `total` is what the log shows.
    """

    needed: int
    taken: int
    settled: int
    settled_unanswered: int
    total: int


def charge_of(request: MeteredRequest, settings: Settings) -> Charge:
    if settings.charge == "estimate":
        return Charge(request.cost, request.cost, 0, 0, request.cost)
    completion = request.completion_tokens(settings.completion_tokens) * request.choices if request.generates else 0
    if settings.charge == "reserve":
        reserved = request.reserved_tokens
        total = request.cost + reserved
        refund, whole = (min(0, completion - reserved), -reserved) if settings.refund else (0, 0)
        return Charge(total, total, refund, whole, total)
    # Admission needs one token. The prompt is charged even if the answer fails: it has been read.
    total = request.prompt_tokens + completion
    return Charge(1, 0, total, request.prompt_tokens, total)
