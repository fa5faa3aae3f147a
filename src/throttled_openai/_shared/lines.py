"""The lines to where processes meet: one step each, blocking."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Protocol

from .place import client_of

if TYPE_CHECKING:
    from .place import Place

SCRIPT: Final = files("throttled_openai._shared").joinpath("step.lua").read_text(encoding="utf-8")
_SHA: Final = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Line(Protocol):
    """A connection, made when it is needed."""

    def step(self, budget: str, asked: list[str]) -> list[str]:
        """Raises any exception if no answer comes."""
        ...

    def close(self) -> None:
        """Close the connection; the next step makes another one."""


def keys_of(prefix: str, budget: str) -> tuple[str, str, str]:
    """The keys of one budget, all in one slot of a cluster."""
    return f"{prefix}{{{budget}}}:state", f"{prefix}{{{budget}}}:leases", f"{prefix}{{{budget}}}:demand"


class RedisLine:
    """Steps in Redis or Valkey, where they are one script each."""

    def __init__(self, place: Place, client: Any = None) -> None:
        self._place = place
        self._client = client_of(place) if client is None else client

    def step(self, budget: str, asked: list[str]) -> list[str]:
        keys = keys_of(self._place.prefix, budget)
        try:
            found = self._client.execute_command("EVALSHA", _SHA, 3, *keys, *asked)
        except Exception as error:
            if "NOSCRIPT" not in str(error) and type(error).__name__ != "NoScriptError":
                raise
            found = self._client.execute_command("EVAL", SCRIPT, 3, *keys, *asked)
        return [text.decode() if isinstance(text, bytes) else str(text) for text in found]

    def close(self) -> None:
        self._client.close()
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            pool.disconnect()
