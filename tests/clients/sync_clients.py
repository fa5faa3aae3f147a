"""What the tests of blocking clients share: scripted and simulated servers, threads, waiting for a condition."""

import asyncio
import contextlib
import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from scripted import CHAT, FAMILIES, URL, Says, Seen, without_jitter
from throttled_openai import ThrottledOpenAI
from throttled_openai.simulator import Simulator, serve

EVENTS = [
    {**CHAT, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "yes"}}], "usage": None},
    {**CHAT, "object": "chat.completion.chunk", "choices": []},
]


def module_of(family):
    import importlib

    return importlib.import_module(family)


def events(*told, done=True):
    """A streamed body."""
    lines = [f"data: {json.dumps(event)}\n\n" for event in told or EVENTS]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


class Body:
    """A response's stream in pieces: `broken` after them, or else it ends; it counts its closings."""

    def __init__(self, *pieces, broken=None):
        self.pieces = pieces
        self.broken = broken
        self.closed = 0

    def __iter__(self):
        yield from self.pieces
        if self.broken is not None:
            raise self.broken

    def close(self):
        self.closed += 1


class Script:
    """A server in memory that gives these responses in turn, then successes; a function is called for its response."""

    def __init__(self, *responses):
        self.seen = []
        self._responses = list(responses)

    def client(self, family=FAMILIES[-1], **options):
        module = module_of(family)
        transport = type("ScriptTransport", (module.BaseTransport,), {})()
        transport.handle_request = functools.partial(self.answer, module)
        return module.Client(transport=transport, **options)

    def answer(self, module, request):
        body = b"".join(request.stream)
        self.seen.append(Seen(time.monotonic(), request.method, str(request.url), dict(request.headers), body, {}))
        says = self._responses.pop(0) if self._responses else Says()
        if callable(says):
            says = says()
        if isinstance(says, Exception):
            raise says
        time.sleep(says.delay)
        headers = {"content-type": "application/json", **says.headers}
        if isinstance(says.body, Body):
            stream = type("Stream", (module.SyncByteStream,), {"__iter__": lambda _: iter(says.body)})()
            stream.close = says.body.close
            return module.Response(says.status, headers={"content-type": "text/event-stream"}, stream=stream)
        return module.Response(says.status, headers=headers, content=says.content)


def throttled(server=None, family=FAMILIES[-1], **options):
    """A throttled client of a `Script`, without jitter."""
    given = {"api_key": "sk-test", "base_url": URL, **options}
    if server is not None:
        given["http_client"] = server.client(family)
    return without_jitter(ThrottledOpenAI(**given))


def say(client, text="hi", model="gpt-4o", **more):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **more)


def soon(condition, seconds=20.0):
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.005)


def is_idle(client):
    """No call waits or is in flight."""
    stats = client.throttle.stats()
    return stats.waiting == stats.in_flight == 0


@contextlib.contextmanager
def serving(simulator):
    """The URL of a simulator on a port, whose event loop runs in a thread."""
    loop = asyncio.new_event_loop()
    over, url = asyncio.Event(), []
    started = threading.Event()

    async def main():
        async with serve(simulator) as address:
            url.append(address)
            started.set()
            await over.wait()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(30)
        yield url[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)


@contextlib.contextmanager
def threads(count, work):
    """Threads that work beside the block, and are done after it."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        yield futures
        for future in futures:
            future.result(60)


def simulated(latency=0.2):
    """An asynchronous HTTP client before a simulated server."""
    simulator = Simulator(latency=latency)
    transport = simulator.transport() if FAMILIES[-1] == "httpx" else simulator.transport2()
    return module_of(FAMILIES[-1]).AsyncClient(transport=transport)
