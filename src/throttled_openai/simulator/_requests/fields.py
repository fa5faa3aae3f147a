"""The fields of a request body: parsing, and a check of each field that the server uses. Any mistake is a 400."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[str, Any], None]

# Bytes of a body, which includes all images of the request.
_LARGEST: Final = 64 * 1024 * 1024
# Levels of lists and objects inside each other.
_DEEPEST: Final = 100
# Choices of one answer, and texts in one request: OpenAI's own limits.
_MOST_CHOICES: Final = 128
_MOST_TEXTS: Final = 2048
# More than any model writes, and more than any vector has.
_MOST_TOKENS: Final = 10_000_000
_MOST_DIMENSIONS: Final = 4096

_KINDS: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
}


class BadRequestError(Exception):
    """The client's mistake; becomes a 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def read_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises `BadRequestError`."""
    if len(raw) > _LARGEST:
        raise BadRequestError(f"The body of your request is too large: {len(raw)} bytes, at most {_LARGEST}.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise BadRequestError("We could not parse the JSON body of your request.") from problem
    if not isinstance(body, dict):
        raise BadRequestError("The body of your request must be a JSON object.")
    # A body with few brackets cannot be deep, and counting them is faster than a walk.
    if raw.count(b"[") + raw.count(b"{") > _DEEPEST and _depth(body) > _DEEPEST:
        raise BadRequestError(f"The body of your request is nested too deeply: at most {_DEEPEST} levels.")
    return body


def check_fields(endpoint: str, body: dict[str, Any]) -> None:
    """Raises `BadRequestError` for the first field of a wrong type or size; null counts as left out."""
    for name, check in _FIELDS[endpoint].items():
        if body.get(name) is not None:
            check(name, body[name])


def _depth(body: dict[str, Any]) -> int:
    depth = 0
    level: list[Any] = [body]
    while level and depth <= _DEEPEST:
        depth += 1
        items = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
        level = [item for item in items if isinstance(item, dict | list)]
    return depth


def _refuse(name: str, expected: str, value: object) -> NoReturn:
    got = _KINDS.get(type(value), "null")
    raise BadRequestError(f"Invalid type for '{name}': expected {expected}, but got {got} instead.", name)


def _of(kind: type) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not kind:  # True is not the integer 1
            _refuse(name, _KINDS[kind], value)

    return check


def _whole(least: int, most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not int:
            _refuse(name, "an integer", value)
        if not least <= value <= most:
            bound = f">= {least}" if value < least else f"<= {most}"
            raise BadRequestError(f"Invalid '{name}': integer out of range. Expected a value {bound}.", name)

    return check


def _one_of(*known: str) -> Check:
    """One of the formats that the simulator writes; OpenAI has more."""

    def check(name: str, value: Any) -> None:
        _of(str)(name, value)
        if value not in known:
            raise BadRequestError(f"Invalid '{name}': the simulator writes {', '.join(known)} only.", name)

    return check


def _objects(name: str, value: Any) -> None:
    _array_of(_of(dict), "an array of objects")(name, value)


def _array_of(check_item: Check, expected: str) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not list:
            _refuse(name, expected, value)
        for index, item in enumerate(value):
            check_item(f"{name}[{index}]", item)

    return check


def _message(name: str, value: Any) -> None:
    """A message, or an item of the Responses API; only the fields that are measured are checked."""
    _of(dict)(name, value)
    for field, check in (("role", _of(str)), ("type", _of(str)), ("content", _content), ("text", _of(str))):
        if value.get(field) is not None:
            check(f"{name}.{field}", value[field])


def _content(name: str, value: Any) -> None:
    if type(value) is list:
        _array_of(_message, "an array of objects")(name, value)
    elif type(value) is not str:
        _refuse(name, "a string or an array of objects", value)


def _texts(name: str, value: Any) -> None:
    """A text, or several; each may be an array of tokens."""
    if type(value) is str:
        return
    if type(value) is not list:
        _refuse(name, "a string or an array", value)
    if all(type(item) is int for item in value):
        return
    _check_number(name, value)
    for index, item in enumerate(value):
        if type(item) is not str and not (type(item) is list and all(type(token) is int for token in item)):
            _refuse(f"{name}[{index}]", "a string or an array of integers", item)


def _moderated(name: str, value: Any) -> None:
    """A text, several texts, or the parts of one."""
    if type(value) is list:
        _check_number(name, value)
        if all(type(item) is str for item in value):
            return
    _content(name, value)


def _check_number(name: str, texts: list[Any]) -> None:
    if len(texts) > _MOST_TEXTS:
        raise BadRequestError(f"Invalid '{name}': array too long. Expected at most {_MOST_TEXTS} items.", name)


_ANY: Final[dict[str, Check]] = {"model": _of(str), "user": _of(str), "metadata": _of(dict)}
_GENERATES: Final[dict[str, Check]] = {
    **_ANY,
    "stream": _of(bool),
    "stream_options": _of(dict),
    "n": _whole(1, _MOST_CHOICES),
    "max_tokens": _whole(0, _MOST_TOKENS),
    "max_completion_tokens": _whole(0, _MOST_TOKENS),
    "max_output_tokens": _whole(0, _MOST_TOKENS),
}
_PICTURES: Final[dict[str, Check]] = {
    **_ANY,
    "prompt": _of(str),
    "n": _whole(1, 10),
    "stream": _of(bool),
    "response_format": _of(str),
}
_TRANSCRIBES: Final[dict[str, Check]] = {
    **_ANY,
    "prompt": _of(str),
    "stream": _of(bool),
    "response_format": _one_of("json", "text", "srt", "vtt", "verbose_json", "diarized_json"),
}
_FIELDS: Final[dict[str, dict[str, Check]]] = {
    "chat/completions": {
        **_GENERATES,
        "messages": _array_of(_message, "an array of objects"),
        "tools": _objects,
        "response_format": _of(dict),
    },
    "completions": {**_GENERATES, "prompt": _texts},
    "responses": {
        **_GENERATES,
        "input": _content,
        "instructions": _content,
        "tools": _objects,
        "text": _of(dict),
        "store": _of(bool),
        "previous_response_id": _of(str),
    },
    "embeddings": {
        **_ANY,
        "input": _texts,
        "dimensions": _whole(1, _MOST_DIMENSIONS),
        "encoding_format": _of(str),
    },
    "moderations": {**_ANY, "input": _moderated},
    "images/generations": _PICTURES,
    "images/edits": _PICTURES,
    "images/variations": _PICTURES,
    "audio/speech": {**_ANY, "input": _of(str), "response_format": _one_of("mp3", "wav", "pcm")},
    "audio/transcriptions": _TRANSCRIBES,
    "audio/translations": _TRANSCRIBES,
}
