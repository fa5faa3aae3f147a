"""AsyncOpenAI that finishes any number of calls as fast as the account allows, without 429s."""

from ._client import ThrottledAsyncAzureOpenAI, ThrottledAsyncOpenAI
from ._core.limits import Limits
from ._core.stats import BudgetStats, Stats, WindowStats
from ._http_client import throttle_http_client
from ._install import install, uninstall
from ._options import manners
from ._pool import PooledAsyncHttpxClient, PooledHttpxClient
from ._seam import Throttled
from ._sync import SyncThrottled, ThrottledAzureOpenAI, ThrottledOpenAI
from ._throttle import Throttle
from ._wrap import throttle
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
