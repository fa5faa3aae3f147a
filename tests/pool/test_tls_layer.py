"""TLS on bytes, against the standard library's server."""

import contextlib
import re
import ssl
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers import CERTIFICATE, identity, trusting
from throttled_openai._pool.network import PIECE, READ_AHEAD
from throttled_openai._pool.tls import Layer
from tls_peers import (
    NO_TLS,
    TAMPERED,
    VERSIONS,
    Peer,
    acquainted,
    cut,
    cuts,
    lengths,
    only,
    shake_hands,
    versions,
    words,
)

with contextlib.suppress(ImportError):
    import resource


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_text(CERTIFICATE)
    return str(path)


@given(version=st.sampled_from(VERSIONS), there=lengths, back=lengths, cuts=cuts)
@settings(max_examples=40, deadline=None)
def test_everything_arrives_in_order_however_it_is_cut(certificate, version, there, back, cuts):
    layer, peer = Layer(trusting(certificate), "localhost"), Peer(only(version, identity(certificate)))
    read = b""

    def pass_on(said):
        nonlocal read
        for piece in cut(said, cuts):
            read += layer.decrypt(piece)

    while not layer.secure:
        pass_on(b"".join([peer.hear(piece) for piece in cut(layer.encrypt(b""), cuts)]))
    # What the server says belongs to the last it sends of its handshake.
    said = peer.hear(layer.encrypt(b""))
    pass_on(said + b"".join(map(peer.say, words(back))))
    assert read == b"".join(words(back))
    for word in words(there):
        for piece in cut(layer.encrypt(word), cuts):
            peer.hear(piece)
    assert peer.heard == b"".join(words(there))
    assert (layer.ended, layer.failure, layer.waiting) == (False, None, b"")


@given(there=lengths, back=lengths, cuts=cuts)
@settings(max_examples=30, deadline=None)
def test_tls_works_within_tls(certificate, there, back, cuts):
    proxy_layer, proxy = acquainted(certificate)
    layer, server = Layer(trusting(certificate), "localhost"), Peer(identity(certificate))

    def exchange(said, reply=b""):
        proxy.heard = b""
        for piece in cut(proxy_layer.encrypt(said), cuts):
            proxy.hear(piece)
        answer = proxy.say(server.hear(proxy.heard) + reply)
        return b"".join([layer.decrypt(proxy_layer.decrypt(piece)) for piece in cut(answer, cuts)])

    while said := layer.encrypt(b""):
        assert exchange(said) == b""
    assert layer.secure
    for word in words(there):
        assert exchange(layer.encrypt(word)) == b""
    assert server.heard == b"".join(words(there))
    for word in words(back):
        assert exchange(b"", server.say(word)) == word


@versions
def test_data_right_after_the_handshake_is_read(certificate, version):
    layer, peer = Layer(trusting(certificate), "localhost"), Peer(only(version, identity(certificate)))
    while peer.shaking:
        said = peer.hear(layer.encrypt(b""))
        read = layer.decrypt(said + peer.say(b"hello") if not peer.shaking else said)
    assert (layer.secure, read) == (True, b"hello")


@versions
def test_both_agree_on_a_protocol_and_know_each_other(certificate, version):
    mine, theirs = trusting(certificate), only(version, identity(certificate, asks_clients=True))
    mine.load_cert_chain(certificate)
    mine.set_alpn_protocols(["http/1.1"])
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    layer, peer = Layer(mine, "localhost"), Peer(theirs)
    shake_hands(layer, peer)
    assert layer.secure
    assert layer.ssl_object.selected_alpn_protocol() == "http/1.1"
    assert layer.ssl_object.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert layer.ssl_object.getpeercert() == peer.tls.getpeercert() != {}


@versions
@pytest.mark.parametrize(
    ("hostname", "why"), [("localhost", "self.signed certificate"), ("there", "Hostname mismatch")]
)
def test_the_server_gets_an_alert_for_a_bad_certificate(certificate, version, hostname, why):
    context = ssl.create_default_context() if hostname == "localhost" else trusting(certificate)
    layer, peer = Layer(context, hostname), Peer(only(version, identity(certificate)))
    layer.decrypt(peer.hear(layer.encrypt(b"")))
    assert (layer.secure, layer.ended) == (False, True)
    assert isinstance(layer.failure, ssl.SSLCertVerificationError)
    assert re.search(why, str(layer.failure))
    with pytest.raises(ssl.SSLError, match="alert"):
        peer.hear(layer.encrypt(b""))


