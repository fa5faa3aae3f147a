"""The progress of a run on standard error: updated in place with rich, as lines of text or JSON, or not at all."""
# ruff: noqa: T201  # a command prints

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from throttled_openai._stats import spell
from throttled_openai.batch._status import shown

if TYPE_CHECKING:
    from throttled_openai.batch._status import Status

# Seconds between two lines of a log; the first ones come sooner.
_LINES: Final = 10.0
_FIRST_LINES: Final = (0.5, 2.0, 5.0)


class Progress(Protocol):
    """Shows the status of a run, and messages."""

    def show(self, status: Status) -> None:
        """Show the status; called several times a second."""

    def say(self, line: str) -> None:
        """Show a message."""

    def close(self) -> None: ...


class Quiet:
    """Shows messages only."""

    def show(self, status: Status) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Plain(Quiet):
    """Prints a line every ten seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._due = list(_FIRST_LINES)

    def show(self, status: Status) -> None:
        if time.monotonic() - self._began >= self._due[0]:
            last = self._due.pop(0)
            self._due = self._due or [last + _LINES]
            self.say(self._line(status))

    def _line(self, status: Status) -> str:
        return f"{spell(status.seconds)}: {status}"


class Json(Plain):
    """Prints the same lines as JSON."""

    def _line(self, status: Status) -> str:
        return json.dumps({"event": "progress", **dataclasses.asdict(status)})

    def say(self, line: str) -> None:
        super().say(line if line.startswith("{") else json.dumps({"event": "message", "message": line}))


class Live:
    """Shows a bar and a table, updated in place with rich."""

    def __init__(self, rich: Any) -> None:
        self._rich = rich
        self._console = rich.Console(stderr=True)
        self._live = rich.Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def show(self, status: Status) -> None:
        rich = self._rich
        bar = rich.ProgressBar(total=1.0, completed=status.share or 0.0, width=None, pulse=status.share is None)
        table = rich.Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right")
        table.add_column()
        for name, value in rows(status):
            table.add_row(name, value)
        whole = rich.Table.grid(expand=True)
        whole.add_row(bar)
        whole.add_row(table)
        self._live.update(whole, refresh=True)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()


class _Rich:
    """The parts of rich that we use; rich is an extra."""

    def __init__(self) -> None:
        self.Console = importlib.import_module("rich.console").Console
        self.Live = importlib.import_module("rich.live").Live
        self.ProgressBar = importlib.import_module("rich.progress_bar").ProgressBar
        self.Table = importlib.import_module("rich.table").Table


def rows(status: Status) -> list[tuple[str, str]]:
    """Names and values of the table."""
    total = "" if status.total is None else f" of {status.total:,}"
    share = "" if status.share is None else f" ({status.share:.1%})"
    earlier = f", {status.before:,} of them before" if status.before else ""
    left = "" if status.seconds_left is None else spell(status.seconds_left)
    found = [
        ("done", f"{status.before + status.done:,}{total}{share}{earlier}"),
        ("failed", f"{status.failed:,}"),
        ("in flight", f"{status.in_flight:,} of {status.room:,}; {status.waiting:,} waiting"),
        ("requests/min", shown(status.rpm, status.rpm_limit)),
        ("tokens/min", shown(status.tpm, status.tpm_limit)),
        ("refusals", f"{status.refusals:,}"),
        ("tokens", f"{status.input_tokens:,} in, {status.output_tokens:,} out"),
    ]
    if status.cost is not None:
        found.append(("cost", f"{status.cost:,.4f}"))
    found.append(("time", f"{spell(status.seconds)} so far" + (f", {left} left" if left else "")))
    found.append(("", status.reason))
    return found


def progress(*, quiet: bool = False, as_json: bool = False) -> Progress:
    """The kind of progress that suits standard error and the options."""
    if quiet:
        return Quiet()
    if as_json:
        return Json()
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            return Live(_Rich())
        except ImportError:
            pass
    return Plain()
