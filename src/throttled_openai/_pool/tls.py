"""TLS on bytes: converts plaintext to ciphertext and back. No I/O.

asyncio's own TLS has a buffer of 256 KB for each connection, and requests as much at every read.
"""

from __future__ import annotations

import ssl
from typing import Final

# Most bytes of plaintext in a record.
RECORD: Final = 16 * 1024
# Bytes to decrypt at a time: OpenSSL keeps a buffer as large as the largest input so far.
PIECE: Final = 2 * RECORD


class Layer:
    """The client's side of one TLS connection, from its handshake on.

    Pass everything the server sends to `decrypt`. TLS also has messages of its own: for a new layer, and
    after each `decrypt`, send what `encrypt(b"")` returns.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self.secure = False  # the handshake is complete
        self.ended = False  # nothing more can be decrypted
        self.failure: ssl.SSLError | None = None  # why it ended, unless the server closed it properly
        # Plaintext that cannot be sent until the server has answered: TLS 1.2 may renegotiate.
        self.waiting = b""
        self._process([])

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext that `ciphertext` completes; check `ended` afterwards."""
        parts: list[bytes] = []
        for at in range(0, len(ciphertext), PIECE):
            if self.ended:
                break
            self._incoming.write(ciphertext[at : at + PIECE])
            self._process(parts)
        return b"".join(parts)

    def encrypt(self, plaintext: bytes) -> bytes:
        """The bytes to send for `plaintext`, and TLS's own. A part may have to wait; check `waiting` afterwards."""
        assert self.secure or not plaintext, "no handshake, no secrets"
        waiting = self.waiting + plaintext
        parts: list[bytes] = []
        try:
            while waiting:
                waiting = waiting[self.ssl_object.write(waiting) :]
                parts.append(self._outgoing.read())
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as failure:
            self._fail(failure)
            waiting = b""
        self.waiting = waiting
        parts.append(self._outgoing.read())
        return b"".join(parts)

    def _process(self, parts: list[bytes]) -> None:
        """Advance the handshake, or read all available plaintext."""
        try:
            if not self.secure:
                self.ssl_object.do_handshake()
                self.secure = True
            while self._incoming.pending and not self.ended:
                part = self.ssl_object.read(RECORD)
                if part:
                    parts.append(part)
                else:  # the server has closed TLS
                    self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as failure:
            self._fail(failure)

    def _fail(self, failure: ssl.SSLError) -> None:
        self.ended = True
        self.failure = failure
