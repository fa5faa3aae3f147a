"""TLS on the stream of a connection."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from servers import CERTIFICATE, identity, pipe, trusting
from throttled_openai._pool.network import READ_AHEAD, NetworkBackend
from tls_peers import CORE, NO_TLS, TAMPERED, Peer, only, versions


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_text(CERTIFICATE)
    return str(path)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs on this kind of loop, for 30 seconds at most."""
    factory = None
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop", reason="there is none for Windows").new_event_loop

    def run(main):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, 30))

    return run


@contextlib.asynccontextmanager
async def serving(answer, context=None):
    """A port where `answer(reader, writer)` serves each connection, and the failures it raised."""
    failures, tasks = [], []

    async def guarded(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            await answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError) as failure:
            failures.append(failure)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, ssl=context)
    async with server:
        yield SimpleNamespace(port=server.sockets[0].getsockname()[1], failures=failures)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(server, context=None):
    stream = await NetworkBackend(CORE).connect_tcp("127.0.0.1", server.port, 5)
    try:
        yield stream if context is None else await stream.start_tls(context, "localhost", 5)
    finally:
        await stream.aclose()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def all_of(stream):
    read = bytearray()
    while data := await stream.read(65536, 5):
        read += data
    return bytes(read)


async def exactly(stream, length):
    read = bytearray()
    while len(read) < length:
        read += await stream.read(65536, 5)
    return bytes(read)


async def in_memory(peer, reader, writer):
    """Plays `peer` until the client hangs up."""
    while data := await reader.read(65536):
        try:
            writer.write(peer.hear(data))
        finally:
            writer.write(peer.rest())


async def silence(reader, writer):
    await asyncio.sleep(30)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def test_a_stream_exposes_its_tls_object(run, certificate):
    async def main():
        context, theirs = trusting(certificate), identity(certificate)
        for one in (context, theirs):
            one.set_alpn_protocols(["http/1.1"])
        async with serving(echo, theirs) as server, connected(server) as stream:
            assert stream.get_extra_info("ssl_object") is None
            assert await stream.start_tls(context, "localhost") is stream
            tls = stream.get_extra_info("ssl_object")
            assert (tls.selected_alpn_protocol(), tls.version()) == ("http/1.1", "TLSv1.3")
            assert ("DNS", "localhost") in tls.getpeercert()["subjectAltName"]
            assert stream.get_extra_info("server_addr")[1] == server.port

    run(main())


def test_a_bad_certificate_is_a_connect_error_and_the_server_gets_an_alert(run, certificate):
    async def main():
        peer = Peer(identity(certificate))

        async def answer(reader, writer):
            await in_memory(peer, reader, writer)

        async with serving(answer) as server:
            with pytest.raises(CORE.ConnectError, match=r"CERTIFICATE_VERIFY_FAILED.*self.signed"):
                async with connected(server, ssl.create_default_context()):
                    pass
            await until(lambda: server.failures)
            assert "alert unknown ca" in str(server.failures[0])

    run(main())


def test_a_server_that_shakes_no_hands_is_a_connect_timeout_and_is_left(run, certificate):
    async def main():
        left = asyncio.Event()

        async def listen(reader, writer):
            while await reader.read(65536):
                pass
            left.set()

        async with serving(listen) as server:
            stream = await NetworkBackend(CORE).connect_tcp("127.0.0.1", server.port, 5)
            with pytest.raises(CORE.ConnectTimeout):
                await stream.start_tls(trusting(certificate), "localhost", 0.1)
            await left.wait()

    run(main())


def test_a_cancelled_handshake_leaves_no_connection(run, certificate):
    async def main():
        heard, left = asyncio.Event(), asyncio.Event()

        async def listen(reader, writer):
            while await reader.read(65536):
                heard.set()
            left.set()

        async with serving(listen) as server:
            stream = await NetworkBackend(CORE).connect_tcp("127.0.0.1", server.port, 5)
            shaking = asyncio.create_task(stream.start_tls(trusting(certificate), "localhost"))
            await heard.wait()
            shaking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await shaking
            await left.wait()

    run(main())


