"""The installed SDK: whether it has the hooks that the clients rely on."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import warnings
from typing import Any, Final

import anyio.to_thread
import openai
from openai import AsyncOpenAI, OpenAI

# The hooks for a call, an attempt, an exchange, and the parsed body; they are tested with each SDK release.
_HOOKS: Final = ("request", "_prepare_options", "_send_request", "_process_response_data", "copy")
_OLDEST, _TOO_NEW = (2, 47), (4, 0)


def missing_hooks() -> list[str]:
    """Names of the hooks that the SDK's clients no longer have."""
    return [name for name in _HOOKS if not (hasattr(AsyncOpenAI, name) and hasattr(OpenAI, name))]


@functools.cache
def hooked() -> bool:
    """Whether calls are throttled inside the SDK; otherwise they are throttled in the HTTP client.

    Warns once if they are not, or if this SDK version is untested.
    """
    moved = missing_hooks()
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in openai.__version__.split(".")[:2])
    if moved:
        warnings.warn(
            f"openai {openai.__version__} has no {', '.join(moved)}: calls are throttled in the HTTP client instead. "
            "Limits, refusals and retries work as before; max_wait errors may come as connection errors, "
            "API keys are fetched before the wait, and each waiting call holds its serialised body. "
            "throttled-openai is tested with openai 2.47 to 3.x",
            RuntimeWarning,
            stacklevel=4,
        )
    elif not _OLDEST <= numbers < _TOO_NEW:
        warnings.warn(
            f"openai {openai.__version__} is not one of those throttled-openai is tested with, 2.47 to 3.x. "
            "Its hooks are all there, so everything should work",
            RuntimeWarning,
            stacklevel=4,
        )
    return not moved


_known: Any = None
_asking = threading.Lock()


def known_platform() -> Any:
    """The result of `platform`; None before its first call."""
    return _known


def platform() -> Any:
    """The platform name that the SDK sends to servers; found once per process.

    It takes milliseconds and runs programs, so do not call it on an event loop.
    """
    global _known  # noqa: PLW0603
    from openai._base_client import get_platform  # noqa: PLC0415  # private: missed only when used

    with _asking:
        if _known is None:
            _known = get_platform()
        return _known


async def platform_from_thread() -> Any:
    """As `platform`, without blocking the event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        return await anyio.to_thread.run_sync(platform)
    return await loop.run_in_executor(None, platform)


def _begin_anew() -> None:
    """In a forked child, a thread of the parent may have held the lock."""
    global _asking  # noqa: PLW0603
    _asking = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def retries_of(request: Any) -> int:
    """The number of the SDK's retry that a request is, by its header."""
    said = request.headers.get("x-stainless-retry-count", "")
    return int(said) if said.isdecimal() else 0