@versions
def test_a_client_without_a_certificate_gets_an_alert(certificate, version):
    layer = Layer(trusting(certificate), "localhost")
    peer = Peer(only(version, identity(certificate, asks_clients=True)))
    layer.decrypt(peer.hear(layer.encrypt(b"")))
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        peer.hear(layer.encrypt(b""))
    assert not layer.ended
    assert layer.decrypt(peer.rest()) == b""
    # With TLS 1.3 a client learns it when it believes the handshake to be over.
    assert layer.secure == (version is ssl.TLSVersion.TLSv1_3)
    assert layer.ended
    assert "alert" in str(layer.failure)


def test_bytes_that_are_not_tls_are_a_failure(certificate):
    layer = Layer(trusting(certificate), "localhost")
    assert layer.decrypt(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5_000) == b""
    assert layer.ended
    assert re.search(NO_TLS, str(layer.failure))


@versions
def test_a_goodbye_is_an_end_without_failure_and_the_last_that_is_read(certificate, version):
    layer, peer = acquainted(certificate, version)
    said = peer.say(b"the end") + peer.goodbye()
    assert layer.decrypt(said + b"and more") == b"the end"
    assert (layer.ended, layer.failure) == (True, None)
    assert layer.decrypt(b"and more") == b""


@versions
def test_a_tampered_record_is_a_failure_after_the_intact_ones(certificate, version):
    layer, peer = acquainted(certificate, version)
    good, bad = peer.say(b"good"), bytearray(peer.say(b"bad"))
    bad[-1] ^= 1
    assert layer.decrypt(good + bad + peer.say(b"late")) == b"good"
    assert layer.ended
    assert re.search(TAMPERED, str(layer.failure))
    with pytest.raises(ssl.SSLError, match="alert bad record mac"):
        peer.hear(layer.encrypt(b""))


def test_tickets_are_neither_data_nor_an_end(certificate):
    layer, peer = Layer(trusting(certificate), "localhost"), Peer(identity(certificate))
    layer.decrypt(peer.hear(layer.encrypt(b"")))
    tickets = peer.hear(layer.encrypt(b""))
    assert len(tickets) > 100
    assert layer.decrypt(tickets) == b""
    assert (layer.encrypt(b""), layer.ended) == (b"", False)


def test_messages_of_tls_after_the_handshake_are_answered(certificate):
    context = trusting(certificate)
    context.load_cert_chain(certificate)
    context.post_handshake_auth = True
    layer = Layer(context, "localhost")
    theirs = identity(certificate, asks_clients=True)
    theirs.verify_mode = ssl.CERT_OPTIONAL
    theirs.post_handshake_auth = True
    peer = Peer(theirs)
    shake_hands(layer, peer)
    assert not peer.tls.getpeercert()
    peer.tls.verify_client_post_handshake()
    assert layer.decrypt(peer.say(b"who are you?")) == b"who are you?"
    peer.hear(layer.encrypt(b"") + layer.encrypt(b"me"))
    assert peer.tls.getpeercert()
    assert peer.heard == b"me"


def test_plaintext_waits_while_tls_renegotiates(certificate):
    class Renegotiating(ssl.SSLObject):
        still = 0

        def write(self, data):
            if self.still:
                raise ssl.SSLWantReadError
            return super().write(data)

    context = trusting(certificate)
    context.sslobject_class = Renegotiating
    layer, peer = acquainted(certificate, context=context)
    Renegotiating.still = True
    assert layer.encrypt(b"one, ") + layer.encrypt(b"") + layer.encrypt(b"two") == b""
    assert layer.waiting == b"one, two"
    Renegotiating.still = False
    peer.hear(layer.encrypt(b""))
    assert (peer.heard, layer.waiting) == (b"one, two", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("carries", "most"), [(1_000, 80_000), (1_000_000, 200_000)])
def test_a_connection_takes_little_memory_whatever_it_carried(certificate, carries, most):
    mine, theirs, large = trusting(certificate), identity(certificate), b"x" * carries
    layers = []

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def use():
        layer, peer = Layer(mine, "localhost"), Peer(theirs)
        shake_hands(layer, peer)
        for at in range(0, carries, READ_AHEAD):
            layer.decrypt(peer.say(large[at : at + READ_AHEAD]))
        for at in range(0, carries, PIECE):
            peer.hear(layer.encrypt(large[at : at + PIECE]))
        assert peer.heard == large
        layers.append(layer)

    use()
    before = resident()
    for _ in range(100):
        use()
    assert (resident() - before) / 100 < most
