"""Error bodies, of whatever shape -> what they say.

What a server sends is material, not truth: nothing here raises. Numbers in brackets are sections
of the project's reference on how providers count, announce and refuse.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# Longer texts are not error messages but pages, or attacks.
LONGEST_BODY: Final = 65_536
_LONGEST_MESSAGE: Final = 4_096
_LONGEST_NAME: Final = 256

# Where an error's code, type and status stand; Together and TGI have `error_type`.
_CODES: Final = ("code", "type", "status", "error_type")


@dataclass(frozen=True, slots=True, repr=False)
class Said:
    """What an error body says, at whatever depth it says it. Lives as long as the body is read."""

    message: str
    codes: frozenset[str]  # every code, type and status, in lower case
    quotas: tuple[tuple[str, str], ...]  # the exhausted ones and their values (Google)
    delays: tuple[object, ...]  # Google's RetryInfo
    limits: Mapping[str, str]  # headers that stand in the body (OpenRouter), by lower-case name


def read_body(body: object) -> Said:
    """Collect from the outside in, whatever the nesting.

    `[{"error": {…}}]` (Gemini), `{"response": {"error": {…}}}` (a stream's event),
    `{"error": "…"}` (Ollama), `{"error": {"metadata": {"raw": "{…}"}}}`
    (OpenRouter), `{"message": …}` (Mistral), text.
    """
    level = parse_json(body)
    message = ""
    codes: set[str] = set()
    details: list[Mapping[str, object]] = []
    limits: dict[str, str] = {}
    for _ in range(6):
        if isinstance(level, list):  # Gemini
            level = level[0] if level else None
        if isinstance(level, str):
            message = level
        if not isinstance(level, Mapping):
            break
        codes.update(str(level[key])[:64].lower() for key in _CODES if _is_code(level.get(key)))
        text = level.get("message")
        message = text if isinstance(text, str) else message
        listed = level.get("details")
        if isinstance(listed, list):
            details += [detail for detail in listed[:16] if isinstance(detail, Mapping)]
        inner = [level.get(key) for key in ("error", "response", "detail")]
        metadata = level.get("metadata")
        if isinstance(metadata, Mapping):  # OpenRouter's; `raw` is what its provider said
            limits |= _headers_in(metadata)
            inner.append(parse_json(metadata.get("raw")))
        level = next((value for value in inner if value is not None), None)
    quotas = tuple(
        (_text(violation.get("quotaId")), _text(violation.get("quotaValue")))
        for detail in details
        if isinstance(violations := detail.get("violations"), list)
        for violation in violations[:16]
        if isinstance(violation, Mapping)
    )
    delays = tuple(detail.get("retryDelay") for detail in details)
    return Said(message[:_LONGEST_MESSAGE], frozenset(codes), quotas, delays, limits)


def _is_code(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and 0 <= value < 1000)


def _headers_in(metadata: Mapping[str, object]) -> dict[str, str]:
    """`{"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Reset": "1791331200000"}}` (3)."""
    headers = metadata.get("headers")
    if not isinstance(headers, Mapping):
        return {}
    return {name.lower(): _text(value) for name, value in list(headers.items())[:32] if isinstance(name, str)}


def _text(value: object) -> str:
    if isinstance(value, int) and abs(value) < 1 << 63:  # str() of a very long one raises
        return str(value)
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""


def parse_json(body: object) -> object:
    """Bytes or text as what it says in JSON, if it does; anything else as it is."""
    if isinstance(body, (bytes, bytearray)):
        body = bytes(body[:LONGEST_BODY]).decode("utf-8", "replace")
    if isinstance(body, str) and len(body) <= LONGEST_BODY and body.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
    return body