def test_a_handshake_that_cannot_begin_leaves_no_connection(run, certificate):
    async def main():
        left = asyncio.Event()

        async def listen(reader, writer):
            assert not await reader.read(65536)
            left.set()

        async with serving(listen) as server:
            stream = await NetworkBackend(CORE).connect_tcp("127.0.0.1", server.port, 5)
            with pytest.raises(CORE.ConnectError, match="label"):
                await stream.start_tls(trusting(certificate), ".")
            await left.wait()

    run(main())


@pytest.mark.parametrize("resets", [False, True])
def test_a_server_that_hangs_up_on_the_handshake_is_a_connect_error(run, certificate, resets):
    async def main():
        async def hang_up(reader, writer):
            await reader.read(65536)
            if resets:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        async with serving(hang_up) as server:
            with pytest.raises(CORE.ConnectError, match="reset" if resets else "hung up"):
                async with connected(server, trusting(certificate)):
                    pass

    run(main())


def test_data_before_the_handshake_is_no_answer(run, certificate):
    async def main():
        async def speaks_first(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read()

        async with serving(speaks_first) as server, connected(server) as stream:
            await until(stream.is_readable)
            await asyncio.sleep(0.05)
            with pytest.raises(CORE.ConnectError, match=NO_TLS):
                await stream.start_tls(trusting(certificate), "localhost", 5)
            with pytest.raises(CORE.ReadError):
                await stream.read(100, 5)

    run(main())


@versions
def test_hanging_up_without_a_goodbye_is_an_end(run, certificate, version):
    async def main():
        peer = Peer(only(version, identity(certificate)))

        async def answer(reader, writer):
            while not peer.heard:
                writer.write(peer.hear(await reader.read(65536)))
            writer.write(peer.say(b"the end"))
            writer.close()

        async with serving(answer) as server, connected(server, trusting(certificate)) as stream:
            await stream.write(b"?", 5)
            assert await all_of(stream) == b"the end"
            assert stream.is_readable()
            with pytest.raises(CORE.WriteError, match="the connection was closed"):
                await stream.write(b"?", 5)

    run(main())


@versions
def test_a_goodbye_is_an_end_though_the_server_does_not_hang_up(run, certificate, version):
    async def main():
        peer = Peer(only(version, identity(certificate)))
        left = asyncio.Event()

        async def answer(reader, writer):
            while not peer.heard:
                writer.write(peer.hear(await reader.read(65536)))
            writer.write(peer.say(b"the end") + peer.goodbye())
            while await reader.read(65536):
                pass
            left.set()

        async with serving(answer) as server, connected(server, trusting(certificate)) as stream:
            await stream.write(b"?", 5)
            assert await all_of(stream) == b"the end"
            assert stream.is_readable()
            with pytest.raises(CORE.WriteError, match="the connection was closed"):
                await stream.write(b"?", 5)
            await left.wait()

    run(main())


@versions
def test_a_broken_record_is_a_read_error_after_the_intact_ones(run, certificate, version):
    async def main():
        peer = Peer(only(version, identity(certificate)))

        async def answer(reader, writer):
            while not peer.heard:
                writer.write(peer.hear(await reader.read(65536)))
            writer.write(peer.say(b"good") + b"\x17\x03\x03\x00\x20" + b"bad " * 8)
            await in_memory(peer, reader, writer)

        async with serving(answer) as server, connected(server, trusting(certificate)) as stream:
            await stream.write(b"?", 5)
            assert await stream.read(100, 5) == b"good"
            with pytest.raises(CORE.ReadError, match=TAMPERED):
                await stream.read(100, 5)
            with pytest.raises(CORE.WriteError, match=TAMPERED):
                await stream.write(b"?", 5)
            await until(lambda: server.failures)
            assert "alert bad record mac" in str(server.failures[0])

    run(main())


def test_a_connection_that_got_tickets_only_is_not_readable(run, certificate):
    async def main():
        async with (
            serving(silence, identity(certificate)) as server,
            connected(server, trusting(certificate)) as stream,
        ):
            tls = stream.get_extra_info("ssl_object")
            await until(lambda: tls.session is not None and tls.session.has_ticket)
            await asyncio.sleep(0.05)
            assert not stream.is_readable()
            assert not stream.get_extra_info("is_readable")

    run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_not_much_is_read_ahead_and_nothing_is_lost(run, certificate, tls):
    async def main():
        large = bytes(range(256)) * 20_000

        async def answer(reader, writer):
            writer.write(large)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with (
            serving(answer, identity(certificate) if tls else None) as server,
            connected(server, trusting(certificate) if tls else None) as stream,
        ):
            read = b""
            for _ in range(10):
                await asyncio.sleep(0.02)
                assert len(stream._received) <= 2 * READ_AHEAD
                read += await stream.read(65536, 5)
            assert read + await all_of(stream) == large

    run(main())


@pytest.mark.parametrize("tls", [False, True])
def test_a_large_body_is_not_copied_while_the_server_does_not_read(run, certificate, tls):
    async def main():
        large, reads = bytes(range(256)) * 80_000, asyncio.Event()
        read = bytearray()

        async def answer(reader, writer):
            await reads.wait()
            while len(read) < len(large):
                read.extend(await reader.read(65536))
            writer.write(b"thanks")
            await writer.drain()
            await reader.read()

        async with (
            serving(answer, identity(certificate) if tls else None) as server,
            connected(server, trusting(certificate) if tls else None) as stream,
        ):
            tracemalloc.start()
            writing = asyncio.create_task(stream.write(large, 10))
            await asyncio.sleep(0.3)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert not writing.done()
            assert most < 2_000_000
            reads.set()
            await writing
            assert await stream.read(100, 10) == b"thanks"
            assert read == large

    run(main())


def test_a_stream_is_read_and_written_at_the_same_time(run, certificate):
    async def main():
        large = b"x" * 5_000_000
        async with (
            serving(echo, identity(certificate)) as server,
            connected(server, trusting(certificate)) as stream,
        ):
            back, _ = await asyncio.gather(exactly(stream, len(large)), stream.write(large, 10))
            assert back == large

    run(main())


def test_tls_to_a_server_goes_through_tls_to_a_proxy(run, certificate):
    async def main():
        prompt = bytes(range(256)) * 4_000
        context = trusting(certificate)

        async def tunnel(reader, writer):
            assert await reader.readexactly(7) == b"CONNECT"
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"OK")
            try:
                await asyncio.gather(pipe(reader, back), pipe(there, writer))
            finally:
                back.transport.abort()

        async def connect(stream):
            await stream.write(b"CONNECT", 5)
            assert await stream.read(100, 5) == b"OK"

        async with serving(echo, identity(certificate)) as server, serving(tunnel, identity(certificate)) as proxy:
            async with connected(proxy, context) as stream:
                await connect(stream)
                with pytest.raises(CORE.ConnectError, match="Hostname mismatch"):
                    await stream.start_tls(context, "elsewhere", 5)
            async with connected(proxy, context) as stream:
                outer = stream.get_extra_info("ssl_object")
                await connect(stream)
                await stream.start_tls(context, "localhost", 5)
                assert stream.get_extra_info("ssl_object") not in {None, outer}
                _, back = await asyncio.gather(stream.write(prompt, 5), exactly(stream, len(prompt)))
                assert back == prompt
                assert not stream.is_readable()

    run(main())


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("openssl") is None, reason="needs OpenSSL's openssl")
@pytest.mark.parametrize(("version", "command"), [("tls1_2", b"R\n"), ("tls1_3", b"K\n"), ("tls1_3", b"k\n")])
def test_a_server_may_shake_hands_anew_and_change_its_keys(run, certificate, version, command):
    async def main():
        arguments = ["s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", certificate, f"-{version}"]
        openssl = await asyncio.create_subprocess_exec(
            "openssl",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            accepts = (await openssl.stdout.readuntil(b"ACCEPT ")) + await openssl.stdout.readline()
            server = SimpleNamespace(port=int(accepts.strip().rpartition(b":")[2]))
            async with connected(server, trusting(certificate)) as stream:
                for nth in range(3):
                    await stream.write(b"word %d\n" % nth, 5)
                    await openssl.stdout.readuntil(b"word %d\n" % nth)
                    openssl.stdin.write(command)
                    # The next write may come before the server's request, or in the middle of it.
                    await asyncio.sleep(0.02 * nth)
                openssl.stdin.write(b"from the server\n")
                assert await stream.read(100, 5) == b"from the server\n"
        finally:
            openssl.kill()
            await openssl.communicate()

    run(main())
