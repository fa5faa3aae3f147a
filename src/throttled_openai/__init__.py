"""AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s."""

from typing import TYPE_CHECKING

from ._admission.throttle import Throttle
from ._clients.async_client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from ._clients.base import Throttled
from ._clients.http_client import throttle_http_client
from ._clients.install import install, uninstall
from ._clients.options import manners
from ._clients.sync_client import SyncThrottled, ThrottledAzureOpenAI, ThrottledOpenAI
from ._clients.wrap import throttle
from ._limits import Limits
from ._pool import PooledAsyncHttpxClient, PooledHttpxClient
from ._stats import BudgetStats, Stats, WindowStats
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

__all__ = [
    "AccountBlocked",
    "AccountPaused",
    "AdmissionError",
    "AdmissionTimeout",
    "BatchResult",
    "BatchStoppedError",
    "BudgetStats",
    "ClientClosed",
    "Limits",
    "PooledAsyncHttpxClient",
    "PooledHttpxClient",
    "QueueFull",
    "RequestTooLarge",
    "ServerPaused",
    "Stats",
    "SyncThrottled",
    "Throttle",
    "Throttled",
    "ThrottledAsyncAzureOpenAI",
    "ThrottledAsyncOpenAI",
    "ThrottledAzureOpenAI",
    "ThrottledOpenAI",
    "WindowStats",
    "install",
    "manners",
    "run_batch",
    "run_file",
    "throttle",
    "throttle_http_client",
    "uninstall",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What is for files of requests is imported at its first use."""
        if name not in {"BatchResult", "BatchStoppedError", "run_batch", "run_file"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import batch  # noqa: PLC0415

        found = globals()[name] = getattr(batch, name)
        return found
