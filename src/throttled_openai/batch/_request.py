"""The request: one line of a batch file, checked, its body kept as the bytes that were written.

What belongs here is the format of OpenAI's batch lines and of bare bodies, and why a line is not one of them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# The endpoints of batch files, as they are below the base URL.
PATHS: Final = ("/chat/completions", "/responses", "/embeddings", "/completions", "/moderations")

# Bytes of one line. Larger ones are no requests that any server takes.
LONGEST: Final = 64 * 1024 * 1024

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_QUOTE: Final = re.compile('"')
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_COMMA: Final = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_NOT_JSON: Final = (ValueError, RecursionError)


class Request(NamedTuple):
    """`line`: its number in the input, from 1. `path`: below the base URL. `content`: `body` as JSON."""

    line: int
    custom_id: str
    path: str
    content: bytes
    body: dict[str, Any]


class BadLineError(ValueError):
    """A line that is no request. `code`: one word for it; the message tells the reason, and nothing of its text."""

    def __init__(self, code: str, reason: str, custom_id: str | None = None) -> None:
        super().__init__(reason)
        self.code, self.custom_id = code, custom_id


def read_request(raw: bytes, line: int, changes: Mapping[str, Any]) -> Request:
    """The request that a line of a batch file is. `changes`: fields of every body. Raises `BadLineError`."""
    text = text_of(raw)
    found, spans = _members(text)
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        reason = "is missing" if custom_id is None else f"must be a text, not {_kind(custom_id)}"
        raise BadLineError("invalid_custom_id", f"custom_id {reason}")
    try:
        method, url, body = found.get("method", "POST"), found.get("url"), found.get("body")
        _check_method(method)
        path = path_of(url)
        body = checked_body(body)
    except BadLineError as error:
        error.custom_id = custom_id
        raise
    if changes:
        body |= changes
        content = dumped(body)
    else:
        start, end = spans["body"]
        content = text[start:end].encode()
    return Request(line, custom_id, path, content, body)


def read_body(raw: bytes, line: int, path: str | None, changes: Mapping[str, Any]) -> Request:
    """The request that a line is which is a body. `path`: its endpoint; None: by its fields."""
    text = text_of(raw)
    try:
        body = _object(_DECODER.decode(text))
    except BadLineError:
        raise
    except _NOT_JSON as error:
        raise BadLineError("invalid_json", _why(error)) from None
    if changes:
        body |= changes
    checked_body(body)
    return Request(line, f"line-{line}", path or guessed_path(body), dumped(body) if changes else text.encode(), body)


def text_of(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError("invalid_utf8", f"is not UTF-8 at byte {error.start + 1}") from None
    return text.removeprefix("\ufeff").strip(" \t\r\n")


def is_batch_line(raw: bytes) -> bool | None:
    """Whether a line is one of OpenAI's batch format rather than a body; None where it is neither."""
    try:
        found, _ = _members(text_of(raw))
    except BadLineError:
        return None
    if isinstance(found.get("body"), dict) or "custom_id" in found:
        return True
    return False if {"model", "messages", "input", "prompt"} & found.keys() else None


def path_of(url: object) -> str:
    """The endpoint that a line names, such as `/v1/chat/completions`, below the base URL."""
    if not isinstance(url, str):
        raise BadLineError("invalid_url", "url is missing" if url is None else f"url must be a text, not {_kind(url)}")
    path = "/" + url.removeprefix("/").removeprefix("v1/").rstrip("/")
    if path not in PATHS:
        raise BadLineError("invalid_url", f"url must be one of {', '.join('/v1' + each for each in PATHS)}")
    return path


def _check_method(method: object) -> None:
    if not isinstance(method, str) or method.upper() != "POST":
        raise BadLineError("invalid_method", "method must be POST")


def checked_body(body: object) -> dict[str, Any]:
    """`body`, if it is one of a request."""
    if not isinstance(body, dict):
        raise BadLineError(
            "invalid_body", "body is missing" if body is None else f"body must be an object, not {_kind(body)}"
        )
    model = body.get("model")
    if not isinstance(model, str) or not model:
        reason = "is missing" if model is None else f"must be a text, not {_kind(model)}"
        raise BadLineError("invalid_model", f"the body's model {reason}")
    if body.get("stream"):
        raise BadLineError("invalid_body", "the body asks for a stream, which has no place in a file of results")
    return body


def guessed_path(body: Mapping[str, Any]) -> str:
    """The endpoint whose fields a body has."""
    if "messages" in body:
        return "/chat/completions"
    if "prompt" in body and "input" not in body:
        return "/completions"
    if "input" in body:
        model = body["model"].lower()
        if "embed" in model:
            return "/embeddings"
        return "/moderations" if "moderation" in model else "/responses"
    raise BadLineError("invalid_body", "the body has neither messages nor input nor prompt")


def dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _members(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The fields of an object, and where their values stand: a body is sent as it was written."""
    found: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    try:
        if text[:1] != "{":
            found = _object(_DECODER.decode(text))
        at = _SPACE.match(text, 1).end()  # type: ignore[union-attr]  # it always matches
        if text[at : at + 1] == "}" and not text[at + 1 :]:
            return found, spans
        while True:
            _found(_QUOTE, text, at, "a name in double quotes")
            key, at = _DECODER.raw_decode(text, at)
            start = _found(_COLON, text, at, "':'").end()
            found[key], at = _DECODER.raw_decode(text, start)
            spans[key] = start, at
            after = _found(_COMMA, text, at, "',' or '}'")
            at = after.end()
            if after[1] == "}":
                if at != len(text):
                    raise json.JSONDecodeError("Extra data", "", at)
                return found, spans
    except BadLineError:
        raise
    except _NOT_JSON as error:
        raise BadLineError("invalid_json", _why(error)) from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadLineError("invalid_json", f"is {_kind(value)}, not an object")
    return value


def _found(pattern: re.Pattern[str], text: str, at: int, what: str) -> re.Match[str]:
    match = pattern.match(text, at)
    if match is None:
        raise json.JSONDecodeError(f"Expecting {what}", "", at)
    return match


def _not_finite(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_not_finite)


def _why(error: BaseException) -> str:
    """Why it is no JSON, without a word of it."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "is not JSON that can be read: nested too deeply"
    said = str(error)
    return f"is not JSON: {said}" if said.endswith("is not JSON") else "is not JSON: a number is too long"


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
