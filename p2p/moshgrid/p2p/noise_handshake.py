"""The Noise XX handshake as libp2p uses it, without any I/O.

Noise revision 34, libp2p specs/noise. Three messages: ``e``; then ``e, ee, s, es`` with the responder's
payload; then ``s, se`` with the initiator's. A payload is a protobuf {1: identity key, 2: signature over
the static key}; what else it holds is skipped. Whatever is wrong raises RecordError.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.noise_records import NoiseRecords
from moshgrid.p2p.secure_channel import RecordError
from moshgrid.p2p.signed_key import identity_key_bytes, peer_of_identity_key, protobuf_fields

__all__ = ["MAX_MESSAGE", "NoiseHandshake"]

MAX_MESSAGE = 4096
"""A longer handshake message is refused before it is read; honest ones have about 200 bytes."""

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"  # 32 bytes, so it is its own hash
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_KEY = 32
_TAG = 16


class NoiseHandshake:
    """One side of a handshake; ``write`` and ``read`` take turns."""

    def __init__(self, identity: Identity, *, initiator: bool) -> None:
        self._identity = identity
        self._initiator = initiator
        self._hash = self._chaining = _NAME
        self._key: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self._mix_hash(b"")  # no prologue
        self._step = 0
        # A static key for each connection costs 50 microseconds and leaves nothing to steal afterwards.
        self._static = X25519PrivateKey.generate()
        self._ephemeral = X25519PrivateKey.generate()
        self._their_ephemeral = self._their_static = b""
        self.peer: PeerId | None = None
        """Who the other side proved to be, once its payload was read."""

    @property
    def done(self) -> bool:
        """True after the third message."""
        return self._step == 3

    @property
    def is_our_turn(self) -> bool:
        """True when ``write`` is next, False when ``read`` is."""
        return not self.done and (self._step % 2 == 0) == self._initiator

    def write(self) -> bytes:
        """The next message to send."""
        assert self.is_our_turn
        self._step += 1
        if self._step == 1:
            return self._send_ephemeral() + self._seal(b"")
        if self._step == 2:
            message = self._send_ephemeral()
            self._mix(self._ephemeral, self._their_ephemeral)
            message += self._seal(_public(self._static))
            self._mix(self._static, self._their_ephemeral)
        else:
            message = self._seal(_public(self._static))
            self._mix(self._static, self._their_ephemeral)
        return message + self._seal(self._payload())

    def read(self, message: bytes) -> None:
        """Takes the other side's next message. Raises RecordError."""
        assert not self.is_our_turn and not self.done
        self._step += 1
        if self._step < 3:
            if len(message) < _KEY:
                raise RecordError("sent a Noise handshake message that is too short")
            self._their_ephemeral, message = message[:_KEY], message[_KEY:]
            self._mix_hash(self._their_ephemeral)
        if self._step == 1:
            self._open(message)  # early data, which nobody sends, is bound into the hash and dropped
            return
        if self._step == 2:
            self._mix(self._ephemeral, self._their_ephemeral)
        self._their_static = self._open(message[: _KEY + _TAG])
        if len(self._their_static) != _KEY:
            raise RecordError("sent a Noise handshake message that is too short")
        own = self._ephemeral
        self._mix(own, self._their_static)
        self.peer = self._check(self._open(message[_KEY + _TAG :]))

    def records(self) -> NoiseRecords:
        """The keys of the finished handshake, in use."""
        assert self.done and self.peer is not None
        first, second = self._derive(b"")
        ours, theirs = (first, second) if self._initiator else (second, first)
        return NoiseRecords(ours, theirs)

    # The payload that binds the static key to an identity.

    def _payload(self) -> bytes:
        signature = self._identity.sign(_SIGNED_PREFIX + _public(self._static))
        key = identity_key_bytes(self._identity.public_key)
        return b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(signature)]) + signature

    def _check(self, payload: bytes) -> PeerId:
        fields = protobuf_fields(payload)
        return peer_of_identity_key(
            fields.get(1, b""), fields.get(2, b""), _SIGNED_PREFIX + self._their_static
        )

    # The symmetric state of the Noise specification, section 5.2.

    def _send_ephemeral(self) -> bytes:
        public = _public(self._ephemeral)
        self._mix_hash(public)
        return public

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix(self, private: X25519PrivateKey, public: bytes) -> None:
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise RecordError("sent a Noise key of small order") from None
        self._chaining, key = self._derive(shared)
        self._key = ChaCha20Poly1305(key)
        self._nonce = 0

    def _derive(self, material: bytes) -> tuple[bytes, bytes]:
        temporary = hmac.digest(self._chaining, material, "sha256")
        first = hmac.digest(temporary, b"\x01", "sha256")
        return first, hmac.digest(temporary, first + b"\x02", "sha256")

    def _seal(self, plain: bytes) -> bytes:
        sealed = plain
        if self._key is not None:
            sealed = self._key.encrypt(self._next_nonce(), plain, self._hash)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        plain = sealed
        if self._key is not None:
            try:
                plain = self._key.decrypt(self._next_nonce(), sealed, self._hash)
            except InvalidTag:
                raise RecordError("sent a Noise handshake message that was changed on the way") from None
        self._mix_hash(sealed)
        return plain

    def _next_nonce(self) -> bytes:
        nonce = b"\0\0\0\0" + self._nonce.to_bytes(8, "little")
        self._nonce += 1
        return nonce


def _public(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()
