"""A parser of command lines that suggests the right option, and leaves the arguments of another program alone."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from throttled_openai._spelling import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


try:
    from rich_argparse import RichHelpFormatter
except ImportError:  # an extra; help is then without colours
    _Formatter: type[argparse.HelpFormatter] = argparse.HelpFormatter
else:

    class _Formatter(RichHelpFormatter):  # type: ignore[no-redef]
        group_name_formatter = str  # "usage:", as without the library


class Parser(argparse.ArgumentParser):
    """A parser whose errors say first what is wrong, then the usage in short, and suggest the right option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **options})

    program: str | None = None
    """The attribute for another program's command line, which starts at the first argument that is no option."""

    def parse_known_args(  # type: ignore[override]  # the overloads of typeshed
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        args = list(sys.argv[1:] if args is None else args)
        program: list[str] = []
        if self.program is not None:
            end = self._end_of_options(args)
            args, program = args[:end], args[end:]
        if self._subparsers is None:  # before argparse complains about something else, such as a missing argument
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
            # `-m` and `-c` and all that follows are for Python; `-` is a program on stdin.
            if name in {"-", "--"} or not name.startswith("-") or name[:2] in {"-m", "-c"}:
                break
            action = self._option_string_actions.get(name)
            takes_value = action is not None and action.nargs is None and not given
            at += 2 if takes_value else 1
        return at

    def _is_option(self, word: str) -> bool:
        """Whether argparse recognises `word` as an option, which may be abbreviated."""
        name = word.partition("=")[0]
        return any(option.startswith(name) for option in self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and how to learn more, and exit with 2."""
        usage = self.usage % {"prog": self.prog} if self.usage else f"{self.prog} {self._arguments()}"
        with suppress(OSError, ValueError):
            print(f"{self.prog}: {message}\n\nusage: {usage}\nhelp: {self.prog} --help", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)

    def _arguments(self) -> str:
        names = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        return " ".join(["[options]", *names])

    def _refuse(self, unknown: list[str]) -> None:
        if unknown:
            meant = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
