"""The connection pool: a stack of connections to each server, as cheap with a thousand as with ten.

httpcore's pool looks at every connection it has, twice for every call. Here a call takes one of
httpcore's connections off a stack and has it for itself, and the connections stand on asyncio's own
transports instead of anyio's. The transport stays httpx's, so whatever patches or wraps httpx and
httpcore (respx, vcrpy, OpenTelemetry) meets every exchange. For `httpx` and `httpx2` alike.
"""

from ._client import Kind, Pooled, PooledAsyncHttpxClient, http_client

__all__ = ["Kind", "Pooled", "PooledAsyncHttpxClient", "http_client"]
