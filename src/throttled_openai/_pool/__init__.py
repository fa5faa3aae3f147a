"""CONNECT. The connection pool: a stack of connections to each origin, as cheap with 1,000 connections as with 10.

httpcore's pool examines all of its connections twice for every call. Here a call takes a connection
off a stack and has exclusive use of it, and connections speak HTTP/1.1 on asyncio's own transports.
The httpx transport above, the exceptions, httpcore's trace events and its log lines are unchanged, so
libraries that patch or wrap httpx or httpcore's pool (respx, vcrpy, OpenTelemetry) see every exchange.
It serves `httpx` and `httpx2` alike. On trio httpcore's own pool sends.

A client has a transport, whose pool (`stack`) has one pool of connections for each origin
(`origin_pool`), on each event loop (`loops`). A connection (`connection`) puts requests and responses
(`wire`) on a stream (`network`) to the first address of its server that answers (`addresses`), and
reports each step to listeners and the log (`events`).
"""

from .client import (
    Kind,
    Pooled,
    PooledAsyncHttpxClient,
    PooledHttpxClient,
    SyncPooled,
    http_client,
    sync_http_client,
)
from .raw import RawExchange, RawResponse, raw_exchange

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
