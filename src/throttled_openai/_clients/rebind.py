"""Rebinding: wrappers around the methods of one client, copied to another client.

Tools that trace calls set an attribute of a client: a function that calls the original method. That
method belongs to the first client, and so would all calls through a plain copy of the attribute.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
from typing import Any, Final

from openai._resource import AsyncAPIResource, SyncAPIResource

# Levels to which functions that refer to other functions are followed.
_DEPTH: Final = 8


class Rebinding:
    """Makes copies of the objects that refer to `old`, which refer to `new` instead."""

    def __init__(self, old: object, new: object) -> None:
        self._new: dict[int, object] = {id(old): new}
        self._kept = [old]  # kept alive, as an `id` is unique only among living objects

    def of(self, value: Any, depth: int = _DEPTH) -> Any:
        """`value`, or a copy of it that refers to the new client in place of the old one."""
        if id(value) in self._new:
            return self._new[id(value)]
        if not depth or not (callable(value) or isinstance(value, AsyncAPIResource | SyncAPIResource)):
            return value
        self._kept.append(value)
        self._new[id(value)] = value  # in case it refers to itself
        made = self._new[id(value)] = self._copied(value, depth - 1)
        return made

    def _copied(self, value: Any, depth: int) -> Any:
        if isinstance(value, types.MethodType):
            return self._method(value, depth)
        if isinstance(value, functools.partial):
            parts = value.func, *value.args, *value.keywords.values()
            function, *rest = [self.of(part, depth) for part in parts]
            if all(map(_same, parts, (function, *rest))):
                return value
            count = len(value.args)
            return type(value)(function, *rest[:count], **dict(zip(value.keywords, rest[count:], strict=True)))
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if inspect.getattr_static(value, "_self_wrapper", None) is not None:  # of wrapt
            wrapped = self.of(value.__wrapped__, depth)
            return value if wrapped is value.__wrapped__ else type(value)(wrapped, value._self_wrapper)  # noqa: SLF001
        return value if isinstance(value, type) else self._object(value, depth)

    def _method(self, method: types.MethodType, depth: int) -> Any:
        whose = method.__self__
        owner = self.of(whose, depth)
        if owner is whose:
            return method
        # The method of the new client's class.
        function = getattr(type(owner), method.__name__, None)
        return types.MethodType(function if isinstance(function, types.FunctionType) else method.__func__, owner)

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        cells = function.__closure__ or ()
        held = [cell.cell_contents if _is_filled(cell) else None for cell in cells]
        defaults = function.__defaults__ or ()
        new_held, new_defaults = ([self.of(each, depth) for each in some] for some in (held, defaults))
        if all(map(_same, held, new_held)) and all(map(_same, defaults, new_defaults)):
            return function
        closure = tuple(
            cell if old is new else types.CellType(new) for cell, old, new in zip(cells, held, new_held, strict=True)
        )
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, tuple(new_defaults) or None, closure
        )
        made.__kwdefaults__ = function.__kwdefaults__
        made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
        made.__module__, made.__annotations__ = function.__module__, function.__annotations__
        made.__dict__.update({name: self.of(each, depth) for name, each in vars(function).items()})
        return made

    def _object(self, value: Any, depth: int) -> Any:
        """A copy of a resource of the SDK, or of another callable object."""
        own = getattr(value, "__dict__", {})
        if isinstance(value, AsyncAPIResource | SyncAPIResource):
            made = self._new[id(value)] = object.__new__(type(value))  # its own methods refer to it
            vars(made).update({name: self.of(each, depth) for name, each in own.items()})
            return made
        new = {name: self.of(each, depth) for name, each in own.items()}
        if all(new[name] is each for name, each in own.items()):
            return value
        made = copy.copy(value)
        vars(made).update(new)
        return made


def is_wrapped(resource: object, depth: int = 4) -> bool:
    """Whether methods of this resource of the SDK, or of those below it, have been replaced."""
    for value in vars(resource).values():
        if isinstance(value, AsyncAPIResource | SyncAPIResource):
            if depth and is_wrapped(value, depth - 1):
                return True
        elif callable(value) and not isinstance(value, types.MethodType):
            return True
    return False


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _same(one: object, other: object) -> bool:
    return one is other
