"""Calls as programs make them: one client, one way of calling, one load; and how each call ended."""

import asyncio
import contextlib
import hashlib
import importlib
from dataclasses import dataclass, field

import openai
from openai import AsyncOpenAI

from scripted import FAMILIES, URL
from throttled_openai import ThrottledAsyncOpenAI, wrap, wrap_http_client

from .server import now

# What may be in no log line, warning or error of ours.
PROMPT = "PROMPTMARKER"
KEY = "sk-KEYMARKER"
# Virtual seconds after which a call that has not ended is taken to hang. Stock never takes half of it here.
DEADLINE = 3 * 3600.0


def stock(http, **options):
    return AsyncOpenAI(api_key=KEY, base_url=URL, http_client=http, **options), None


def _subclass(http, *, ours, **options):
    client = ThrottledAsyncOpenAI(api_key=KEY, base_url=URL, http_client=http, **options, **ours)
    return client, client.throttle


def _wrapped(http, *, ours, **options):
    client = wrap(stock(http, **options)[0], **ours)
    return client, client.throttle


def _below(http, *, ours, **options):
    view = wrap_http_client(http, **ours)
    return stock(view, **options)[0], view.throttle


SEAMS = {"class": _subclass, "wrap()": _wrapped, "http client": _below}


def http_client(server):
    """As the SDK makes its own, but for the connections."""
    module = importlib.import_module(FAMILIES[-1])
    return module.AsyncClient(transport=server.transport(module), follow_redirects=True)


@dataclass(frozen=True)
class Ending:
    """How one call ended: with a value, or with an exception of `cls`."""

    name: str
    value: str = ""
    status: int | None = None
    code: str | None = None
    body: str = ""
    cls: type | None = field(default=None, compare=False)
    error: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def ok(self):
        return self.cls is None

    def __str__(self):
        parts = [self.name, self.value, str(self.status or ""), str(self.code or "")[:40], self.body[:60]]
        return " ".join(filter(None, parts))


def _brief(value):
    """Short, and different where `value` is."""
    text = repr(value)
    return text if len(text) < 100 else f"{text[:40]}...{hashlib.sha1(text.encode()).hexdigest()[:8]}"


def failed(error):
    error.__traceback__ = None  # its frames hold the stream that failed
    body = getattr(error, "body", None)
    return Ending(
        type(error).__name__,
        status=getattr(error, "status_code", None),
        code=_brief(getattr(error, "code", None)),
        body="" if body is None else _brief(body),
        cls=type(error),
        error=error,
    )


def done(number, said):
    """The answer that was asked for, or what else was taken for one."""
    return Ending("ok", value="" if said == f"yes {number}" else _brief(said))


def request_of(number):
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{PROMPT} {number}"}]}


async def _plain(client, asked):
    return await client.chat.completions.create(**asked)


async def _raw(client, asked):
    return (await client.chat.completions.with_raw_response.create(**asked)).parse()


async def _streaming(client, asked):
    async with client.chat.completions.with_streaming_response.create(**asked) as response:
        return await response.parse()


async def _stream(client, asked):
    told = ""
    async for chunk in await client.chat.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            told += choice.delta.content or ""
    return told


WAYS = {"plain": _plain, "raw": _raw, "streaming response": _streaming, "stream": _stream}


def _content(answered):
    if isinstance(answered, openai.types.chat.ChatCompletion) and answered.choices:
        return answered.choices[0].message.content
    return answered


async def one(client, way, number):
    """Make call `number`: its ending, and the seconds it took."""
    began = now()
    try:
        ending = done(number, _content(await WAYS[way](client, request_of(number))))
    except asyncio.CancelledError:
        if now() >= DEADLINE:
            raise
        return Ending("given up"), now() - began
    except Exception as error:  # noqa: BLE001  # whatever it is, stock has to raise it too
        ending = failed(error)
    return ending, now() - began


async def _gathered(count, call):
    return await asyncio.gather(*map(call, range(count)))


async def _sequential(count, call):
    return [await call(number) for number in range(count)]


async def _trickle(count, call):
    async def later(number):
        await asyncio.sleep(number / 2)
        return await call(number)

    return await asyncio.gather(*map(later, range(count)))


async def _cancelled(count, call):
    """Every third caller gives up before the server can have answered."""

    async def impatient(number):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(call(number), None if number % 3 else 0.05)

    return await asyncio.gather(*map(impatient, range(count)))


# name: (how, how many)
LOADS = {
    "one": (_sequential, 1),
    "sequential": (_sequential, 20),
    "dozen": (_gathered, 12),
    "gathered": (_gathered, 60),
    "trickle": (_trickle, 30),
    "some give up": (_cancelled, 30),
}
