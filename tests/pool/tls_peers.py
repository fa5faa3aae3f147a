"""What the tests of TLS share: a peer that speaks TLS, and data cut into pieces."""

import contextlib
import importlib
import ssl

import pytest
from hypothesis import strategies as st

from scripted import FAMILIES
from servers import identity, trusting
from throttled_openai._pool.tls import Layer

CORE = importlib.import_module(FAMILIES[-1].replace("httpx", "httpcore"))
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
# OpenSSL's messages before 3.2, and since.
NO_TLS = "wrong version number|record layer failure"
TAMPERED = "bad record mac|record layer failure"
versions = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)


def only(version, context):
    context.minimum_version = context.maximum_version = version
    return context


class Peer:
    """The server's side, in memory."""

    def __init__(self, context):
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.shaking = True
        self.heard = b""

    def hear(self, ciphertext):
        """What it answers."""
        self._incoming.write(ciphertext)
        with contextlib.suppress(ssl.SSLWantReadError):
            if self.shaking:
                self.tls.do_handshake()
                self.shaking = False
            while data := self.tls.read(65536):
                self.heard += data
        return self.rest()

    def rest(self):
        """What it has yet to say."""
        return self._outgoing.read()

    def say(self, plaintext):
        while plaintext:
            plaintext = plaintext[self.tls.write(plaintext) :]
        return self.rest()

    def goodbye(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.rest()


def shake_hands(layer, peer):
    """Until neither has anything to say."""
    said = layer.encrypt(b"")
    while said:
        assert layer.decrypt(peer.hear(said)) == b""
        said = layer.encrypt(b"")


def acquainted(certificate, version=VERSIONS[-1], context=None):
    """Both sides after their handshake."""
    layer = Layer(context or trusting(certificate), "localhost")
    peer = Peer(only(version, identity(certificate)))
    shake_hands(layer, peer)
    assert layer.secure
    assert not peer.shaking
    return layer, peer


def cut(data, sizes):
    """`data` in pieces of these sizes, over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


cuts = st.lists(st.one_of(st.integers(1, 50), st.integers(1000, 100_000)), min_size=1, max_size=5)
lengths = st.lists(st.one_of(st.integers(0, 50), st.integers(16_000, 17_000), st.integers(0, 70_000)), max_size=4)


def words(lengths):
    return [bytes([65 + nth]) * length for nth, length in enumerate(lengths)]
