"""HTTP/1.1 on the wire, next to h11: the same bytes come to the same, however they are cut."""

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from throttled_openai._pool import _wire
from throttled_openai._pool._wire import MalformedRequest, MalformedResponse, RequestBody, request_head

OK = b"HTTP/1.1 200 OK\r\n"


def ours(pieces, method=b"GET"):
    """(status, reason, fields, body, reusable, ended) of what a server sends in `pieces` before it hangs up."""
    pieces = [*pieces, b""]
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
            if head.status >= 200 or head.status == 101:
                break
        body = _wire.body_of(method, head, received)
        content = b""
        while not body.ended:
            data = body.take()
            content += data
            if not data and not body.ended:
                piece = pieces.pop(0)
                body.receive(piece) if piece else body.closed()
        return head.status, head.reason, shown(head.fields), content, body.reusable and not body.rest
    except MalformedResponse:
        return "malformed"


FRAMING = {b"content-length", b"transfer-encoding"}


def shown(fields):
    """h11 makes one of two equal lengths, and lower case of codings."""
    return [(name.lower(), value) for name, value in fields if name.lower() not in FRAMING]


def theirs(pieces, method=b"GET"):
    """The same by h11."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    pieces = [*pieces, b""]
    head, content = None, b""
    try:
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(pieces.pop(0))
            elif isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                head = event
                if head.status_code == 101:
                    break
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
    reusable &= method == b"HEAD" or head.status_code in (204, 304) or any(name in FRAMING for name, _ in head.headers)
    return head.status_code, head.reason, shown(head.headers), content, reusable


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
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"",
]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("sentence", sentences)
def test_a_response_is_what_h11_says_it_is(sentence, method):
    whole = [sentence] if sentence else []
    byte_by_byte = [sentence[at : at + 1] for at in range(len(sentence))]
    assert ours(whole, method) == theirs(whole, method)
    # What follows the response has not been received when it ends.
    assert ours(byte_by_byte, method)[:4] == theirs(whole, method)[:4]


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
def test_a_response_comes_to_the_same_however_it_is_cut(response, places):
    assert ours(cut(response, places))[:4] == theirs([response])[:4]
    assert ours([response]) == theirs([response])


@given(good, st.integers(0, 1000), st.binary(max_size=3), st.lists(st.integers(0, 1000), max_size=4))
@example(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 46, b"\n", [])
@example(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n_\r\n0\r\n\r\n", 50, b"\0", [])
def test_a_damaged_response_is_never_taken_for_another_than_h11_takes_it_for(response, place, damage, places):
    place %= len(response) + 1
    damaged = response[:place] + damage + response[place + 1 :]
    found, expected = ours(cut(damaged, places)), theirs([damaged] if damaged else [])
    # h11 lets a few oddities pass; we may refuse more, and take nothing for anything else.
    assert found == "malformed" or found[:4] == expected[:4]


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
    body = RequestBody(fields)
    data = request_head(method, target, fields) + b"".join(map(body.frame, parts)) + body.end()
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    request, content = server.next_event(), b""
    while isinstance(event := server.next_event(), h11.Data):
        content += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return request.method, request.target, request.headers.raw_items(), content


HOST = (b"Host", b"x")


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_a_request_is_read_as_it_was_meant(parts, in_chunks):
    content = b"".join(parts)
    framing = (b"Transfer-Encoding", b"chunked") if in_chunks else (b"Content-Length", b"%d" % len(content))
    assert sent(b"POST", b"/v1?a=b", [HOST, framing], parts) == (b"POST", b"/v1?a=b", [HOST, framing], content)
    assert sent(b"GET", b"/", [HOST], []) == (b"GET", b"/", [HOST], b"")


@pytest.mark.parametrize(
    "field", [(b"X", b"a\r\nY: b"), (b"X", b"a\nb"), (b"X", b"\x00"), (b"X Y", b"a"), (b"", b"a"), (b"X:", b"a\r\n")]
)
def test_nothing_can_be_slipped_into_a_request(field):
    with pytest.raises(MalformedRequest, match="characters"):
        request_head(b"GET", b"/", [HOST, field])
    with pytest.raises(MalformedRequest, match="characters"):
        request_head(b"GET", b"/ HTTP/1.1\r\nX: y", [HOST])


@pytest.mark.parametrize(("parts", "what"), [([b"abc"], "little"), ([b"abc", b"def"], "much"), ([], "little")])
def test_a_body_of_another_length_than_announced_is_not_sent(parts, what):
    body = RequestBody([(b"Content-Length", b"5")])
    with pytest.raises(MalformedRequest, match=what):
        [*map(body.frame, parts), body.end()]
