"""One connection of ours: what servers do to it, and what else is done with httpx and httpcore."""

import asyncio
import contextlib
import functools
import importlib
import itertools
import re

import pytest

from pooled import direct, error
from scripted import families
from servers import CERTIFICATE, Server, identity, real, says, trusting


def core_of(family):
    return importlib.import_module(family.replace("httpx", "httpcore"))


def url_of(server):
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def raw(*parts, hang_up=True, pause=0.0):
    """Answers with these bytes, and hangs up."""

    async def answer(asked):
        for part in parts:
            asked.writer.write(part)
            await asyncio.sleep(pause)
        return None if hang_up else b""

    return answer


@families
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "Server disconnected without sending a response"),
        (b"HTTP/1.1 200 OK\r\nContent-", "Server disconnected without sending a response"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "illegal header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", r"received 2 bytes, expected 5"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", "incomplete chunked read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfive\r\n", "illegal chunk header"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "was not asked for"),
        (b"HTTP/1.1 103 Hints\r\nContent-Length: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "bad Content-Length"),
    ],
)
@real
async def test_an_invalid_response_is_a_protocol_error(family, said, why):
    async with Server(raw(said)) as server, direct(family) as client:
        with pytest.raises(error(family, "RemoteProtocolError"), match=why):
            await client.get(server.url)


@families
@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-", b"SSH-2.0-OpenSSH\r\n\r\n"])
@real
async def test_a_request_with_a_partial_answer_is_not_sent_again(family, said):
    async def answer(asked):
        if asked.nth == 1:
            return says()
        asked.writer.write(said)
        return None

    async with Server(answer) as server, direct(family) as client:
        await client.post(server.url, content=b"first")
        with pytest.raises(error(family, "RemoteProtocolError")):
            await client.post(server.url, content=b"second")
        assert [asked.body for asked in server.asked] == [b"first", b"second"]


@families
@real
async def test_a_connection_that_is_reset_is_a_read_error_or_a_protocol_error(family):
    async def reset(asked):
        asked.writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0
        asked.writer.transport.abort()

    async with Server(reset) as server, direct(family) as client:
        with pytest.raises((error(family, "ReadError"), error(family, "RemoteProtocolError"))):
            await client.get(server.url)


@families
@real
async def test_a_server_that_says_nothing_is_a_read_timeout_in_head_and_body(family):
    async def half(asked):
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await asyncio.sleep(5)

    for answer in (lambda _: asyncio.sleep(5), half):
        async with Server(answer) as server, direct(family) as client:
            with pytest.raises(error(family, "ReadTimeout")):
                await client.get(server.url, timeout=0.1)


@families
@pytest.mark.parametrize("tls", [False, True])
@real
async def test_a_body_without_length_ends_with_its_connection(family, tls, tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    answer = raw(b"HTTP/1.1 200 OK\r\n\r\nall", b" of it", pause=0.02)
    server = Server(answer, tls=identity(str(certificate)) if tls else None)
    async with server, direct(family, verify=trusting(str(certificate))) as client:
        for _ in range(2):
            assert (await client.get(server.url)).text == "all of it"
        assert server.connections == 2


@families
@real
async def test_tls_in_answer_to_plain_http_is_not_waited_for(family):
    async with Server(raw(b"\x15\x03\x01\x00\x02\x02\x46", hang_up=False)) as server, direct(family) as client:
        with pytest.raises(error(family, "RemoteProtocolError"), match="illegal status line"):
            await client.get(server.url)


@families
@real
async def test_a_last_chunk_that_ends_with_a_bare_line_feed_is_not_waited_for(family):
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0002\r\nhi\r\n0\r\n\n"
    async with Server(raw(said, hang_up=False)) as server, direct(family) as client:
        assert (await client.get(server.url)).text == "hi"
        assert (await client.get(server.url)).text == "hi"
        assert server.connections == 1


@families
@real
async def test_a_length_that_was_said_twice_is_handed_on_once(family):
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\ncontent-length: 2\r\n\r\nhi"
    async with Server(raw(said, hang_up=False)) as server, direct(family) as client:
        answer = await client.get(server.url)
        assert (answer.text, answer.headers["content-length"]) == ("hi", "2")


@families
@real
async def test_answers_before_the_answer_are_passed_over(family):
    said = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + says({"a": 1})
    async with Server(raw(said, hang_up=False)) as server, direct(family) as client:
        assert (await client.get(server.url)).json() == {"a": 1}
        assert (await client.get(server.url)).json() == {"a": 1}
        assert server.connections == 1


@families
@pytest.mark.parametrize("tls", [False, True])
@real
async def test_large_bodies_pass_both_ways(family, tls, tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    prompt = bytes(range(256)) * 40_000

    async def echo(asked):
        return says(asked.body)

    server = Server(echo, tls=identity(str(certificate)) if tls else None)
    verify = trusting(str(certificate)) if tls else True
    async with server, direct(family, verify=verify) as client:
        for _ in range(2):
            assert (await client.post(server.url, content=prompt)).content == prompt
        assert server.connections == 1


@families
@real
async def test_a_server_that_does_not_read_is_a_write_timeout(family):
    stuck = asyncio.Event()

    async def ignore(reader, writer):
        await stuck.wait()
        writer.transport.abort()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0, limit=1024)
    url, module = url_of(server), importlib.import_module(family)
    async with server, direct(family) as client:
        with pytest.raises(module.WriteTimeout):
            await client.post(url, content=b"x" * 20_000_000, timeout=module.Timeout(20, write=0.2))
        stuck.set()


@families
@real
async def test_a_body_of_unknown_length_goes_in_chunks(family):
    async def parts():
        yield b"one, "
        yield b""
        await asyncio.sleep(0.01)
        yield b"two"

    async def unchunk(asked):
        body = b""
        while size := int(await asked.reader.readline(), 16):
            body += await asked.reader.readexactly(size)
            await asked.reader.readline()
        await asked.reader.readline()
        return says(body)

    async with Server(unchunk) as server, direct(family) as client:
        for _ in range(2):
            assert (await client.post(server.url, content=parts())).text == "one, two"
        assert server.connections == 1


@families
@real
async def test_an_early_answer_is_read_though_the_server_refuses_the_rest(family):
    gone = asyncio.Event()

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = url_of(server)
    async with server, direct(family) as client:
        answer = await client.post(url, content=b"x" * 3_000_000)
        assert (answer.status_code, answer.text) == (413, "big")
        await gone.wait()


@families
@real
async def test_an_upgrade_leaves_the_stream_to_the_caller(family):
    async def shout(asked):
        asked.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: shout\r\n\r\nfirst ")
        asked.writer.write((await asked.reader.readexactly(5)).upper())
        await asked.writer.drain()
        return b""

    async with Server(shout) as server, direct(family) as client:
        headers = {"Connection": "upgrade", "Upgrade": "shout"}
        async with client.stream("GET", server.url, headers=headers) as answer:
            assert answer.status_code == 101
            stream = answer.extensions["network_stream"]
            await stream.write(b"hello", 1.0)
            heard = b""
            while len(heard) < len(b"first HELLO"):
                heard += await stream.read(100, 1.0)
            assert heard == b"first HELLO"
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)


