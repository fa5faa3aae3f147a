"""What the tests of the client share: throttled clients before simulated and scripted servers."""

import asyncio
import contextlib
import functools
import importlib
import itertools
import json
from dataclasses import dataclass, field
from importlib.util import find_spec

import pytest

from throttled_openai import ThrottledAsyncOpenAI

# SDK 2 brings httpx and, from 2.47, takes httpx2 clients where that is installed; SDK 3 the other way round.
FAMILIES = ["httpx", *(["httpx2"] if find_spec("httpx2") else [])]
families = pytest.mark.parametrize("family", FAMILIES)
HI = [{"role": "user", "content": "hi"}]
URL = "http://server/v1"


def http_client(server, family=FAMILIES[-1], **options):
    """An `httpx` or `httpx2` client in front of a `Simulator` or a `Script`."""
    module = importlib.import_module(family)
    if isinstance(server, Script):
        transport = server.transport(module)
    else:
        transport = server.transport() if family == "httpx" else server.transport2()
    return module.AsyncClient(transport=transport, **options)


def throttled(server, family=FAMILIES[-1], **options):
    """A throttled client of `server`, without jitter."""
    client = ThrottledAsyncOpenAI(
        **{"api_key": "sk-test", "base_url": URL, "http_client": http_client(server, family), **options}
    )
    return without_jitter(client)


def without_jitter(client):
    client.throttle._dispatcher.random = lambda: 0.0
    return client


async def say(client, text="hi", model="gpt-4o", **more):
    """One chat call."""
    return await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def text_of(tokens):
    """A prompt that costs `tokens`: one message and 2 go on top of a quarter of its bytes."""
    return "a" * 4 * (tokens - 3)


def now():
    return asyncio.get_running_loop().time()


async def settled(turns=20):
    """Let everything run that can run without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def cancelled_at_the_end(*coroutines):
    """Tasks that run beside the block and are cancelled after it."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await settled()
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9},
}


@dataclass
class Says:
    """One scripted response, `delay` seconds after its request."""

    status: int = 200
    body: object = field(default_factory=lambda: CHAT)
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0

    @property
    def content(self):
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def refuses(message="Rate limit reached", *, code="rate_limit_exceeded", kind="requests", status=429, **more):
    """A refusal in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Says(status, {"error": error}, **more)


@dataclass
class Seen:
    """One request as it arrived."""

    at: float
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    timeout: dict[str, float]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.json["messages"][0]["content"]

    @property
    def retry_count(self):
        return int(self.headers["x-stainless-retry-count"])


class Script:
    """A server that gives these responses in turn, then successes, and keeps the requests.

    It reads request bodies as a socket would: a body that cannot be read twice is consumed.
    """

    def __init__(self, *responses):
        self.seen = []
        self._responses = itertools.chain(responses, iter(Says, None))

    @property
    def times(self):
        return [seen.at for seen in self.seen]

    def transport(self, module):
        return _transport_class(module)(self)

    async def answer(self, request, module):
        body = b"".join([chunk async for chunk in request.stream])
        headers, timeout = dict(request.headers), request.extensions.get("timeout", {})
        self.seen.append(Seen(now(), request.method, str(request.url), headers, body, timeout))
        says = next(self._responses)
        if says.delay:
            await asyncio.sleep(says.delay)
        headers = {"content-type": "application/json", **says.headers}
        streamed = headers["content-type"] == "text/event-stream"  # bytes would count as read and closed
        return module.Response(says.status, headers=headers, content=_once(says.content) if streamed else says.content)


async def _once(content):
    yield content


@functools.cache
def _transport_class(module):
    class ScriptTransport(module.AsyncBaseTransport):
        def __init__(self, script):
            self._script = script

        async def handle_async_request(self, request):
            return await self._script.answer(request, module)

    return ScriptTransport
