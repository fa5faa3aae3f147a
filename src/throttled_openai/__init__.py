"""AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s.

The rooms of the library, from the top. Each one imports only rooms below it:

    _commands    RUN      the command line: run, validate, exec, proxy, top, bench, demo, simulate
    otel         REPORT   metrics and spans for OpenTelemetry
    batch        BATCH    many requests, from a file or from Python
    _clients     CALL     the SDK's clients with a throttle, and the ways to get one
    _exchange    SEND     one attempt over HTTP, and sending refused calls again
    _pool        CONNECT  connections to servers
    _admission   WAIT     the throttle, its queues, and the permits that calls wait for
    errors                the errors of calls that were not sent
    _control     DECIDE   when the next attempt may go: pacing, server windows, concurrency
    _seeing      SHOW     events and explanations, for people and their tools
    _protocol    READ     what providers write: headers, refusals, usage; and what requests cost
    simulator    OPPOSE   a simulated server with limits, independent of all others

Below them lie single files: `_limits` (what users configure), `_stats` (what they read), `_spelling` (suggestions for
mistyped names) and `_numbers` (numbers in messages).
"""

from typing import TYPE_CHECKING

from ._admission.throttle import Throttle
from ._clients.async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from ._clients.base import AsyncThrottledMixin
from ._clients.gather import as_completed, gather
from ._clients.http_client import wrap_http_client
from ._clients.install import install, uninstall
from ._clients.options import queue_options
from ._clients.parameters import fast_parameters
from ._clients.sync_client import ThrottledAzureOpenAI, ThrottledMixin, ThrottledOpenAI
from ._clients.wrap import wrap
from ._limits import Limits
from ._pool import PooledAsyncHttpxClient, PooledHttpxClient
from ._seeing.events import (
    Admitted,
    BreakerChanged,
    Charged,
    Event,
    Left,
    LimitChanged,
    Paused,
    Refused,
    Settled,
    Waiting,
)
from ._seeing.explanation import Explanation, Wait
from ._stats import BudgetStats, PauseStats, Stats, WaitStats, WindowStats
from .errors import (
    AccountBlocked,
    AccountPaused,
    AdmissionError,
    AdmissionTimeout,
    ClientClosed,
    QueueFull,
    RequestTooLarge,
    ServerPaused,
)

if TYPE_CHECKING:
    from .batch import BatchResult, BatchStoppedError, run_batch, run_file

    __version__: str

__all__ = [
    "AccountBlocked",
    "AccountPaused",
    "AdmissionError",
    "AdmissionTimeout",
    "Admitted",
    "AsyncThrottledMixin",
    "BatchResult",
    "BatchStoppedError",
    "BreakerChanged",
    "BudgetStats",
    "Charged",
    "ClientClosed",
    "Event",
    "Explanation",
    "Left",
    "LimitChanged",
    "Limits",
    "PauseStats",
    "Paused",
    "PooledAsyncHttpxClient",
    "PooledHttpxClient",
    "QueueFull",
    "Refused",
    "RequestTooLarge",
    "ServerPaused",
    "Settled",
    "Stats",
    "Throttle",
    "ThrottledAsyncAzureOpenAI",
    "ThrottledAsyncOpenAI",
    "ThrottledAzureOpenAI",
    "ThrottledMixin",
    "ThrottledOpenAI",
    "Wait",
    "WaitStats",
    "Waiting",
    "WindowStats",
    "as_completed",
    "fast_parameters",
    "gather",
    "install",
    "queue_options",
    "run_batch",
    "run_file",
    "uninstall",
    "wrap",
    "wrap_http_client",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The version is looked up, and what is for files of requests is imported, at its first use."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            found = globals()[name] = version("throttled-openai")
            return found
        if name not in {"BatchResult", "BatchStoppedError", "run_batch", "run_file"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import batch  # noqa: PLC0415

        found = globals()[name] = getattr(batch, name)
        return found
