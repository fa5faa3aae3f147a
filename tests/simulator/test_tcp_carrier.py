"""The simulator on a TCP port, and its reader of HTTP/1.1."""

import asyncio
import json

import httpx
import pytest
from openai import AsyncOpenAI

from simulated import HI, chat, until
from throttled_openai.simulator import Fault, Simulator, serve
from throttled_openai.simulator._carriers.http1 import MalformedRequestError, RequestReader


def test_it_serves_over_tcp():
    async def main():
        server = Simulator(rpm=500, latency=0.02)
        async with serve(server) as url, AsyncOpenAI(api_key="x", base_url=url) as client:
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=HI)
            assert raw.headers["x-ratelimit-remaining-requests"] == "499"
            assert raw.parse().usage.total_tokens == 24
            stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
            assert len([chunk async for chunk in stream]) == 18
            response = await client.responses.create(model="m", input="hi")
            assert (await client.responses.retrieve(response.id)).id == response.id
            await client.files.create(file=("a", b"x" * 300_000), purpose="batch")
            # Some SDKs drop the connection of a stream after its last event.
            assert server.counters.connections_made in {1, 2}
            assert server.connections == 1
        assert server.connections == 0
        assert server.succeeded == 3

    asyncio.run(main())


def test_over_tcp_a_client_that_leaves_is_noticed_at_once():
    async def main():
        server = Simulator(latency=30.0)
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            calls = [
                asyncio.create_task(client.post("/chat/completions", json=chat(10, stream=stream)))
                for stream in (False, True)
            ]
            await until(lambda: server.in_flight == 2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: server.in_flight == 0)
            assert server.open_streams == 0
            assert server.counters.abandoned == 2

    asyncio.run(main())


def test_over_tcp_faults_are_real():
    async def main():
        server = Simulator(latency=0.0, faults=[Fault("disconnect", last=0), Fault("stream_cut", first=1)])
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/chat/completions", json=chat(10, stream=True))
            assert (await client.post("/chat/completions", json=chat(10))).status_code == 200

    asyncio.run(main())


def test_closing_the_server_ends_hanging_replies():
    async def main():
        server = Simulator(faults=[Fault("hang")])
        async with httpx.AsyncClient(timeout=None) as client:
            async with serve(server) as url:
                call = asyncio.create_task(client.post(f"{url}/chat/completions", json=chat(10)))
                await until(lambda: server.in_flight == 1)
            with pytest.raises(httpx.TransportError):
                await call
            assert server.in_flight == 0

    asyncio.run(main())


def test_over_tcp_a_body_may_come_in_chunks():
    async def body():
        text = json.dumps(chat(10)).encode()
        yield text[:5]
        yield text[5:]

    async def main():
        server = Simulator(latency=0.0)
        async with serve(server) as url, httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/chat/completions", content=body())).status_code == 200
            assert server.log[0].tokens == 10

    asyncio.run(main())


def test_requests_are_read_however_their_bytes_arrive():
    chunked = b"POST /a%20b?c=d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    sized = b"POST /v1 HTTP/1.1\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxyz"
    reader, read = RequestReader(), []
    for byte in chunked + sized:
        reader.feed(bytes([byte]))
        if (request := reader.next()) is not None:
            read.append((request.method, request.path, request.body, request.keep_alive))
    assert read == [("POST", "/a b", b"abcde", True), ("POST", "/v1", b"xyz", False)]


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"a" * 70_000,
    ],
)
def test_bytes_that_are_not_http_are_refused(data):
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(MalformedRequestError):
        reader.next()


def test_over_tcp_bytes_that_are_not_http_close_the_connection():
    async def main():
        async with serve(Simulator()) as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://")[:-3].split(":"))
            writer.write(b"hello\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())
