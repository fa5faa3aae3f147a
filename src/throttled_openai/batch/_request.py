"""A request: one line of an input, checked; its body is sent as the very bytes of the line.

Two formats are read: the lines of OpenAI's batch files, and request bodies alone.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# The endpoints of batch files, relative to the base URL.
PATHS: Final = ("/chat/completions", "/responses", "/embeddings", "/completions", "/moderations")

# Bytes. No server accepts a longer request.
LONGEST: Final = 64 * 1024 * 1024

_BODY: Final = '"body"'
# One of its letters as an escape sequence, which is valid and hardly ever written.
_ESCAPED: Final = re.compile(r"\\u00(?:62|6[fF]|64|79)")
_SPACES: Final = " \t\r\n"
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NOT_JSON: Final = (ValueError, RecursionError)


class Request(NamedTuple):
    """One request. `line`: its number in the input. `path`: relative to the base URL. `content`: `body` as JSON."""

    line: int
    custom_id: str
    path: str
    content: bytes
    body: dict[str, Any]


class BadLineError(ValueError):
    """An invalid line. `code`: the reason in one word. The message gives the reason without quoting the line."""

    def __init__(self, code: str, reason: str, custom_id: str | None = None) -> None:
        super().__init__(reason)
        self.code, self.custom_id = code, custom_id


def read_request(raw: bytes, line: int, changes: Mapping[str, Any]) -> Request:
    """Read a line of a batch file. `changes`: fields set in every body. Raises `BadLineError`."""
    text = text_of(raw)
    found, start, end = _with_body(text)
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
        content = text[start:end].encode()
    return Request(line, custom_id, path, content, body)


def read_body(raw: bytes, line: int, path: str | None, changes: Mapping[str, Any]) -> Request:
    """Read a line that is a request body. `path`: its endpoint; None: found from its fields. Raises `BadLineError`."""
    text = text_of(raw)
    body = _decoded(text)
    if changes:
        body |= changes
    checked_body(body)
    return Request(line, f"line-{line}", path or guessed_path(body), dumped(body) if changes else text.encode(), body)


def text_of(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError("invalid_utf8", f"is not UTF-8 at byte {error.start + 1}") from None
    return text.removeprefix("\ufeff").strip(_SPACES)


def is_batch_line(raw: bytes) -> bool | None:
    """True for a line in OpenAI's batch format, False for a request body, None for anything else."""
    try:
        found, _, _ = _with_body(text_of(raw))
    except BadLineError:
        return None
    if isinstance(found.get("body"), dict) or "custom_id" in found:
        return True
    return False if {"model", "messages", "input", "prompt"} & found.keys() else None


def path_of(url: object) -> str:
    """The endpoint in the `url` of a line, relative to the base URL: `/v1/responses` -> `/responses`."""
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
    """`body`, if it is a valid request body; else raises `BadLineError`."""
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
    """The endpoint that takes a body with these fields."""
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


def _with_body(text: str) -> tuple[dict[str, Any], int, int]:
    """The fields of an object, and the start and end of its `body` in `text`."""
    if text.count(_BODY) != 1 or _ESCAPED.search(text):
        return _read_slowly(text)
    found = _decoded(text)
    if next(reversed(found), None) != "body":
        return _read_slowly(text)
    # The body is the last field, so it ends where the object ends, and its name occurs nowhere else in the line.
    colon = _COLON.match(text, text.index(_BODY) + len(_BODY))
    assert colon is not None
    return found, colon.end(), len(text[:-1].rstrip(_SPACES))


def _read_slowly(text: str) -> tuple[dict[str, Any], int, int]:
    """The same for any object: reads it field by field."""
    _decoded(text)  # raises unless the text is a JSON object
    found: dict[str, Any] = {}
    start = end = at = 0
    while text[at] != "}":
        quote = text.find('"', at)
        if quote < 0:  # an object without fields
            break
        key, at = _DECODER.raw_decode(text, quote)
        colon = _COLON.match(text, at)
        assert colon is not None
        found[key], at = _DECODER.raw_decode(text, colon.end())
        if key == "body":
            start, end = colon.end(), at
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it always matches
    return found, start, end


def _decoded(text: str) -> dict[str, Any]:
    try:
        return _object(_DECODER.decode(text))
    except BadLineError:
        raise
    except _NOT_JSON as error:
        raise BadLineError("invalid_json", _json_problem(error)) from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadLineError("invalid_json", f"is {_kind(value)}, not an object")
    return value


def _not_finite(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_not_finite)


def _json_problem(error: BaseException) -> str:
    """Why a line is not JSON, without quoting it."""
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
