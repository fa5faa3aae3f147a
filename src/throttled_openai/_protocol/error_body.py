"""Error bodies, of whatever shape -> what they say.

What a server sends is material, not truth: nothing here raises. Numbers in brackets are sections
of the project's reference on how providers count, announce and refuse.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

# The ways in which JSON fails. A number of 5,000 digits is a ValueError, 100,000 brackets are a RecursionError.
NOT_JSON: Final = (ValueError, RecursionError)

# Longer texts are not error messages but pages, or attacks.
LONGEST_BODY: Final = 65_536
_LONGEST_MESSAGE: Final = 4_096
_LONGEST_NAME: Final = 256
_LONGEST_CODE: Final = 64

# Where an error's code, type and status stand; Together and TGI have `error_type`.
_CODES: Final = ("code", "type", "status", "error_type")
_CODE: Final = re.compile(r"[\w.:-]+", re.ASCII)
# Cloudflare's whole answer to a blocked client, as text: "error code: 1015".
_CODE_IN_TEXT: Final = re.compile(r"\s*error code: (\d{3,5})\b", re.ASCII | re.IGNORECASE)

# Fields that hold a wait, without their underscores and in lower case: ChatGPT's `resets_in_seconds` and
# `resets_at`, `retry_after`, `retryAfterMs`, Google's `retryDelay`, Hugging Face's `estimated_time` to load.
_IN_SECONDS: Final = frozenset(
    {
        "estimatedtime",
        "resetinseconds",
        "resetsinseconds",
        "retryafter",
        "retryafterseconds",
        "retrydelay",
        "retryinseconds",
    }
)
_IN_MILLISECONDS: Final = frozenset({"retryafterms", "retryaftermilliseconds", "retrydelayms"})
_AT: Final = frozenset({"resetat", "resetsat", "retryat"})


@dataclass(frozen=True, slots=True, repr=False)
class ErrorBody:
    """What an error body says, at whatever depth it says it. Lives as long as the body is read."""

    message: str  # empty for an HTML page: that is a gateway's, no error message
    codes: frozenset[str]  # every code, type and status, in lower case
    code: str | None  # the innermost of them, as it was written: a word of at most 64 characters
    quotas: tuple[tuple[str, str], ...]  # the exhausted ones and their values (Google)
    delays: tuple[object, ...]  # waits: numbers are seconds or instants, texts are durations or dates
    limits: Mapping[str, str]  # headers that stand in the body (OpenRouter), by lower-case name
    relayed: bool  # a gateway (OpenRouter) quotes the error of one of its providers


def parse_error_body(body: object) -> ErrorBody:
    """Collect from the outside in, whatever the nesting.

    `[{"error": {…}}]` (Gemini), `{"response": {"error": {…}}}` (a stream's event),
    `{"error": "…"}` (Ollama), `{"error": {"metadata": {"raw": "{…}"}}}`
    (OpenRouter), `{"message": …}` (Mistral), `{"errors": [{…}]}` (Cloudflare), text.
    """
    level = parse_json(body)
    message = ""
    code = None
    codes: set[str] = set()
    details: list[Mapping[str, object]] = []
    delays: list[object] = []
    instants: list[object] = []
    limits: dict[str, str] = {}
    relayed = False
    for _ in range(6):
        if isinstance(level, list):  # Gemini
            level = level[0] if level else None
        if isinstance(level, str):
            message = level
        if not isinstance(level, Mapping):
            break
        named = [str(level[key])[:_LONGEST_CODE] for key in _CODES if _is_code(level.get(key))]
        codes.update(name.lower() for name in named)
        code = _best(named) or code
        text = level.get("message")
        message = text if isinstance(text, str) else message
        listed = level.get("details")
        below = [detail for detail in listed[:16] if isinstance(detail, Mapping)] if isinstance(listed, list) else []
        details += below
        inner = [level.get(key) for key in ("error", "response", "detail", "errors")]
        metadata = level.get("metadata")
        if isinstance(metadata, Mapping):  # OpenRouter's; `raw` is what its provider said
            limits |= _headers_in(metadata)
            below.append(metadata)
            raw = parse_json(metadata.get("raw"))
            relayed = relayed or raw is not None
            inner.append(raw)
        for fields in (level, *below):
            for told, instant in _waits_in(fields):
                (instants if instant else delays).append(told)
        level = next((value for value in inner if value is not None), None)
    in_text = _CODE_IN_TEXT.match(message)
    return ErrorBody(
        message="" if message.lstrip()[:1] == "<" else message[:_LONGEST_MESSAGE],
        codes=frozenset(codes),
        code=code or (None if in_text is None else in_text[1]),
        quotas=tuple(_quotas_in(details)),
        delays=(*delays, *instants),
        limits=limits,
        relayed=relayed,
    )


def _is_code(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000)


def _best(named: list[str]) -> str | None:
    """Of a code, a type and a status the first that is a word, else the first number; never a sentence."""
    words = [name for name in named if _CODE.fullmatch(name)]
    return next((word for word in words if not word.isdigit()), words[0] if words else None)


def _quotas_in(details: list[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Names and values of Google's exhausted quotas: of its QuotaFailure, and before 2025 of its ErrorInfo."""
    for detail in details:
        violations = detail.get("violations")
        for violation in violations[:16] if isinstance(violations, list) else []:
            if isinstance(violation, Mapping):
                yield _text(violation.get("quotaId")), _text(violation.get("quotaValue"))
        metadata = detail.get("metadata")
        if isinstance(metadata, Mapping) and "quota_limit" in metadata:
            yield _text(metadata["quota_limit"]), _text(metadata.get("quota_limit_value"))


def _waits_in(fields: Mapping[str, object]) -> Iterator[tuple[object, bool]]:
    """Waits that stand in fields of their own, each with whether it is an instant."""
    for name, value in list(fields.items())[:32]:
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (int, float, str)):
            continue
        field = name[:_LONGEST_CODE].replace("_", "").replace("-", "").lower()
        if field in _IN_SECONDS:
            yield value, False
        elif field in _IN_MILLISECONDS:
            yield f"{_text(value) if isinstance(value, (int, str)) else value}ms", False
        elif field in _AT and (isinstance(value, str) or value >= 1e9):
            yield value, True


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
        except NOT_JSON:
            pass
    return body
