"""The fields of a value that may be a dict, another mapping, one of the SDK's models, or any other object."""

from collections.abc import Callable, Mapping
from typing import Final

_ABSENT: Final = object()


def fields_of(value: object) -> Callable[[str], object]:
    """A function from a field's name to its value in `value`; it returns None for a field that does not exist."""
    if isinstance(value, dict):
        return value.get
    # Not plain getattr: pydantic needs 3 us to find that a field does not exist.
    extra = getattr(value, "__pydantic_extra__", _ABSENT)
    if extra is not _ABSENT:
        known = vars(value)
        return {**extra, **known}.get if isinstance(extra, dict) and extra else known.get
    if isinstance(value, Mapping):
        return value.get
    return lambda name: getattr(value, name, None)


def field(value: object, name: str) -> object:
    """One field of `value`, or None."""
    return fields_of(value)(name)


def items_of(value: object) -> list[object] | tuple[object, ...]:
    """The elements of a list; an iterator has none, because reading it would consume it."""
    return value if isinstance(value, (list, tuple)) else ()


def token_count(value: object) -> int | None:
    """`value` if it is a possible number of tokens of one attempt, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1e12:
        return value
    return None
