"""The signature of a throttled class: the arguments of the SDK's class, and ours, in one list."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from .options import HINTS

if TYPE_CHECKING:
    from collections.abc import Callable


def sign(cls: Any, sdk: Any) -> None:
    """Give the constructor and `copy` of `cls` their true signatures, if they are ours, marked `takes_all`.

    `help()`, `inspect.signature` and `typing.get_type_hints` read them; and the SDK's Bedrock clients
    check whether a constructor takes an argument before they pass it. `sdk`: the SDK's class.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name in ("__init__", "copy"):
        if sdk is object or not hasattr(getattr(cls, name), "takes_all"):
            continue  # a mixin, or a method that the user's class defines itself
        theirs = getattr(sdk, name)
        signature = inspect.signature(theirs)
        parameters = list(signature.parameters.values())
        end = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        parameters[end:end] = [
            inspect.Parameter(option, keyword, default=0 if option == "priority" else None, annotation=hint)
            for option, hint in HINTS.items()
            if option not in signature.parameters
        ]
        setattr(cls, name, _delegate(cls, name, theirs, signature.replace(parameters=parameters)))
        if name == "copy":
            cls.with_options = cls.copy


def _delegate(cls: Any, name: str, theirs: Any, signature: inspect.Signature) -> Callable[..., Any]:
    @functools.wraps(theirs)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), name)(*args, **kwargs)

    method.__doc__ = getattr(cls, name).__doc__
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    method.__module__ = cls.__module__
    method.__annotations__ = {**getattr(theirs, "__annotations__", {}), **HINTS}
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method
