"""The connection pool: a stack of connections to each server, as cheap with a thousand as with ten.

httpcore's pool looks at every connection it has, twice for every call. Here a call takes a connection
off a stack and has it for itself, and the connections speak HTTP/1.1 on asyncio's own transports.
The httpx transport above, the exceptions, httpcore's trace events and log lines stay what they are, so
whatever patches or wraps httpx and httpcore's pool (respx, vcrpy, OpenTelemetry) meets every exchange.
For `httpx` and `httpx2` alike. On trio httpcore's own pool sends.

A client has a transport, whose pool (`_stack`) has a shelf of connections for each server
(`_shelf`), on each event loop (`_loops`). A connection (`_connection`) puts requests and responses
(`_wire`) on a stream (`_network`) to the first address of its server that answers (`_addresses`), and
reports each step to listeners and the log (`_events`).
"""

from ._client import (
    Kind,
    Pooled,
    PooledAsyncHttpxClient,
    PooledHttpxClient,
    SyncPooled,
    http_client,
    sync_http_client,
)
from ._raw import RawExchange, RawResponse, raw_exchange

__all__ = [
    "Kind",
    "Pooled",
    "PooledAsyncHttpxClient",
    "PooledHttpxClient",
    "RawExchange",
    "RawResponse",
    "SyncPooled",
    "http_client",
    "raw_exchange",
    "sync_http_client",
]
