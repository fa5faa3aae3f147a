"""The tail of a body: what it says of usage, or of a refusal, found without parsing all of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from .error_body import NOT_JSON
from .estimate import Usage, read_usage
from .refusals import read_stream_error

if TYPE_CHECKING:
    from .refusals import Refusal

# Bytes kept of what has passed: the object of a usage, with its details, is some 600.
KEPT: Final = 4096
# Places that are looked at: after a usage come its event's other fields, and at most a few events without one.
TRIES: Final = 64
_USAGE: Final = b'"usage"'
_DECODER: Final = json.JSONDecoder()


def last_usage(body: bytes) -> Usage | None:
    """The last usage in a JSON body, or in the events of a stream; None if there is none.

    Quotes in texts are escaped, so what people write can never look like one.
    """
    at = len(body)
    for _ in range(TRIES):
        at = body.rfind(_USAGE, 0, at)
        if at < 0:
            break
        after = body[at + len(_USAGE) : at + len(_USAGE) + KEPT].decode("utf-8", "replace").lstrip()
        if after[:1] != ":":
            continue
        try:
            found, _ = _DECODER.raw_decode(after[1:].lstrip())
        except NOT_JSON:  # or cut off
            continue
        usage = read_usage({"usage": found}) if isinstance(found, dict) else None
        if usage is not None:
            return usage
    return None


class Tail:
    """The end of what has passed of a stream's bytes. `usage` and `refusal`: what it told so far."""

    __slots__ = ("_kept", "refusal", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.refusal: Refusal | None = None
        self._kept = b""

    def add(self, chunk: bytes) -> None:
        body = self._kept + chunk
        self._kept = body[-KEPT:]
        if _USAGE in body:
            self.usage = last_usage(body) or self.usage
        if b'"error"' in chunk or b"response.failed" in chunk:
            self.refusal = _refusal_in(body) or self.refusal


def _refusal_in(body: bytes) -> Refusal | None:
    """The refusal that the last complete event tells of, if one does: status 200 had been sent by then."""
    for line in reversed(body.splitlines()):
        if line.startswith(b"data:"):
            try:
                event = json.loads(line[5:])
            except NOT_JSON:
                continue
            return read_stream_error(event)
    return None
