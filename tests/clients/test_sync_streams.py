"""Streams of blocking calls: read to the end, left early, dropped, broken, closed by another thread."""

import contextlib
import gc
import threading

import openai
import pytest

from scripted import Says, families
from sync_clients import EVENTS, Body, Script, events, is_idle, module_of, say, soon, threads, throttled
from throttled_openai import AdmissionTimeout

# Streams.


def test_a_stream_left_early_is_settled_when_it_is_closed():
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), max_concurrency=1)
    with say(client, stream=True) as stream:
        for _ in stream:
            break
        assert client.throttle.stats().in_flight == 1
    assert body.closed == 1
    assert is_idle(client)


@pytest.mark.parametrize("reads", [0, 1])
def test_a_stream_that_is_dropped_is_closed_and_settled(reads):
    body = Body(events(EVENTS[0], done=False), events(EVENTS[1]))
    client = throttled(Script(Says(body=body)), max_concurrency=1)
    stream = say(client, stream=True)
    for _ in range(reads):
        next(iter(stream))
    del stream
    gc.collect()
    soon(lambda: body.closed)
    soon(lambda: is_idle(client))
    assert body.closed == 1


def test_a_stream_is_closed_by_another_thread_than_the_one_that_dropped_it():
    """The thread that collects it may hold the very lock that closing takes."""
    body = Body(events())
    closers = []
    body.close = lambda: closers.append(threading.current_thread())
    client = throttled(Script(Says(body=body)))
    say(client, stream=True)
    gc.collect()
    soon(lambda: closers)
    assert closers[0] is not threading.current_thread()
    soon(lambda: is_idle(client))


def test_dropped_streams_are_looked_for_when_nothing_moves(monkeypatch):
    client = throttled(Script(Says(body=Body(events()))), max_concurrency=1)
    client.throttle._dispatcher.stall.stall_timeout = 0.2
    monkeypatch.setattr("throttled_openai._admission.stall.STALL_TIMEOUT", 0.2)
    gc.disable()
    try:
        next(iter(say(client, stream=True)))
        say(client)
    finally:
        gc.enable()
    assert is_idle(client)


@families
def test_a_stream_that_breaks_is_settled(family):
    module = module_of(family)
    body = Body(events(EVENTS[0], done=False), broken=module.ReadError("cut"))
    client = throttled(Script(Says(body=body)), family)
    with pytest.raises((openai.APIConnectionError, module.HTTPError)):
        list(say(client, stream=True))
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 0


def test_a_refusal_inside_a_stream_counts_as_one():
    error = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
    client = throttled(Script(Says(body=Body(events(EVENTS[0], error)))))
    with pytest.raises(openai.APIError, match="Rate limit reached"):
        list(say(client, stream=True))
    assert is_idle(client)
    assert client.throttle.stats().refused == 1


def test_a_stream_closed_by_two_threads_at_once_is_settled_once():
    client = throttled(Script(*[Says(body=Body(events())) for _ in range(50)]))
    for _ in range(50):
        stream, together = say(client, stream=True), threading.Barrier(4)

        def close(_, stream=stream, together=together):
            together.wait()
            stream.response.stream.close()

        with threads(4, close):
            pass
    assert is_idle(client)
    assert client.throttle.stats().succeeded == 50


# Everything at once.


@families
def test_an_exception_of_the_users_own_comes_out_of_a_stream_as_it_is(family):
    own = module_of(family).ReadTimeout("my own deadline")
    client = throttled(Script(Says(body=Body(events()))), family)
    with pytest.raises(type(own)) as raised, say(client, stream=True) as stream:
        for _ in stream:
            raise own
    assert raised.value is own
    soon(lambda: is_idle(client))


def pooled(family, **options):
    from throttled_openai._pool import SyncPooled

    return type("Client", (SyncPooled, module_of(family).Client), {})(
        limits=module_of(family).Limits(max_connections=1), timeout=2, **options
    )


def answering(content, *, length):
    """The URL of a server that says `content` to every connection, and hangs up."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 500 Cut\r\ncontent-length: %d\r\n\r\n%b" % (length, content))

    threading.Thread(target=serve, daemon=True).start()
    return contextlib.closing(listener), f"http://127.0.0.1:{listener.getsockname()[1]}/"


@families
def test_a_broken_body_frees_its_connection_without_a_close(family):
    listening, url = answering(b"only so much", length=500)
    with listening, pooled(family) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", url), stream=True)
            with pytest.raises(module_of(family).RemoteProtocolError):
                response.read()


@families
def test_a_response_that_is_dropped_half_read_gives_its_place_back(family):
    listening, url = answering(b"x" * 100_000, length=100_000)
    with listening, pooled(family) as client:
        for _ in range(3):
            response = client.send(client.build_request("GET", url), stream=True)
            for _ in response.iter_raw(1000):
                break
            del response
            gc.collect()


def test_a_dropped_stream_gives_its_permit_back_where_the_system_has_no_more_threads(monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    client = throttled(Script(Says(body=Body(events()))))
    stream = say(client, stream=True)
    monkeypatch.setattr(threading.Thread, "start", none)
    del stream
    gc.collect()
    soon(lambda: is_idle(client))


def test_a_password_in_the_address_is_in_no_error():
    client = throttled(base_url="http://user:secret@server/v1", rpm=1, max_wait=0.01, http_client=Script().client())
    say(client)
    with pytest.raises(AdmissionTimeout) as raised:
        say(client)
    assert str(raised.value.request.url) == "http://server/v1/chat/completions"