@families
@real
async def test_a_tunnel_leaves_the_stream_to_the_caller(family):
    async def tunnel(asked):
        asked.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        asked.writer.write((await asked.reader.readexactly(5)).upper())
        await asked.writer.drain()
        return b""

    async with Server(tunnel) as server, direct(family) as client, client.stream("CONNECT", server.url) as answer:
        stream = answer.extensions["network_stream"]
        await stream.write(b"hello", 1.0)
        assert await stream.read(100, 1.0) == b"HELLO"


@families
@real
async def test_an_invalid_request_is_not_sent(family):
    async with Server() as server, direct(family) as client:
        with pytest.raises(error(family, "LocalProtocolError"), match="'X-Key' has characters") as raised:
            await client.get(server.url, headers={"X-Key": "sk-secret\n"})
        assert "sk-secret" not in f"{raised.value!r} {raised.value.__cause__!r}"
        with pytest.raises(error(family, "LocalProtocolError"), match="Too little data"):
            await client.post(server.url, content=b"abc", headers={"Content-Length": "5"})
        assert not server.asked


# What a listener hears, next to httpcore.


async def hangs(asked):
    await asyncio.sleep(5)


async def begins(asked):
    asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    await asyncio.sleep(5)


async def get(client, server, **more):
    await client.get(server.url, **more)


async def get_twice(client, server, **more):
    await client.get(server.url, **more)
    await client.get(server.url, **more)


async def post(client, server, **more):
    await client.post(server.url, content=b"x" * 100_000, **more)


async def post_in_parts(client, server, **more):
    async def parts():
        yield b"1"
        yield b"2"

    await client.post(server.url, content=parts(), headers={"content-length": "2"}, **more)


async def leave(client, server, **more):
    async with client.stream("GET", server.url, **more) as answer:
        async for _ in answer.aiter_raw():
            break


async def ignore(client, server, **more):
    async with client.stream("GET", server.url, **more):
        pass


async def switch(client, server, **more):
    async with client.stream("GET", server.url, headers={"Connection": "upgrade", "Upgrade": "x"}, **more):
        pass


async def wait_not(client, server, **more):
    await client.get(server.url, timeout=(20, 0.1, 20, 20), **more)


async def cancel(client, server, **more):
    call = asyncio.create_task(client.get(server.url, **more))
    while not server.asked:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.wait([call])


async def connect_nowhere(client, server, **more):
    await client.get("http://127.0.0.1:1/", **more)


async def send_an_illegal_value(client, server, **more):
    await client.get(server.url, headers={"X": "a\nb"}, **more)


async def send_too_little(client, server, **more):
    await client.post(server.url, content=b"abc", headers={"Content-Length": "5"}, **more)


