"""Requests that no SDK sends: each is answered at once with a 2xx or a 4xx, and no other request notices."""

import asyncio
import json
import time
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throttled_openai.simulator import Settings, Simulator, serve
from throttled_openai.simulator._carriers.http1 import MalformedRequestError, RequestReader

TEXT = {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
USUAL = {"model": "m", "user": "u", "metadata": {"a": "b"}}
WRITES = {**USUAL, "stream": False, "stream_options": {"include_usage": True}, "n": 1, "max_tokens": 9, "tools": [TOOL]}
BODIES = {
    "chat/completions": {**WRITES, "messages": [TEXT, {"role": "assistant", "content": None, "tool_calls": [TOOL]}]},
    "completions": {**WRITES, "prompt": "hi"},
    "responses": {**WRITES, "input": [TEXT], "instructions": "be brief", "store": True, "previous_response_id": "r"},
    "embeddings": {**USUAL, "input": ["a", "b"], "dimensions": 8, "encoding_format": "float"},
    "moderations": {**USUAL, "input": ["a", "b"]},
}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([-1, 0, 10**8, 1e400]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "text", "role"]), inner)
    ),
    max_leaves=8,
)


def ask(server, path, raw, *, method="POST", headers=None):
    began = time.process_time()
    reply = server.receive(method, path, headers or {}, raw, 0.0)
    server.finish(reply, delivered=True)
    assert time.process_time() - began < 0.5
    if reply.status == 400:
        assert json.loads(reply.pieces[0])["error"]["type"] == "invalid_request_error"
    return reply


