"""HTTP/1.1 on the wire, compared with h11: the same bytes give the same result, however they are split."""

import re

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from throttled_openai._pool import wire as _wire
from throttled_openai._pool.wire import MalformedRequest, MalformedResponse, RequestBody, request_head

OK = b"HTTP/1.1 200 OK\r\n"
HOST = (b"Host", b"x")
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def ours(pieces, method=b"GET", upgrade=b""):
    """(status, reason, fields, body, reusable, ended) of what a server sends in `pieces` before it hangs up."""
    pieces = [*pieces, b""]
    _, asked = request_head(method, b"/", fields_of(upgrade))
    try:
        received = b""
        while True:
            split = _wire.split_head(received)
            if split is None:
                piece = pieces.pop(0)
                if not piece:
                    return "malformed"
                received += piece
                continue
            lines, received = split
            head = _wire.parse_head(lines)
            switched = _wire.switches(method, asked, head)
            if head.status >= 200 or switched:
                break
        body = _wire.body_of(method, head, received, switched=switched)
        content = b""
        while not body.ended:
            data = body.take()
            content += data
            if not data and not body.ended:
                piece = pieces.pop(0)
                body.receive(piece) if piece else body.closed()
        return head[:4], content, body.reusable and not body.rest
    except MalformedResponse:
        return "malformed"


def fields_of(upgrade):
    return [HOST, (b"Upgrade", upgrade)] if upgrade else [HOST]


