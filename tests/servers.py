"""A real server on a local port that answers what a test wants, and its certificate."""

import asyncio
import contextlib
import functools
import json
import ssl
from dataclasses import dataclass, field

from scripted import CHAT

# For localhost and 127.0.0.1, its own authority, valid until 2120, worth nothing anywhere else.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBxTCCAWugAwIBAgIUaBYWAFub51ZZw37QMsjO7Y/zl9swCgYIKoZIzj0EAwIw
ITEfMB0GA1UEAwwWdGhyb3R0bGVkLW9wZW5haSB0ZXN0czAgFw0yMDAxMDEwMDAw
MDBaGA8yMTIwMDEwMTAwMDAwMFowITEfMB0GA1UEAwwWdGhyb3R0bGVkLW9wZW5h
aSB0ZXN0czBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOcObkPqRSxrhVR0vYB+
1U5RzjM0S7iXFuxsLVBANXa3/blLOcVnooszVUU4p4ZdylWnghKXAPd5PZbDnYFm
DsqjfzB9MBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8EBTAD
AQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4EFgQUt2+7q4UyOmum19Gsj9LFN+TE
K+AwHwYDVR0jBBgwFoAUt2+7q4UyOmum19Gsj9LFN+TEK+AwCgYIKoZIzj0EAwID
SAAwRQIgUP3jSji1M+WMxzK3MsxSfOC7kPBipBMBuRxVgmZastICIQDTrc5E4vn5
bfKBiz2UR5MrD8IhLRoqta9NllmCgpSrNg==
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgS/lZZv4zDwBIWZq+
+crgZ9j24JDaRLdcmP1nhiEHrnOhRANCAATnDm5D6kUsa4VUdL2AftVOUc4zNEu4
lxbsbC1QQDV2t/25SznFZ6KLM1VFOKeGXcpVp4ISlwD3eT2Ww52BZg7K
-----END PRIVATE KEY-----
"""


def real(test):
    """Run an async test on a real loop, for 30 seconds at most."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


def trusting(certificate):
    return ssl.create_default_context(cafile=certificate)


def identity(certificate, *, asks_clients=False):
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if asks_clients:
        context.load_verify_locations(certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@dataclass
class Asked:
    """One request: the `nth` on connection number `connection`, both from 1."""

    connection: int
    nth: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def says(body=CHAT, status=200, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


@dataclass
class Server:
    """Answers each request with the bytes that `answer` gives; None closes the connection."""

    answer: object = None
    tls: ssl.SSLContext | None = None
    shakes_hands_for: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    heads: int = 0
    shaking: int = 0
    most_shaking: int = 0

    @property
    def open(self):
        """Connections that neither side has closed."""
        return sum(not reader.at_eof() for reader in self._readers)

    async def __aenter__(self):
        self._tasks = set()
        self._readers = set()
        at_once = None if self.shakes_hands_for else self.tls
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=at_once)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader, writer):
        if self.shakes_hands_for:
            writer.transport.pause_reading()  # the client's first words are for `start_tls`; not on uvloop
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader, writer):
        self.connections += 1
        self._readers.add(reader)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._shake_hands(writer)
                await self._converse(reader, writer, self.connections)
        finally:
            self._readers.discard(reader)
            writer.transport.abort()

    async def _shake_hands(self, writer):
        self.shaking += 1
        self.most_shaking = max(self.most_shaking, self.shaking)
        try:
            await asyncio.sleep(self.shakes_hands_for)
            if self.tls and self.shakes_hands_for:
                await writer.start_tls(self.tls)
        finally:
            self.shaking -= 1

    async def _converse(self, reader, writer, connection):
        for nth in range(1, 10_000):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads += 1
            first, *lines = head.strip().split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = Asked(connection, nth, method, target, headers, body, reader, writer)
            self.asked.append(asked)
            reply = says() if self.answer is None else await self.answer(asked)
            if reply is None:
                return
            writer.write(reply)
            await writer.drain()


def after(seconds, reply=None):
    async def answer(asked):
        await asyncio.sleep(seconds)
        return reply or says()

    return answer


async def forward(asked):
    """What a proxy does: it passes requests on, and connects."""
    if asked.method == "CONNECT":
        host, port = asked.target.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        asked.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(asked.reader, writer), pipe(reader, asked.writer))
        return None
    return says({"proxied": asked.target})


async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
