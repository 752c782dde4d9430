"""TLS 1.3 after the handshake (RFC 8446, sections 4.6, 5, 6 and 7): records of at most 16 KiB.

OpenSSL makes the handshake and hands over the traffic secrets; the records are ours because OpenSSL's
memory BIOs copy every byte four times more than its AES-GCM has to touch it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from moshgrid.p2p.aead import open_into, seal_into
from moshgrid.p2p.buffer_pool import borrow_buffer, return_buffer
from moshgrid.p2p.secure_channel import Outgoing, RecordError

__all__ = ["MAX_RECORD", "SUITES", "TlsRecords"]

MAX_RECORD = 16384 + 256
"""The longest encrypted record that TLS 1.3 allows."""

_HEADER = struct.Struct(">BHH")
_VERSION = 0x0303
_PLAIN = 16384
_TAG = 16
_FULL_HEADER = _HEADER.pack(23, _VERSION, _PLAIN + 1 + _TAG)
_FULL = _HEADER.size + _PLAIN + 1 + _TAG
_FULL_FIELDS = _HEADER.unpack(_FULL_HEADER)
_ALERT, _HANDSHAKE, _DATA = 21, 22, 23
_NEW_SESSION_TICKET, _KEY_UPDATE = 4, 24
_CLOSE_NOTIFY = 0
_MAX_IDLE_MESSAGES = 32  # handshake messages and empty records without a byte of data between them
_MAX_MESSAGE = 16384
_RECORDS_PER_KEY = 1 << 23  # AES-GCM is good for 2**24.5 full records under one key


@dataclass(frozen=True)
class _Suite:
    aead: type[AESGCM] | type[ChaCha20Poly1305]
    key_bytes: int
    hash: hashes.HashAlgorithm


SUITES = {
    "TLS_AES_128_GCM_SHA256": _Suite(AESGCM, 16, hashes.SHA256()),
    "TLS_AES_256_GCM_SHA384": _Suite(AESGCM, 32, hashes.SHA384()),
    "TLS_CHACHA20_POLY1305_SHA256": _Suite(ChaCha20Poly1305, 32, hashes.SHA256()),
}
"""All cipher suites of TLS 1.3 but the two with CCM."""


class TlsRecords:
    """See ``Records``. The secrets are those of RFC 8446 for application traffic."""

    must_say_goodbye = True

    def __init__(
        self,
        suite: str,
        send_secret: bytes,
        receive_secret: bytes,
        *,
        records_per_key: int = _RECORDS_PER_KEY,
    ) -> None:
        self._suite = SUITES[suite]
        self._records_per_key = records_per_key
        self._handshake = b""
        self._idle_messages = 0
        self._owes_update = False
        self.ended = False
        self._sent = self._received = 0
        self._use_send_secret(send_secret)
        self._use_receive_secret(receive_secret)

    # Out.

    def seal(self, outgoing: Outgoing, out: memoryview) -> int:
        """As many full records as ``out`` holds."""
        filled = 0
        staging = borrow_buffer()
        if self._owes_update or self._sent >= self._records_per_key:
            filled = self._seal_update(out)
        filled += self._seal_full(outgoing, out[filled:], staging)
        while (left := outgoing.left) and self._sent < self._records_per_key:
            size = left if left < _PLAIN else _PLAIN
            start, end = filled + _HEADER.size, filled + _HEADER.size + size + 1 + _TAG
            if end > len(out):
                break
            outgoing.copy_to(staging[:size])
            staging[size] = _DATA
            header = _HEADER.pack(_DATA, _VERSION, end - start)
            out[filled:start] = header
            nonce = (self._send_iv ^ self._sent).to_bytes(12)
            self._seal(nonce, staging[: size + 1], header, out[start:end])
            self._sent += 1
            filled = end
        return_buffer(staging)
        return filled

    def _seal_full(self, outgoing: Outgoing, out: memoryview, staging: memoryview) -> int:
        """The records that are full. Every step in this loop counts: it is the cost of sending much."""
        count = min(outgoing.left // _PLAIN, len(out) // _FULL, self._records_per_key - self._sent)
        plain, inner = staging[:_PLAIN], staging[: _PLAIN + 1]
        inner[_PLAIN] = _DATA
        seal, iv, copy = self._seal, self._send_iv, outgoing.copy_to
        at = 0
        for number in range(self._sent, self._sent + count):
            copy(plain)
            body = at + 5
            out[at:body] = _FULL_HEADER
            at += _FULL
            seal((iv ^ number).to_bytes(12), inner, _FULL_HEADER, out[body:at])
        self._sent += count
        return at

    def goodbye(self) -> bytes:
        """A close_notify alert."""
        out = memoryview(bytearray(64))
        size = self._seal_record(memoryview(bytes([1, _CLOSE_NOTIFY, _ALERT])), out)
        return bytes(out[:size])

    def _seal_update(self, out: memoryview) -> int:
        self._owes_update = False
        size = self._seal_record(memoryview(bytes([_KEY_UPDATE, 0, 0, 1, 0, _HANDSHAKE])), out)
        self._use_send_secret(self._next(self._send_secret))
        return size

    def _seal_record(self, plain: memoryview, out: memoryview) -> int:
        size = len(plain) + _TAG
        header = _HEADER.pack(_DATA, _VERSION, size)
        out[: _HEADER.size] = header
        end = _HEADER.size + size
        nonce = (self._send_iv ^ self._sent).to_bytes(12)
        self._seal(nonce, plain, header, out[_HEADER.size : end])
        self._sent += 1
        return end

    # In.

    def open(self, received: memoryview, out: memoryview) -> tuple[int, int]:
        """All whole records; what follows the peer's close_notify is dropped."""
        consumed, produced = self._open_full(received, out)
        while len(received) - consumed >= _HEADER.size and not self.ended:
            kind, version, length = _HEADER.unpack_from(received, consumed)
            if kind != _DATA or version != _VERSION or not _TAG < length <= MAX_RECORD:
                raise RecordError(f"sent what is no TLS record (type {kind}, {length} bytes)")
            start = consumed + _HEADER.size
            end = start + length
            if end > len(received):
                break
            size = length - _TAG
            nonce = (self._receive_iv ^ self._received).to_bytes(12)
            plain = out[produced : produced + size]
            try:
                self._open(nonce, received[start:end], received[consumed:start], plain)
            except InvalidTag:
                raise RecordError("sent a TLS record that was changed on the way") from None
            self._received += 1
            consumed = end
            if plain[-1] == _DATA and 1 < size <= _PLAIN + 1 and not self._handshake:
                self._idle_messages = 0
                produced += size - 1
            else:
                produced += self._take(plain)
        return (len(received) if self.ended else consumed), produced

    def _open_full(self, received: memoryview, out: memoryview) -> tuple[int, int]:
        """The full records at the start, which is what comes when much comes."""
        consumed = produced = 0
        if self._handshake:
            return 0, 0
        open_, iv, unpack, number = self._open, self._receive_iv, _HEADER.unpack_from, self._received
        try:
            for end in range(_FULL, len(received) + 1, _FULL):
                if unpack(received, consumed) != _FULL_FIELDS:
                    break
                after = produced + _PLAIN
                nonce = (iv ^ number).to_bytes(12)
                open_(nonce, received[consumed + 5 : end], _FULL_HEADER, out[produced : after + 1])
                if out[after] != _DATA:
                    break  # padded, or no data: opened once more, with all that it may mean
                number += 1
                consumed, produced = end, after
        except InvalidTag:
            raise RecordError("sent a TLS record that was changed on the way") from None
        if produced:
            self._received, self._idle_messages = number, 0
        return consumed, produced

    def _take(self, plain: memoryview) -> int:
        """Strips padding and kind, and handles what is not data; how many bytes of data there were."""
        size = len(plain) - 1
        while plain[size] == 0:
            if size == 0:
                raise RecordError("sent a TLS record of nothing but padding")
            size -= 1
        kind = plain[size]
        if size > _PLAIN:
            raise RecordError("sent a TLS record that is too long")
        if kind == _DATA and not self._handshake:
            if size:
                self._idle_messages = 0
            else:
                self._count_idle_message()
            return size
        if kind == _ALERT and size == 2:
            if plain[1] != _CLOSE_NOTIFY:
                raise RecordError(f"gave up with TLS alert {plain[1]}")
            self.ended = True
        elif kind == _HANDSHAKE and size:
            self._take_handshake(bytes(plain[:size]))
        else:
            raise RecordError(f"sent a TLS record of type {kind} out of place")
        return 0

    def _take_handshake(self, data: bytes) -> None:
        data = self._handshake + data
        while len(data) >= 4:
            kind, length = data[0], int.from_bytes(data[1:4])
            if length > _MAX_MESSAGE:
                raise RecordError(f"announced a TLS handshake message of {length} bytes")
            if len(data) < 4 + length:
                break
            body, data = data[4 : 4 + length], data[4 + length :]
            self._count_idle_message()
            if kind == _KEY_UPDATE and body in (b"\0", b"\1") and not data:
                self._use_receive_secret(self._next(self._receive_secret))
                self._owes_update = self._owes_update or body == b"\1"
            elif kind != _NEW_SESSION_TICKET:  # tickets: we resume nothing
                raise RecordError(f"sent a TLS handshake message of type {kind} out of place")
        self._handshake = data

    def _count_idle_message(self) -> None:
        self._idle_messages += 1
        if self._idle_messages > _MAX_IDLE_MESSAGES:
            raise RecordError("sends TLS messages without any data")

    # Keys.

    def _use_send_secret(self, secret: bytes) -> None:
        self._send_secret = secret
        self._seal = seal_into(self._aead(secret))
        self._send_iv = int.from_bytes(self._expand(secret, b"iv", 12))
        self._sent = 0

    def _use_receive_secret(self, secret: bytes) -> None:
        self._receive_secret = secret
        self._open = open_into(self._aead(secret))
        self._receive_iv = int.from_bytes(self._expand(secret, b"iv", 12))
        self._received = 0

    def _aead(self, secret: bytes) -> AESGCM | ChaCha20Poly1305:
        return self._suite.aead(self._expand(secret, b"key", self._suite.key_bytes))

    def _next(self, secret: bytes) -> bytes:
        return self._expand(secret, b"traffic upd", len(secret))

    def _expand(self, secret: bytes, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2) + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._suite.hash, size, info).derive(secret)
