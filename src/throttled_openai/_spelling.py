"""Suggestions for mistyped names."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Function = TypeVar("Function", bound="Callable[..., Any]")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `"; did you mean 'rpm'?"`, or nothing if no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_names(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `TypeError` for the first name in `given` that is no parameter of `function`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")


def suggesting(function: Function) -> Function:
    """Decorator: the `TypeError` for an unknown keyword argument suggests the right name."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        check_names(function.__qualname__, options, known)
        return function(*args, **options)

    made: Any = checked
    result: Function = made
    return result


@contextlib.contextmanager
def suggestions(cls: type[Any], ours: Iterable[str]) -> Iterator[None]:
    """Make the `TypeError` for an option that is neither a parameter of `cls` nor in `ours` suggest the right name."""
    try:
        yield
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        known = {*ours, *inspect.signature(cls).parameters}
        meant = did_you_mean(unknown[1], known) if unknown is not None and unknown[1] not in known else ""
        if not meant:
            raise
        raise TypeError(f"{error}{meant}") from None
