"""Progress bars: how many of some calls are done, and the time left by the limits, where a person looks."""

from __future__ import annotations

import contextlib
import html
import importlib
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from throttled_openai._admission.throttle import everywhere
from throttled_openai._seeing.explanation import about, seconds_to_send

if TYPE_CHECKING:
    from typing import TextIO

    from throttled_openai._stats import BudgetStats

# Seconds between two lines of a log, and of the first ones.
_LINES: Final = 10.0
_FIRST_LINES: Final = (0.0, 0.1, 2.0, 5.0)
_WIDTH: Final = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` calls have ended, `failed` of them with an error.

    `seconds_left`: by the limits of this moment; None: not known. `why`: what holds calls back.
    """

    total: int
    done: int
    failed: int
    seconds_left: float | None
    why: str

    def __str__(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return "; ".join([f"{self.done:,} of {self.total:,} done{failed}", *self.notes])

    @property
    def notes(self) -> list[str]:
        left = "" if self.seconds_left is None else f"about {about(self.seconds_left)} left"
        return [note for note in (left, self.why) if note]


def progress_of(total: int, done: int, failed: int) -> Progress:
    """The progress of calls that are made through any throttle of this process."""
    left = total - done
    if not left:
        return Progress(total, done, failed, None, "")
    waits = [wait for throttle in everywhere.throttles() for wait in throttle.explain().waits]  # updates the figures
    budgets = [budget for throttle in everywhere.throttles() for budget in throttle.stats().budgets]
    longest = max((wait for wait in waits if wait.waiting), key=lambda wait: wait.done_in or 0.0, default=None)
    why = "" if longest is None else longest.why
    return Progress(
        total, done, failed, seconds_left([each for each in budgets if each.in_flight or each.waiting], left), why
    )


def seconds_left(budgets: list[BudgetStats], left: int) -> float | None:
    """Seconds until `left` calls are done, with those that have not begun."""
    begun = sum(budget.waiting + budget.in_flight for budget in budgets)
    admitted = sum(budget.admitted for budget in budgets)
    longest = None
    for budget in budgets:
        later = max(0, left - begun) * budget.admitted / admitted if admitted else 0.0
        tokens = budget.waiting_tokens + later * budget.tokens_per_call
        seconds = seconds_to_send(budget, budget.waiting + later, tokens)
        if seconds is not None and budget.latency is not None:
            longest = max(longest or 0.0, seconds + budget.latency)
        elif seconds:
            longest = max(longest or 0.0, seconds)
    return longest


class Display(Protocol):
    def show(self, progress: Progress, *, last: bool = False) -> None: ...


class Lines:
    """A line now and then, or on a terminal one line in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = stream.isatty()
        self._began = time.monotonic()
        self._due = list(_FIRST_LINES)

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if self._in_place:
            filled = round(_WIDTH * progress.done / max(1, progress.total))
            columns = shutil.get_terminal_size().columns - 1
            line = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {progress}"
            print(f"\r{line[:columns]:<{columns}}", end="\n" if last else "", file=self._stream, flush=True)
        elif last or time.monotonic() - self._began >= self._due[0]:
            latest = self._due.pop(0)
            self._due = self._due or [latest + _LINES]
            print(progress, file=self._stream, flush=True)


class RichBar:
    """A task of a `rich.progress.Progress`: the caller's, or one of our own on standard error."""

    def __init__(self, bars: Any = None) -> None:
        self._own = bars is None
        if bars is None:
            rich = importlib.import_module("rich.progress")
            console = importlib.import_module("rich.console").Console(stderr=True)
            columns = (
                rich.BarColumn(_WIDTH),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.description}", markup=False),
            )
            bars = rich.Progress(*columns, console=console, auto_refresh=False)
            bars.start()
        self._bars = bars
        self._task: Any = None

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if self._task is None:
            self._task = self._bars.add_task("", total=progress.total)
        failed = [f"{progress.failed:,} failed"] if progress.failed else []
        text = "; ".join([*failed, *progress.notes])
        self._bars.update(self._task, completed=progress.done, description=text, refresh=True)
        if last and self._own:
            self._bars.stop()


class TqdmBar:
    """A bar of tqdm, of the class that the caller gives."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._bar: Any = None

    def show(self, progress: Progress, *, last: bool = False) -> None:
        if self._bar is None:
            # The time left that tqdm works out goes by the past.
            self._bar = self._make(
                total=progress.total, unit="call", bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
            )
        self._bar.set_postfix_str("; ".join(progress.notes), refresh=False)
        self._bar.n = progress.done
        self._bar.refresh()
        if last:
            self._bar.close()


class NotebookBar:
    """A bar below the cell; it needs no widgets."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, progress: Progress, *, last: bool = False) -> None:
        del last
        text = html.escape(str(progress))
        bar = f'<progress value="{progress.done}" max="{max(1, progress.total)}" style="width:20em"></progress> {text}'
        data = {"text/html": bar, "text/plain": str(progress)}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        elif self._handle is not None:
            self._handle.update(data, raw=True)


def display_for(progress: Any) -> Display | None:
    """The display that `progress=` asks for: True, False, tqdm's class, or a `rich.progress.Progress`."""
    if progress is False or progress is None:
        return None
    if progress is True:
        return _suitable()
    if hasattr(progress, "add_task"):
        return RichBar(progress)
    if callable(progress) and hasattr(progress, "set_postfix_str"):
        return TqdmBar(progress)
    raise TypeError(f"progress must be True, False, tqdm's class or a rich.progress.Progress; got {progress!r}")


def _suitable() -> Display | None:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ == "ZMQInteractiveShell":
        return NotebookBar(importlib.import_module("IPython.display").display)
    if sys.stderr is None:
        return None
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return RichBar()
    return Lines(sys.stderr)