def places(value, path=()):
    """Every way into a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def replaced(value, path, other):
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(BODIES)), VALUES)
def test_a_wrong_value_anywhere_in_a_body_gets_an_answer(data, endpoint, value):
    place = data.draw(st.sampled_from(list(places(BODIES[endpoint]))))
    body = json.dumps(replaced(BODIES[endpoint], place, value)).encode()
    server = Simulator(rpm=1000, tpm=100_000, charge=data.draw(st.sampled_from(["estimate", "reserve", "usage"])))
    assert ask(server, f"/v1/{endpoint}", body).status in {200, 400, 429}
    assert ask(server, "/v1/chat/completions", json.dumps(BODIES["chat/completions"]).encode()).status == 200


@pytest.mark.parametrize("endpoint", sorted(BODIES))
def test_the_bodies_before_mutation_are_valid(endpoint):
    assert ask(Simulator(), f"/v1/{endpoint}", json.dumps(BODIES[endpoint]).encode()).status == 200


@pytest.mark.parametrize(
    ("endpoint", "more", "says"),
    [
        ("responses", {"tools": 5}, "'tools': expected an array of objects, but got an integer"),
        ("responses", {"tools": [5]}, "'tools[0]': expected an object, but got an integer"),
        ("chat/completions", {"n": 10**8}, "'n': integer out of range. Expected a value <= 128"),
        ("chat/completions", {"n": 0}, "Expected a value >= 1"),
        ("chat/completions", {"n": True}, "'n': expected an integer, but got a boolean"),
        ("chat/completions", {"max_tokens": 10**30}, "'max_tokens': integer out of range"),
        ("chat/completions", {"max_tokens": 1.5}, "but got a decimal number"),
        ("chat/completions", {"messages": [5]}, "'messages[0]': expected an object"),
        ("chat/completions", {"messages": [{"content": [{"type": ["text"]}]}]}, "'messages[0].content[0].type'"),
        ("embeddings", {"dimensions": 10**9}, "Expected a value <= 4096"),
        ("embeddings", {"input": ["a"] * 2049}, "array too long"),
        ("embeddings", {"input": ["a", 5]}, "'input[1]'"),
        ("moderations", {"input": ["a"] * 2049}, "array too long"),
        ("completions", {"model": 5}, "'model'|model parameter"),
    ],
)
def test_the_400_names_the_field_and_what_is_wrong(endpoint, more, says):
    reply = ask(Simulator(), f"/v1/{endpoint}", json.dumps({**BODIES[endpoint], **more}).encode())
    assert reply.status == 400
    assert any(words in json.loads(reply.pieces[0])["error"]["message"] for words in says.split("|"))


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("path", [*(f"/v1/{endpoint}" for endpoint in BODIES), "/simulator/settings"])
def test_deep_nesting_is_a_400(path, depth):
    endpoint = path.removeprefix("/v1/")
    usual = json.dumps(BODIES.get(endpoint, {}))[:-1] + (", " if endpoint in BODIES else "")
    for opening, closing in (("[", "]"), ('{"content":', "}")):
        raw = f'{usual}"rpm": {opening * depth}1{closing * depth}}}'.encode()
        assert ask(Simulator(), path, raw).status == 400


def test_the_largest_requests_are_answered_at_once():
    server = Simulator()
    embeddings = {"model": "m", "input": ["a"] * 2048, "dimensions": 3072}
    body = ask(server, "/v1/embeddings", json.dumps(embeddings).encode()).pieces[0]
    assert body.count(b'"embedding":[') == 2048
    chat = {**BODIES["chat/completions"], "n": 128, "stream": True, "max_tokens": 10_000_000}
    assert ask(server, "/v1/chat/completions", json.dumps(chat).encode()).status == 200


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([field.name for field in fields(Settings)]), VALUES))
def test_settings_of_any_kind_are_taken_or_refused(options):
    server = Simulator()
    assert ask(server, "/simulator/settings", json.dumps(options).encode()).status in {200, 400}
    assert ask(server, "/v1/chat/completions", json.dumps(BODIES["chat/completions"]).encode()).status in {200, 429}


def test_settings_too_large_to_compute_with_are_refused():
    for name in ("rpm", "tpm", "latency", "latency_sigma", "slots", "completion_tokens", "seed", "neighbour_tpm"):
        for value in (10**400, 1e16, float("nan"), float("inf")):
            raw = json.dumps({name: value}).encode()
            assert ask(Simulator(), "/simulator/settings", raw).status == 400, (name, value)


@settings(deadline=None)
@given(
    st.binary(max_size=200),
    st.text(max_size=20),
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD"]),
    st.text(max_size=9),
)
def test_any_path_and_any_form_is_answered(body, tail, method, boundary):
    server = Simulator()
    headers = {"content-type": f"multipart/form-data; boundary={boundary}", "x-stainless-retry-count": tail}
    for path in (f"/{tail}", f"/v1/{tail}", f"/v1/models/{tail}", f"/v1/responses/{tail}", "/v1/files"):
        assert ask(server, path, body, method=method, headers=headers).status in {200, 400, 404}
    parts = (b'name="purpose"\r\n\r\n\xff', b'name="file"\r\n\r\n%b' % body)
    form = b"".join(b"--x\r\nContent-Disposition: form-data; %b\r\n" % part for part in parts) + b"--x--"
    headers["content-type"] = "multipart/form-data; boundary=x"
    assert ask(server, "/v1/files", form, headers=headers).status in {200, 400}


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"0\r\n", b"5;a=b\r\nabcde\r\n", b"T: x\r\n"])
    )
)
def test_any_bytes_are_a_request_or_none_or_malformed(pieces):
    reader = RequestReader()
    reader.feed(b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        for piece in pieces:
            reader.feed(piece)
            reader.next()
    except MalformedRequestError:
        pass


@pytest.mark.parametrize("line", [b"+5", b"0x5", b"1_0", b"-0", b"", b"9" * 20, b"a" * 5000])
def test_a_chunk_size_is_a_hexadecimal_number_and_nothing_else(line):
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + line + b"\r\n")
    with pytest.raises(MalformedRequestError):
        reader.next()


def test_trailers_are_passed_over_and_the_next_request_is_read():
    reader = RequestReader()
    reader.feed(
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
    )
    assert [(request.path, request.body) for request in (reader.next(), reader.next())] == [("/a", b"x"), ("/b", b"")]


def test_over_tcp_a_fault_of_ours_is_a_500_and_others_are_served():
    async def main():
        server, complaints = Simulator(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["exception"]))
        server._decide = None
        async with serve(server) as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://")[:-3].split(":"))
            body = json.dumps(BODIES["chat/completions"]).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            assert await reader.readline() == b"HTTP/1.1 500 Internal Server Error\r\n"
            writer.write(b"HEAD /v1/models HTTP/1.1\r\n\r\nGET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n")
            answers = await reader.read()
            assert answers.count(b"HTTP/1.1 404 Not Found") == 1  # HEAD, without a body
            assert answers.partition(b"HTTP/1.1 404")[2].partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 OK")
            writer.close()
        assert [type(problem) for problem in complaints] == [TypeError]

    asyncio.run(main())
