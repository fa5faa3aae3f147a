"""The parser of command lines: errors that suggest the right name, and the arguments of another program kept whole."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from throttled_openai._spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
    """A command with unknown options fails with its own usage, and with the option that was probably meant."""

    program: str | None = None
    """Name of the attribute for another program and its arguments: all from the first argument that is no option."""

    def parse_known_args(  # type: ignore[override]  # the overloads of typeshed
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        args = list(sys.argv[1:] if args is None else args)
        program: list[str] = []
        if self.program is not None:
            end = self._end_of_options(args)
            args, program = args[:end], args[end:]
        if self._subparsers is None:  # before what argparse says of them, such as that a required one is missing
            self._refuse([word for word in args if word.startswith("--") and not self._is_option(word)])
        found, unknown = super().parse_known_args(args, namespace)
        self._refuse(unknown)
        if self.program is not None:
            setattr(found, self.program, program[program[:1] == ["--"] :])
        return found, unknown

    def _end_of_options(self, args: list[str]) -> int:
        at = 0
        while at < len(args):
            name, given, _ = args[at].partition("=")
            # `-m` and `-c` are for Python, and so is what follows them; `-` is a program from stdin.
            if name in {"-", "--"} or not name.startswith("-") or name[:2] in {"-m", "-c"}:
                break
            action = self._option_string_actions.get(name)
            takes_value = action is not None and action.nargs is None and not given
            at += 2 if takes_value else 1
        return at

    def _is_option(self, word: str) -> bool:
        """Whether argparse takes it for one: options may be shortened."""
        name = word.partition("=")[0]
        return any(option.startswith(name) for option in self._option_string_actions)

    def _refuse(self, unknown: list[str]) -> None:
        if unknown:
            meant = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
