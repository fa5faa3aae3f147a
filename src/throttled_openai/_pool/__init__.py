"""The connection pool: a stack of connections to each server, as cheap with a thousand as with ten.

httpcore's pool looks at every connection it has, twice for every call. Here each connection is an
httpx transport with a pool of one, which a call takes off a stack and has for itself. Whatever
patches httpx's transports or httpcore's pools (respx, vcrpy, OpenTelemetry) still meets every
exchange. For `httpx` and `httpx2` alike.
"""

from ._client import Kind, Pooled, PooledAsyncHttpxClient, http_client

__all__ = ["Kind", "Pooled", "PooledAsyncHttpxClient", "http_client"]