pieces = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n.\r\n"] * 3, b"0\r\n\r\n", pause=0.01)
exchanges = [
    (get, None),
    (get_twice, None),
    (get, pieces),
    (post, None),
    (post_in_parts, None),
    (leave, pieces),
    (ignore, pieces),
    (switch, raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhi", hang_up=False)),
    (get, raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhi", hang_up=False)),
    (get, raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")),
    (get, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")),
    (get, raw(b"HTTP/1.1 200 OK\r\n\r\nto the end")),
    (get, raw(b"")),
    (wait_not, hangs),
    (wait_not, begins),
    (cancel, hangs),
    (cancel, begins),
    (connect_nowhere, None),
    (send_an_illegal_value, None),
    (send_too_little, None),
]


@families
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("ask", "answer"), exchanges)
@real
async def test_a_listener_gets_httpcores_events(family, tls, ask, answer, tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    heard = []

    def listener(events):
        async def trace(name, info):
            kinds = {key: type(value).__name__.replace("AnyIOStream", "NetworkStream") for key, value in info.items()}
            events.append((name, kinds))

        return trace

    async with Server(answer, tls=identity(str(certificate)) if tls else None) as server:
        verify = trusting(str(certificate)) if tls else True
        stock = importlib.import_module(family).AsyncClient(trust_env=False, verify=verify)
        for client in (stock, direct(family, verify=verify)):
            heard.append([])
            server.asked.clear()
            async with client:
                with contextlib.suppress(Exception):
                    await ask(client, server, extensions={"trace": listener(heard[-1])})
    stock, ours = heard
    if ask is leave:  # httpcore's generator is closed by the garbage collector, sooner or later
        dropped = "http11.receive_response_body.failed", {"exception": "GeneratorExit"}
        assert ours.count(dropped) == 1
        stock, ours = ([event for event in events if event != dropped] for events in heard)
    assert ours == stock
    assert ours


@families
@pytest.mark.parametrize(
    ("ask", "answer"), [(get_twice, None), (ignore, pieces), (get, raw(b"")), (connect_nowhere, None)]
)
@real
async def test_the_log_has_httpcores_lines(family, ask, answer, caplog):
    caplog.set_level("DEBUG", logger=core_of(family).__name__)
    said = []
    async with Server(answer) as server:
        for client in (importlib.import_module(family).AsyncClient(trust_env=False), direct(family)):
            caplog.clear()
            async with client:
                with contextlib.suppress(error(family, "TransportError")):
                    await ask(client, server)
            lines = [(record.name, record.getMessage()) for record in caplog.records if "httpcore" in record.name]
            # Addresses, and what a system says of them, differ.
            said.append([(name, re.sub(r"<.*? object at \w+>|Error\(.*\)", "it", line)) for name, line in lines])
    stock, ours = said
    assert ours == stock
    assert ours


@families
@real
async def test_a_listener_that_fails_costs_its_call_only(family):
    async with Server() as server:
        for failing in range(12):
            count = itertools.count()

            async def trace(name, info, count=count, failing=failing):
                if next(count) == failing:
                    raise LookupError(name)

            async with direct(family) as client:
                with pytest.raises(LookupError):
                    await client.get(server.url, extensions={"trace": trace})
                assert (await client.get(server.url)).status_code == 200
        async with asyncio.timeout(5):
            while server.open:
                await asyncio.sleep(0.01)


@families
@real
async def test_a_library_that_wraps_httpxs_transport_sees_every_exchange(family, monkeypatch):
    transport = importlib.import_module(family).AsyncHTTPTransport
    seen = []
    original = transport.handle_async_request

    @functools.wraps(original)
    async def wrapped(self, request):
        seen.append(request.url.path)
        return await original(self, request)

    monkeypatch.setattr(transport, "handle_async_request", wrapped)
    async with Server() as server, direct(family) as client:
        for _ in range(3):
            await client.get(server.url)
        assert (seen, server.connections) == (["/v1"] * 3, 1)


@families
@pytest.mark.parametrize("first", [False, True])
@real
async def test_a_mock_in_place_of_httpcores_pool_answers(family, first, monkeypatch):
    core = core_of(family)

    async def answer(self, request):
        return core.Response(200, content=b"mocked")

    client = None if first else direct(family)
    monkeypatch.setattr(core.AsyncConnectionPool, "handle_async_request", answer)
    async with client or direct(family) as client:
        assert (await client.get("http://nowhere.invalid/")).text == "mocked"


@families
@pytest.mark.parametrize("tls", [False, True])
def test_it_works_on_uvloop(family, tls, tmp_path):
    uvloop = pytest.importorskip("uvloop", reason="there is none for Windows")
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)

    async def main():
        verify = trusting(str(certificate)) if tls else True
        server = Server(tls=identity(str(certificate)) if tls else None)
        async with server, direct(family, verify=verify) as client:
            for _ in range(3):
                assert (await client.post(server.url, content=b"x" * 1_000_000)).status_code == 200
            assert server.connections == 1
        async with direct(family) as client:
            with pytest.raises(error(family, "ConnectError")):
                await client.get(server.url)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
