"""The proof both handshakes carry: an identity key in protobuf form and its signature over a session key."""

from __future__ import annotations

from moshgrid.p2p.identity import PeerId, peer_id_from_public_key, verify
from moshgrid.p2p.secure_channel import RecordError

__all__ = ["identity_key_bytes", "peer_of_identity_key", "protobuf_fields"]

_ED25519 = bytes.fromhex("08011220")  # crypto.pb PublicKey{type: Ed25519, data: 32 bytes}


def identity_key_bytes(public_key: bytes) -> bytes:
    """The protobuf form of a raw Ed25519 public key."""
    return _ED25519 + public_key


def peer_of_identity_key(key: bytes, signature: bytes, signed: bytes) -> PeerId:
    """The peer whose ``key`` made ``signature`` over ``signed``. Raises RecordError."""
    if len(key) != len(_ED25519) + 32 or not key.startswith(_ED25519):
        raise RecordError("has an identity key that is not Ed25519")
    public_key = key[len(_ED25519) :]
    if not verify(public_key, signature, signed):
        raise RecordError("sent an identity signature that is not valid")
    return peer_id_from_public_key(public_key)


def protobuf_fields(data: bytes) -> dict[int, bytes]:
    """The length-delimited fields of a short protobuf message, others skipped. Raises RecordError."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            fields[tag >> 3] = data[position : position + size]
            position += size
        else:
            raise RecordError("sent a malformed handshake payload")
        if position > len(data):
            raise RecordError("sent a malformed handshake payload")
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise RecordError("sent a malformed handshake payload")
