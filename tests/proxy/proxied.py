"""What the tests of the proxy share: a proxy on a real port before a server that says what a test wants."""

import asyncio
import contextlib
import json

import httpx
import uvicorn

from throttled_openai._clients.shared import shared
from throttled_openai._commands.proxy.app import Proxy
from throttled_openai._commands.proxy.cli import config_of, listen

KEY = "sk-secret-of-the-test"
CHAT_BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "the prompt"}]}


class Proxied:
    """`lines`: what the proxy has logged. `http`: a client of it, `port`: where it listens."""

    def __init__(self, proxy, port, lines):
        self.proxy, self.port, self.lines = proxy, port, lines
        self.url = f"http://127.0.0.1:{port}/v1"
        self.http = httpx.AsyncClient(base_url=self.url, headers={"authorization": f"Bearer {KEY}"}, timeout=20)

    @property
    def stats(self):
        """Of the only account that has been used."""
        ((_, stats),) = shared.stats()
        return stats

    async def chat(self, key=KEY, **more):
        body = {**CHAT_BODY, **more}
        return await self.http.post("/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})

    async def has_logged(self, text):
        await until(lambda: any(text in line for line in self.lines))


@contextlib.asynccontextmanager
async def proxied(upstream, **options):
    """A proxy before `upstream`, a URL."""
    lines = []
    proxy = Proxy(upstream, lines.append, **options)
    sockets = listen("127.0.0.1", 0)
    server = uvicorn.Server(config_of(proxy))
    serving = asyncio.create_task(server.serve(sockets=sockets))
    served = Proxied(proxy, sockets[0].getsockname()[1], lines)
    try:
        await until(lambda: server.started)
        yield served
    finally:
        await served.http.aclose()
        proxy.stop()
        # Not as the command stops, which takes a fifth of a second.
        serving.cancel()
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(serving, *server.server_state.tasks, return_exceptions=True)
        await proxy.aclose()


async def until(true, seconds=10.0):
    """Wait for what another task or process brings about."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def raw(port, body, *, path="/v1/chat/completions", headers=(), key=KEY, method="POST"):
    """A connection on which a request has been sent, for callers that hang up or look at each byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: proxy", f"authorization: Bearer {key}"]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("content-type: application/json")
    lines += [*headers, f"content-length: {len(content)}"]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def error_of(response):
    return response.json()["error"]
