"""The tally: the running count of one client's calls."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from throttled_openai._protocol.headers import read_limits

from .contender import NAME_WIDTH
from .result import Result, ideal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .contender import Contender


@dataclass(slots=True)
class Tally:
    """The count of one contender's run, valid during the run and after it, however it ends."""

    contender: Contender
    calls: int
    rate: float | None
    """The account's limit in calls per second; if it was not configured, as the server announces it."""
    done: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    complaint: str = ""
    _latency: float = 0.0
    _began: float = 0.0
    _ended: float | None = None

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def seconds(self) -> float:
        return (time.perf_counter() if self._ended is None else self._ended) - self._began

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self) -> None:
        self._ended = time.perf_counter()

    def fail(self, error: Exception) -> None:
        self.failures[type(error).__name__] += 1
        self.complaint = self.complaint or str(error)

    async def answered(self, response: Any) -> None:
        """Event hook for every HTTP response, including those that the client retries."""
        self.refused += response.status_code == 429
        if response.is_success:
            self._latency = server_seconds(response.headers)
        if self.rate is None:
            # OpenAI announces only the daily limit if a model has one, which says nothing about the rate.
            rates = [window.rate for window in read_limits(response.headers).requests if window.period <= 60]
            self.rate = min(rates, default=None)

    def result(self) -> Result:
        return Result(
            contender=self.contender,
            calls=self.calls,
            done=self.done,
            refused=self.refused,
            seconds=self.seconds,
            ideal=None if self.rate is None else ideal(self.calls, self.rate, self._latency),
            failures=tuple(self.failures.most_common()),
        )


def progress(tally: Tally) -> str:
    """One line of progress. Names are padded, so that the lines of all contenders align."""
    width = len(str(tally.calls))
    return (
        f"{tally.contender.name:<{NAME_WIDTH}}  {tally.done:>{width}}/{tally.calls} done, {tally.failed} failed,"
        f" {tally.refused} × 429   {tally.seconds:.1f} s"  # noqa: RUF001
    )


def server_seconds(headers: Mapping[str, str]) -> float:
    """The processing time that the server reports, in seconds; 0 if it reports none.

    Measured here it would include the client's own delay: 1,000 calls that start at once block their
    event loop for seconds, which must not count in the client's favour.
    """
    milliseconds = headers.get("openai-processing-ms", "")
    return int(milliseconds) / 1000 if milliseconds.isascii() and milliseconds.isdigit() else 0.0
