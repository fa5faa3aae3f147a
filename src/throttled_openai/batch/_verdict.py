"""The verdict: whether a failure is one request's own, or everybody's, for which a run stops.

Ten thousand lines are not to fail one after another for a wrong key, an unpaid bill or a server that is gone: their
failures are held back, and if nothing else comes, the run ends and the lines stay undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai._clients.raw import is_unreachable
from throttled_openai._protocol.refusals import read_refusal
from throttled_openai.errors import AccountBlocked, AccountPaused, AdmissionTimeout

if TYPE_CHECKING:
    from throttled_openai._clients.raw import Answer

    from ._result import BatchResult

# Failures without any answer that is the request's own, after which the run ends.
ENOUGH: Final = 10
_STATUSES: Final = {
    401: "the server does not accept the API key (status 401)",
    402: "the account has to be paid for first (status 402)",
    407: "a proxy asks for credentials (status 407)",
    429: "the server refuses every request (status 429)",
    503: "the server is overloaded and answers none (status 503)",
}


class StopRunError(Exception):
    """The run is to end; the message says why. The request at hand stays undone."""


class Verdict:
    """`keep_going`: never stop, every failure is its line's."""

    def __init__(self, *, keep_going: bool = False) -> None:
        self._keep_going = keep_going
        self._held: list[tuple[BatchResult, str]] = []

    def about(self, answer: Answer | None, error: Exception | None) -> str | None:
        """Why every request would meet the same; None where it is about this one. Raises `StopRunError`."""
        if self._keep_going:
            return None
        if isinstance(error, AccountBlocked) and not isinstance(error, AccountPaused):
            raise StopRunError(_unpaid(error.code))
        if isinstance(error, AccountBlocked | AdmissionTimeout):
            raise StopRunError(said(error))
        if error is not None and is_unreachable(error.__cause__):
            return "the server cannot be reached"
        if answer is None:
            return None
        if answer.status in {402, 429}:
            refusal = read_refusal(answer.status, answer.headers, answer.data or answer.content, wall_now=0.0)
            if refusal is not None and refusal.kind == "billing":
                return _unpaid(refusal.code)
            if refusal is not None and refusal.kind == "too_large":
                return None
        return _STATUSES.get(answer.status)

    def hold(self, result: BatchResult, why: str) -> None:
        """Keep back a failure that may be everybody's. Raises `StopRunError` where there are too many."""
        self._held.append((result, why))
        if len(self._held) >= ENOUGH:
            raise StopRunError(f"{why}: {len(self._held)} requests in a row failed")

    def served(self) -> list[BatchResult]:
        """Some request got an answer of its own: the failures that were held are their lines'."""
        held, self._held = self._held, []
        return [result for result, _ in held]

    def end(self) -> str | None:
        """Why requests that are held stay undone at the end; None where none are."""
        return self._held[-1][1] if self._held else None


def said(error: Exception) -> str:
    """An error of ours or the SDK's in one line."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def _unpaid(code: str | None) -> str:
    return "the account has to be paid for first" + (f" ({code})" if code else "")
