"""Noise after the handshake: messages of at most 64 KiB, two bytes of length before each."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from moshgrid.p2p.aead import open_into, seal_into
from moshgrid.p2p.buffer_pool import borrowed_buffer
from moshgrid.p2p.secure_channel import Outgoing, RecordError

__all__ = ["MAX_PLAINTEXT", "NoiseRecords"]

_TAG = 16
MAX_PLAINTEXT = 65535 - _TAG
"""What one message holds: a yamux header and 65,507 bytes."""

_LENGTH = struct.Struct(">H")
_NONCE = struct.Struct("<4xQ")


class NoiseRecords:
    """See ``Records``. ChaCha20-Poly1305 with a counter for each direction."""

    ended = False
    must_say_goodbye = False

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._seal = seal_into(ChaCha20Poly1305(send_key))
        self._open = open_into(ChaCha20Poly1305(receive_key))
        self._sent = 0
        self._received = 0

    def seal(self, outgoing: Outgoing, out: memoryview) -> int:
        """As many full messages as ``out`` holds."""
        filled = 0
        with borrowed_buffer() as staging:
            while outgoing.left:
                size = min(outgoing.left, MAX_PLAINTEXT)
                end = filled + _LENGTH.size + size + _TAG
                if end > len(out):
                    break
                _LENGTH.pack_into(out, filled, size + _TAG)
                plain = outgoing.take(size, staging)
                self._seal(_NONCE.pack(self._sent), plain, None, out[filled + _LENGTH.size : end])
                self._sent += 1
                filled = end
        return filled

    def open(self, received: memoryview, out: memoryview) -> tuple[int, int]:
        """All whole messages."""
        consumed = produced = 0
        while len(received) - consumed >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, consumed)
            if length < _TAG:
                raise RecordError(f"sent a Noise message of {length} bytes, too short for its tag")
            start, end = consumed + _LENGTH.size, consumed + _LENGTH.size + length
            if end > len(received):
                break
            size = length - _TAG
            try:
                self._open(
                    _NONCE.pack(self._received), received[start:end], None, out[produced : produced + size]
                )
            except InvalidTag:
                raise RecordError("sent a Noise message that was changed on the way") from None
            self._received += 1
            consumed = end
            produced += size
        return consumed, produced

    def goodbye(self) -> bytes:
        """Noise has none; what runs over it says goodbye for itself."""
        return b""