def theirs(pieces, method=b"GET", upgrade=b""):
    """The same by h11."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    client.send(h11.Request(method=method, target="/", headers=fields_of(upgrade)))
    client.send(h11.EndOfMessage())
    pieces = [*pieces, b""]
    head, content = None, b""
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(pieces.pop(0))
            elif event is h11.PAUSED:
                break
            elif isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                head = event
            elif isinstance(event, h11.Data):
                content += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return "malformed"
    except h11.RemoteProtocolError:
        return "malformed"
    reusable = client.our_state is h11.DONE and client.their_state is h11.DONE and not client.trailing_data[0]
    # What ends with the connection leaves none; h11 tells it on the next look.
    framed = {name for name, _ in head.headers} & {b"content-length", b"transfer-encoding"}
    reusable &= method == b"HEAD" or head.status_code in (204, 304) or bool(framed)
    fields = head.headers.raw_items()
    return (b"HTTP/" + head.http_version, head.status_code, head.reason, fields), content, reusable


def cut(data, places):
    places = sorted({place % (len(data) + 1) for place in places})
    return [piece for piece in map(data.__getitem__, map(slice, [0, *places], [*places, None])) if piece]


sentences = [
    OK + b"Content-Length: 5\r\n\r\nhello",
    OK + b"content-length:5 \r\nX-A:\t b \r\n\r\nhello",
    OK + b"Content-Length: 5\r\n\r\nhello, and more",
    OK + b"Content-Length: 5\r\n\r\nhe",
    OK + b"Content-Length: 5, 5\r\n\r\nhello",
    OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    OK + b"Content-Length: -5\r\n\r\nhello",
    OK + b"Content-Length: 0\r\n\r\n",
    OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
    OK + b"Connection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nhi",
    OK + b"\r\nuntil the end",
    OK + b"\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhi",
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\nA \r\n, and more \r\n00\r\nTrailer: yes\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\nfive\r\nhello\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    OK + b"X: one\r\n  two\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    OK + b"no colon\r\n\r\n",
    OK + b"spa ce: x\r\n\r\n",
    OK + b": no name\r\n\r\n",
    OK + b"X: a\x00b\r\n\r\n",
    OK + b"X: \xe9t\xe9\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\x0bb\r\n\r\n",
    OK + b"X: a\x0cb\r\n\r\n",
    OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\r\r\n\r\n",
    OK + b" X: folded\r\n\r\n",
    OK + b"X: a\nY: b\r\nContent-Length: 2\n\r\nhi",
    b"HTTP/1.1 200 OK\nContent-Length: 10\n\nhi\r\n\r\nthere",
    b"HTTP/1.1 200 O\x0bK\r\n\r\n",
    b"HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    b"\x15\x03\x01\x00\x02\x02\x46",
    OK + b"Content-Length: 00000000000000000002\r\n\r\nhi",
    OK + b"Content-Length: 000000000000000000002\r\n\r\nhi",
    OK + b"Content-Length: 99999999999999999999\r\n\r\nhi",
    OK + b"Content-Length: 5\r\nContent-Length: 05\r\n\r\nhello",
    OK + b"Content-Length: 5,\r\n\r\nhello",
    OK + b"Content-Length:\r\n\r\nhello",
    OK + b"Content-Length: 5 5\r\n\r\nhello",
    OK + b"content-LENGTH: 5 , 5,5\r\nX: y\r\nContent-Length: 5\r\n\r\nhello",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    CHUNKED + b"0\r\n\n",
    CHUNKED + b"0\r\nTrailer: yes\n\r\n",
    CHUNKED + b"0\r\nTrailer: yes\nOther: yes\n\n",
    CHUNKED + b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    CHUNKED + b"0\r\nContent-Length: 1, 2\r\n\r\n",
    CHUNKED + b"0\n\r\n",
    CHUNKED + b"2\nhi\r\n0\r\n\r\n",
    CHUNKED + b"2\r\nhi\n0\r\n\r\n",
    CHUNKED + b"00000000000000000002\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"000000000000000000002\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"2;a\x00\rb \r\nhi\r\n0;\x00\r\n\r\n",
    CHUNKED + b"2 ;a\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"2;a\nb\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b" 2\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"2\t \r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
    CHUNKED + b";a\r\nhi\r\n0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhi",
    b"HTTP/1.1 100 Continue\r\nContent-Length: 1, 2\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: gzip\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("upgrade", [b"", b"x"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"CONNECT"])
@pytest.mark.parametrize("sentence", sentences)
def test_a_response_is_what_h11_says_it_is(sentence, method, upgrade):
    whole = [sentence] if sentence else []
    byte_by_byte = [sentence[at : at + 1] for at in range(len(sentence))]
    assert ours(whole, method, upgrade) == theirs(whole, method, upgrade)
    # What follows the response has not been received when it ends.
    assert ours(byte_by_byte, method, upgrade)[:2] == theirs(whole, method, upgrade)[:2]


bodies = st.binary(max_size=200)
chunked = st.lists(st.binary(min_size=1, max_size=50), max_size=6).map(
    lambda parts: b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
)
good = st.one_of(
    bodies.map(lambda body: OK + b"Content-Length: %d\r\n\r\n" % len(body) + body),
    chunked.map(lambda body: OK + b"Transfer-Encoding: chunked\r\nX-Y: z\r\n\r\n" + body),
    bodies.map(lambda body: OK + b"\r\n" + body),
)


@given(good, st.lists(st.integers(0, 1000), max_size=8))
def test_a_response_is_parsed_the_same_however_it_is_cut(response, places):
    assert ours(cut(response, places))[:2] == theirs([response])[:2]
    assert ours([response]) == theirs([response])


# What responses are damaged with: their own marks, and what some servers take for them.
damages = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 101 \r\n\r\n"]
    )
    | st.sampled_from(b"\r\n \t:;,05\x00\x0b\x0c\x80").map(lambda byte: bytes([byte]))
    | st.binary(max_size=3),
    max_size=3,
).map(b"".join)


@given(good, st.integers(0, 1000), st.integers(0, 3), damages, st.lists(st.integers(0, 1000), max_size=4))
@example(CHUNKED + b"1\r\na\r\n0\r\n\r\n", 46, 1, b"\n", [])
@example(CHUNKED + b"0\r\n_\r\n0\r\n\r\n", 50, 1, b"\0", [])
@settings(max_examples=500)
def test_a_damaged_response_is_what_h11_says_it_is(response, place, gone, damage, places):
    place %= len(response) + 1
    damaged = response[:place] + damage + response[place + gone :]
    expected = theirs([damaged] if damaged else [])
    assert ours(cut(damaged, places))[:2] == expected[:2]
    assert ours([damaged] if damaged else []) == expected


@given(st.binary(max_size=400))
def test_noise_raises_nothing_but_malformed(noise):
    ours([noise] if noise else [])
    ours([OK + noise])
    ours([OK + b"Transfer-Encoding: chunked\r\n\r\n" + noise])


def test_a_head_or_a_chunk_header_without_end_is_refused():
    assert ours([OK + b"X: " + b"y" * 200_000]) == "malformed"
    assert ours([OK + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"y" * 200_000]) == "malformed"
    assert ours([OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"y" * 200_000]) == "malformed"


def sent(method, target, fields, parts):
    """What an h11 server makes of our request."""
    head, framing = request_head(method, target, fields)
    body = RequestBody(framing)
    data = head + b"".join(map(body.frame, parts)) + body.end()
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    request, content = server.next_event(), b""
    while isinstance(event := server.next_event(), h11.Data):
        content += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return request.method, request.target, request.headers.raw_items(), content


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_a_request_is_read_as_it_was_meant(parts, in_chunks):
    content = b"".join(parts)
    framing = (b"Transfer-Encoding", b"chunked") if in_chunks else (b"Content-Length", b"%d" % len(content))
    assert sent(b"POST", b"/v1?a=b", [HOST, framing], parts) == (b"POST", b"/v1?a=b", [HOST, framing], content)
    assert sent(b"GET", b"/", [HOST], []) == (b"GET", b"/", [HOST], b"")


@pytest.mark.parametrize(
    "value", [b"a\r\nY: b", b"a\nb", b"\x00", b"a\r\n", b"sk-secret\n", b"Bearer ", b" a", b"a\t", b"a\x0bb", b"a\x0cb"]
)
def test_a_value_that_cannot_be_sent_is_named_and_not_shown(value):
    with pytest.raises(MalformedRequest, match="the value of the header 'Secret' has characters") as raised:
        request_head(b"GET", b"/", [HOST, (b"X", b"fine"), (b"Secret", value), (b"Y", b"\n")])
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize("name", [b"X Y", b"", b"X:", b"X\r\n", b"\xc3\xa4"])
def test_a_name_that_cannot_be_sent_is_shown(name):
    with pytest.raises(MalformedRequest, match=re.escape(f"the header name {name!r} has characters")):
        request_head(b"GET", b"/", [HOST, (name, b"a")])


@pytest.mark.parametrize("target", [b"/ HTTP/1.1\r\nX: y", b"/a b", b"", b"/\x80"])
def test_a_target_that_cannot_be_sent_is_refused(target):
    with pytest.raises(MalformedRequest, match="characters"):
        request_head(b"GET", target, [HOST])


names = st.sampled_from([b"X", b"host", b"Content-Length", b"transfer-encoding", b"X Y", b"", b"Connection"])
values = st.sampled_from(
    [b"", b"5", b"5, 5", b"5, 6", b"chunked", b"Chunked", b"gzip", b" a", b"a b", b"a\x01", b"a\x0b"]
)


@given(
    st.lists(st.tuples(names, values | st.binary(max_size=3)), max_size=4),
    st.sampled_from([b"GET", b"CONNECT", b"G T", b""]),
    st.sampled_from([b"/", b"", b"/ ", b"/\xe4"]),
    st.booleans(),
)
@example([(b"Content-Length", b"5, 5"), (b"X", b"y"), (b"Content-Length", b"5")], b"GET", b"/", True)
@settings(max_examples=500)
def test_a_request_is_sent_as_by_h11_or_refused_as_by_h11(fields, method, target, named):
    fields = [HOST, *fields] if named else fields
    try:
        expected = h11.Connection(h11.CLIENT).send(h11.Request(method=method, target=target, headers=fields))
    except h11.LocalProtocolError:
        with pytest.raises(MalformedRequest):
            request_head(method, target, fields)
    else:
        assert sorted(request_head(method, target, fields)[0].split(b"\r\n")) == sorted(expected.split(b"\r\n"))


@pytest.mark.parametrize(("parts", "what"), [([b"abc"], "little"), ([b"abc", b"def"], "much"), ([], "little")])
def test_a_body_of_another_length_than_announced_is_not_sent(parts, what):
    body = RequestBody(request_head(b"POST", b"/", [HOST, (b"Content-Length", b"5")])[1])
    with pytest.raises(MalformedRequest, match=what):
        [*map(body.frame, parts), body.end()]


NAMES = [b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"X", b"Host"]
VALUES = [b"5", b"007", b"5, 5", b" 5", b"chunked", b"CHUNKED", b"close", b"h2c", b"a\n", b""]


@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5))
def test_a_head_is_the_same_whether_or_not_its_length_comes_last(fields):
    def outcome(function, given):
        try:
            return function(b"POST", b"/", given)
        except MalformedRequest as error:
            return str(error)

    for each in (fields, [HOST, *fields]):
        assert outcome(request_head, each) == outcome(_wire._head.__wrapped__, tuple(each))
