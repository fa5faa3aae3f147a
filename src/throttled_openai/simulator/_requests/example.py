"""The simplest value that a JSON schema accepts, for structured outputs and the arguments of tools."""

from __future__ import annotations

import math
from typing import Any, Final, NoReturn

from .fields import BadRequestError

# Parts of a schema that are looked at, and the length of a string or array: beyond, the schema is an attack or a slip.
_MOST_PARTS: Final = 5_000
_LONGEST: Final = 1_000
_DEEPEST: Final = 100

_TEXT: Final = "some text"
_FORMATS: Final = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
# Keywords that say the type where `type` does not.
_TYPES: Final = {
    "properties": "object",
    "items": "array",
    "prefixItems": "array",
    "minimum": "number",
    "maximum": "number",
    "minLength": "string",
    "maxLength": "string",
    "format": "string",
}


def example(schema: object, name: str) -> Any:
    """A value that fits `schema`. Raises `BadRequestError` for a schema that fits nothing, or is none."""
    try:
        return _Example(schema, name).value(schema, frozenset({"#"}))
    except _EndlessError as problem:
        raise BadRequestError(f"Invalid schema for '{name}': it refers to itself without an end.", name) from problem


class _EndlessError(Exception):
    """A part of the schema that contains itself."""


class _Example:
    def __init__(self, root: object, name: str) -> None:
        self._root = root
        self._name = name
        self._parts = 0
        self._depth = 0

    def value(self, part: object, inside: frozenset[str]) -> Any:
        """`inside`: the references that are being followed."""
        self._parts += 1
        if self._parts > _MOST_PARTS or self._depth >= _DEEPEST:
            self._refuse("it is too large")
        self._depth += 1
        try:
            return self._value(part, inside)
        finally:
            self._depth -= 1

    def _value(self, part: object, inside: frozenset[str]) -> Any:  # noqa: PLR0911  # a table of keywords
        if part is True:
            return _TEXT
        if not isinstance(part, dict):
            self._refuse("a part of it is not an object")
        if isinstance(target := part.get("$ref"), str):
            if target in inside:
                raise _EndlessError
            return self.value({**self._find(target), **_without(part, "$ref")}, inside | {target})
        if "const" in part:
            return part["const"]
        if isinstance(options := part.get("enum"), list) and options:
            return options[0]
        for several in ("anyOf", "oneOf"):
            if isinstance(branches := part.get(several), list) and branches:
                return self._first_of([{**_without(part, several), **_object(branch)} for branch in branches], inside)
        if isinstance(parts := part.get("allOf"), list) and parts:
            return self.value(self._merged([_without(part, "allOf"), *parts]), inside)
        return self._of_type(part, inside)

    def _of_type(self, part: dict[str, Any], inside: frozenset[str]) -> Any:  # noqa: PLR0911  # a table of types
        kind = part.get("type") or next((kind for word, kind in _TYPES.items() if word in part), None)
        if isinstance(kind, list):
            return self._first_of([{**part, "type": each} for each in kind], inside)
        match kind:
            case "object":
                return self._fields(part, inside)
            case "array":
                return self._items(part, inside)
            case "string":
                return self._text(part)
            case "integer" | "number":
                return _number(part, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case None:
                return _TEXT if part.get("not") is None else None
            case _:
                return self._refuse(f"{kind!r:.40} is not a type")

    def _first_of(self, parts: list[dict[str, Any]], inside: frozenset[str]) -> Any:
        for part in parts:
            try:
                return self.value(part, inside)
            except _EndlessError:
                continue
        raise _EndlessError

    def _fields(self, part: dict[str, Any], inside: frozenset[str]) -> dict[str, Any]:
        required = part.get("required")
        fields = {}
        for name, field in _object(part.get("properties")).items():
            try:
                fields[name] = self.value(field, inside)
            except _EndlessError:
                if isinstance(required, list) and name in required:
                    raise
        return fields

    def _items(self, part: dict[str, Any], inside: frozenset[str]) -> list[Any]:
        least, first = self._count(part, "minItems", 0), part.get("prefixItems")
        items = [self.value(item, inside) for item in first] if isinstance(first, list) else []
        if len(items) >= max(least, 1 if not items else 0) or part.get("maxItems") == 0:
            return items
        try:
            item = self.value(part.get("items", True), inside)
        except _EndlessError:
            if least > len(items):
                raise
            return items
        count = max(least, 1) - len(items)
        if part.get("uniqueItems") is True and isinstance(item, int | float | str) and not isinstance(item, bool):
            return items + [item if at == 0 else f"{item} {at}" if isinstance(item, str) else item + at
                            for at in range(count)]  # fmt: skip
        return items + [item] * count

    def _text(self, part: dict[str, Any]) -> str:
        text = _FORMATS.get(str(part.get("format")), _TEXT)
        least, most = self._count(part, "minLength", 0), self._count(part, "maxLength", _LONGEST)
        return (text + "." * max(0, least - len(text)))[:most]

    def _count(self, part: dict[str, Any], name: str, usual: int) -> int:
        found = part.get(name)
        if not isinstance(found, int) or found < 0:
            return usual
        if found > _LONGEST and usual == 0:
            self._refuse(f"{name} is {found:,}, and the simulator fills in at most {_LONGEST:,}")
        return found

    def _find(self, target: str) -> dict[str, Any]:
        found = self._root
        for step in target.removeprefix("#").strip("/").split("/") if target.strip("#/") else ():
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            self._refuse(f"there is no {target:.60}")
        return found

    def _merged(self, parts: list[Any]) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for part in parts:
            given = _object(part)
            target = given.get("$ref")
            resolved = self._find(target) if isinstance(target, str) else given
            properties = {**_object(whole.get("properties")), **_object(resolved.get("properties"))}
            whole |= resolved
            if properties:
                whole["properties"] = properties
        return whole

    def _refuse(self, reason: str) -> NoReturn:
        raise BadRequestError(f"Invalid schema for '{self._name}': {reason}.", self._name)


def _number(part: dict[str, Any], *, whole: bool) -> float:
    """1 or 1.5, or the number nearest to it that the bounds allow."""
    step = _bound(part, "multipleOf")
    unit = step if step is not None and step > 0 else 1 if whole else 0
    gap = unit or 0.5
    least, above = _bound(part, "minimum"), _bound(part, "exclusiveMinimum")
    most, below = _bound(part, "maximum"), _bound(part, "exclusiveMaximum")
    value: float = 1 if whole else 1.5
    if least is not None or above is not None:
        value = max(value, *(bound for bound in (least, None if above is None else above + gap) if bound is not None))
    if most is not None or below is not None:
        value = min(value, *(bound for bound in (most, None if below is None else below - gap) if bound is not None))
    if above is not None and value <= above:  # a range narrower than a step
        value = (above + (most if most is not None else below if below is not None else above + 1)) / 2
    if unit:
        value = math.ceil(value / unit) * unit
    return int(value) if whole else value


def _bound(part: dict[str, Any], name: str) -> float | None:
    found = part.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 1e15 else None


def _object(part: object) -> dict[str, Any]:
    return part if isinstance(part, dict) else {}


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}
