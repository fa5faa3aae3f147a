"""What the tests of the pool share: pooled clients, their pools, and answers of servers."""

import asyncio
import importlib

import openai

from scripted import FAMILIES
from throttled_openai._pool import Pooled, PooledAsyncHttpxClient


def pooled(family=FAMILIES[-1], **options):
    base = importlib.import_module(family).AsyncClient
    return type("Client", (Pooled, base), {})(**options)


def direct(family, **options):
    """A pooled client that ignores the proxies and certificates of the environment."""
    return pooled(family, trust_env=False, **options)


def error(family, name):
    return getattr(importlib.import_module(family), name)


def module_of(family):
    return importlib.import_module(family)


def limits(family=FAMILIES[-1], *, most=None, kept=None, seconds=None):
    return module_of(family).Limits(max_connections=most, max_keepalive_connections=kept, keepalive_expiry=seconds)


def origin_pool_of(client):
    """The only origin pool of a client on the running loop."""
    pools, _ = client._transport._pool._pools._loops[asyncio.get_running_loop()]
    (pool,) = pools._pools.values()
    return pool


async def soon(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def sdk(server, **options):
    return openai.AsyncOpenAI(
        **{"api_key": "k", "base_url": server.url, "http_client": PooledAsyncHttpxClient(), "max_retries": 0, **options}
    )


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)
