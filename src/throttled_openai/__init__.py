"""AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s."""

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

__all__ = [
    "AccountBlocked",
    "AccountPaused",
    "AdmissionError",
    "AdmissionTimeout",
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
    "throttle",
    "throttle_http_client",
    "uninstall",
]
