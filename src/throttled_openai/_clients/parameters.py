"""Parameters: a quick transform for the SDK, of those types of parameters in which nothing is to be transformed."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import types
import typing
import warnings
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import openai
import typing_extensions
from openai import NotGiven

# Of the SDK's `_transform.py`, without comments and spaces: openai 2.47 to 3.57.
_DIGESTS: Final = frozenset({"58f3a1957cd75c4d", "49a62bcfc29d6062"})
_transform: Final[Any] = sys.modules.get("openai._utils._transform")
_NOT_GIVEN: Final = (NotGiven, getattr(openai, "Omit", NotGiven))
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_FORMS: Final = frozenset({typing.Required, typing.NotRequired, typing.Union, types.UnionType})


def fast_parameters(on: bool = True) -> bool:
    """Spend less on the parameters of each call, for all clients in this process; `False` ends that.

    Before each request the SDK looks at every value of the parameters and its type, to rename and format some of
    them: 0.2 ms for a chat call of one message, 3 ms for one of twenty. In most types nothing is to be renamed. Of
    such parameters, if they consist of dicts, lists, strings and numbers, the SDK then makes a copy without looking
    at types. It replaces two functions of the SDK's, so it is not on by itself.

    Returns whether it is on. It stays off, with a warning, for an SDK version whose functions are not known.
    """
    global _on  # noqa: PLW0603
    if on and not _known():
        return False
    _on = on
    for ours in (_copied, _async_copied):
        name, sdks = ours.__name__, _transform.__dict__[ours.__name__]
        if on and name not in _SDKS:
            _SDKS[name] = sdks
            setattr(_transform, name, ours)
        elif not on and sdks is ours:  # otherwise another library has put its own before ours since
            setattr(_transform, name, _SDKS.pop(name))
    return on


_on = False
_SDKS: Final[dict[str, Any]] = {}


@functools.cache
def _known() -> bool:
    """Whether the SDK transforms parameters in one of the ways that we know; warns once if not."""
    if digest() in _DIGESTS:
        return True
    warnings.warn(
        f"openai {openai.__version__} transforms parameters in a way that throttled-openai does not know: "
        "fast_parameters() changes nothing, and calls cost what they cost without it. "
        "A newer throttled-openai may know this version",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def digest() -> str:
    """Of the SDK's transform."""
    try:
        text = Path(_transform.__file__).read_text(encoding="utf-8")
    except (AttributeError, OSError, TypeError):  # not a file, as in a zip archive
        return ""
    return hashlib.sha256(re.sub(r"#.*|\s+", "", text).encode()).hexdigest()[:16]


def _copied(data: Any, expected_type: Any) -> Any:
    copied = _copy_of(data, expected_type) if _on else None
    return _SDKS["transform"](data, expected_type) if copied is None else copied


async def _async_copied(data: Any, expected_type: Any) -> Any:
    copied = _copy_of(data, expected_type) if _on else None
    return await _SDKS["async_transform"](data, expected_type) if copied is None else copied


_copied.__name__, _async_copied.__name__ = "transform", "async_transform"


def _copy_of(data: Any, expected_type: Any) -> dict[str, Any] | None:
    """A copy of `data`, or None if the SDK is to transform it.

    A copy it must be: the caller may append to its messages while the call waits.
    """
    try:
        if type(data) is not dict or not _is_inert(expected_type):
            return None
        return {key: _copy(value) for key, value in data.items() if not isinstance(value, _NOT_GIVEN)}
    except (_Unusual, RecursionError, TypeError):
        return None


class _Unusual(Exception):
    """A value that is no JSON: a model, a file, an iterator."""


def _copy(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        return {key: _copy(item) for key, item in value.items()}
    if kind is list:
        return [item if type(item) in _SCALARS else _copy(item) for item in value]
    raise _Unusual


@functools.lru_cache(maxsize=8096)
def _is_inert(type_: Any) -> bool:
    """Whether no part of a `TypedDict` has another name, or a format, in the request."""
    try:
        return typing_extensions.is_typeddict(type_) and not _transforms(type_, set())
    except Exception:  # noqa: BLE001  # a name in its hints that is not defined: the SDK knows better
        return False


def _transforms(type_: Any, seen: set[Any]) -> bool:
    if type_ in seen:
        return False
    seen.add(type_)
    if typing_extensions.is_typeddict(type_):
        hints = typing_extensions.get_type_hints(type_, include_extras=True)
        return any(_transforms(each, seen) for each in hints.values())
    origin, args = get_origin(type_), get_args(type_)
    if origin is Literal:
        return False
    if origin is Annotated:
        type_, *about = args
        return _transforms(type_, seen) or any(_tells(each) for each in about)
    if origin in _FORMS or inspect.isclass(origin):
        return any(_transforms(each, seen) for each in args if each is not Ellipsis)
    return not (inspect.isclass(type_) or type_ is Any)  # what is neither may be anything


def _tells(about: Any) -> bool:
    """Whether it is a `PropertyInfo` that names or formats; one of a union tells only its discriminator."""
    return not isinstance(about, _transform.PropertyInfo) or about.alias is not None or about.format is not None
