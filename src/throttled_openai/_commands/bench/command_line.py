"""The command line as a report shows it: without passwords, keys and the values of --extra."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from .address import redacted_url

if TYPE_CHECKING:
    from collections.abc import Sequence

_HIDDEN: Final = "..."
# An option may be abbreviated to this.
_EXTRA: Final = "--ex"


def command_line(words: Sequence[str]) -> str:
    """The command that was called with `words`."""
    before = ["", *words]
    return shlex.join(["throttled-openai", *map(_shown, before, words)])


def _shown(before: str, word: str) -> str:
    name, given, value = word.partition("=")
    if not word.startswith("--"):
        name, given, value = "", "", word
    if before.startswith(_EXTRA) and "=" not in before:
        return _HIDDEN
    if name.startswith(_EXTRA) and given:
        return f"{name}={_HIDDEN}"
    if "://" in value:
        return f"{name}{given}{redacted_url(value)}"
    return f"{name}{given}{_HIDDEN}" if value.startswith("sk-") else word
