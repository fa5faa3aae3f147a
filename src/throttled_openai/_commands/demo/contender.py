"""The contenders: three ways of sending the same calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openai import AsyncOpenAI

from throttled_openai._clients.async_client import ThrottledAsyncOpenAI

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of sending many calls. `at_once`: the size of a semaphore around them; None: no semaphore."""

    name: str
    description: str
    client: Callable[..., AsyncOpenAI]
    at_once: int | None = None


CONTENDERS: Final = (
    Contender("AsyncOpenAI + gather", "Sent all at once", AsyncOpenAI),
    Contender("AsyncOpenAI + Semaphore(10)", "ten at a time", AsyncOpenAI, at_once=10),
    Contender("ThrottledAsyncOpenAI + gather", "ThrottledAsyncOpenAI", ThrottledAsyncOpenAI),
)
NAME_WIDTH: Final = max(len(contender.name) for contender in CONTENDERS)
