"""The verdict: whether a failure concerns one request, or every request, so that the run should stop.

Ten thousand lines must not fail one after the other for a wrong key, an unpaid bill or a dead server. Such failures
are held back. If no request gets an answer of its own, the run stops and these lines count as not done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from throttled_openai._clients.raw import is_unreachable
from throttled_openai._protocol.refusals import read_refusal
from throttled_openai.errors import AccountBlocked, AccountPaused, AdmissionTimeout

if TYPE_CHECKING:
    from throttled_openai._clients.raw import Answer

    from ._result import BatchResult

# Failures held back, without any other answer in between, after which the run stops.
ENOUGH: Final = 10
_STATUSES: Final = {
    401: "the server does not accept the API key (status 401)",
    402: "the account has to be paid for first (status 402)",
    407: "a proxy asks for credentials (status 407)",
    429: "the server refuses every request (status 429)",
    503: "the server is overloaded and answers none (status 503)",
}


class StopRunError(Exception):
    """The run must stop, for the reason in the message. The current request counts as not done."""


class Verdict:
    """Judges failures. `keep_going`: never stop; every failure concerns one request."""

    def __init__(self, *, keep_going: bool = False) -> None:
        self._keep_going = keep_going
        self._held: list[tuple[BatchResult, str]] = []

    def about(self, answer: Answer | None, error: Exception | None) -> str | None:
        """Why every request may fail like this one; None if the failure concerns one request. Raises `StopRunError`."""
        if self._keep_going:
            return None
        if isinstance(error, AccountBlocked) and not isinstance(error, AccountPaused):
            raise StopRunError(_unpaid(error.code))
        if isinstance(error, AccountBlocked | AdmissionTimeout):
            raise StopRunError(message_of(error))
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
        """Hold back a failure that may concern every request. Raises `StopRunError` if there are too many."""
        self._held.append((result, why))
        if len(self._held) >= ENOUGH:
            raise StopRunError(f"{why}: {len(self._held)} requests in a row failed")

    def served(self) -> list[BatchResult]:
        """Return the failures held back, because a request got an answer of its own: they concern single requests."""
        held, self._held = self._held, []
        return [result for result, _ in held]

    def end(self) -> str | None:
        """Why requests are still held back at the end of the run; None if none are."""
        return self._held[-1][1] if self._held else None


def message_of(error: Exception) -> str:
    """The message of an error of ours or of the SDK, in one line."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def _unpaid(code: str | None) -> str:
    return "the account has to be paid for first" + (f" ({code})" if code else "")
