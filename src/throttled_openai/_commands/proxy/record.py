"""The record of one call, and the line that the log has of it: no prompt, no key, no query."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from throttled_openai._protocol.account import account_at, credentials_in

if TYPE_CHECKING:
    from throttled_openai._clients.http_client import Reading
    from throttled_openai._protocol.account import Account

# The status that nginx logs for a client that is gone.
HUNG_UP: Final = 499
_UNFIT: Final = re.compile(r"[^!-~]+")
_LONGEST: Final = 120


class Record:
    """One call, from its arrival. Instants are seconds on the event loop's clock.

    `phase`: what the call is in: its upload, its wait, its flight to the server, or the stream of its answer.
    """

    def __init__(self, method: str, path: bytes, arrived_at: float) -> None:
        self.method = method
        self.path = path
        self.arrived_at = arrived_at
        self.request: Any = None  # the one for the upstream server
        self.model = ""
        self.status = 0
        self.code = ""  # of an answer of ours, or of how the call ended early
        self.sent_at: float | None = None  # the latest attempt
        self.attempts = 0
        self.reading: Reading | None = None
        self.phase = "its-upload"

    def line(self, now: float) -> str:
        """Like `200 POST /v1/chat/completions gpt-4o key=3f2a91c0 waited=0.8s took=2.1s tokens=345`."""
        sent_at = now if self.sent_at is None else self.sent_at
        words = [str(self.status), _fit(self.method), _fit(self.path.decode("ascii", "backslashreplace"))]
        if self.model:
            words.append(_fit(self.model))
        words += [f"key={self._key}", f"waited={sent_at - self.arrived_at:.1f}s"]
        if self.sent_at is not None:
            words.append(f"took={now - sent_at:.1f}s")
        usage = None if self.reading is None else self.reading.usage
        if usage is not None:
            words.append(f"tokens={usage.input + usage.output}")
        if self.attempts > 1:
            words.append(f"refusals={self.attempts - 1}")
        if self.code:
            words.append(self.code)
        return " ".join(words)

    @property
    def _key(self) -> str:
        if self.request is None:
            return "none"
        return label_of(account_at(self.request.url, credentials_in(self.request.headers)))


def label_of(account: Account) -> str:
    """A name for the caller's key: a part of a digest that differs with each start of the proxy."""
    owner = account.owner[0] if account.owner else None
    return owner.hex()[:8] if isinstance(owner, bytes) else "none"


def _fit(word: str) -> str:
    return _UNFIT.sub("?", word)[:_LONGEST]
