"""The libp2p signed envelope (RFC 0002): a payload, its type, and who signed it for which domain.

Any libp2p implementation can verify what is sealed here. Version 1 uses Ed25519 keys only.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from moshgrid.p2p.canonical import encode_fields, encode_uvarint, parse_fields
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_public_key, verify

__all__ = ["Envelope", "open_envelope", "seal"]

_KEY_FIELDS = {1: int, 2: bytes}
_ENVELOPE_FIELDS = {1: bytes, 2: bytes, 3: bytes, 5: bytes}
_ED25519 = 1


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A verified envelope: ``payload`` was signed by ``author`` for the domain it was opened with."""

    author: PeerId
    public_key: bytes
    payload_type: bytes
    payload: bytes
    raw: bytes


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    return _signed_first(domain, payload_type) + encode_uvarint(len(payload)) + payload


@lru_cache(maxsize=64)
def _signed_first(domain: str, payload_type: bytes) -> bytes:
    return b"".join(encode_uvarint(len(part)) + part for part in (domain.encode(), payload_type))


def seal(identity: Identity, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """The canonical bytes of an envelope signed by ``identity``. ``payload`` must not be empty."""
    if not payload or not payload_type:
        raise ValueError("an envelope needs a payload type and a payload")
    return encode_fields(
        {
            1: encode_fields({1: _ED25519, 2: identity.public_key}),
            2: payload_type,
            3: payload,
            5: identity.sign(_signed_bytes(domain, payload_type, payload)),
        }
    )


def open_envelope(raw: bytes, domain: str, payload_type: bytes, max_bytes: int) -> Envelope:
    """Parses and verifies an envelope.

    Raises RecordRejected: TOO_LARGE, MALFORMED, NONCANONICAL, KEY_TYPE, PAYLOAD_TYPE or BAD_SIG.
    The payload is not looked at before its signature was verified (RFC 0003).
    """
    if len(raw) > max_bytes:
        raise RecordRejected("TOO_LARGE", f"{len(raw)} bytes; at most {max_bytes}")
    fields = parse_fields(raw, _ENVELOPE_FIELDS)
    if fields.keys() != _ENVELOPE_FIELDS.keys():
        raise RecordRejected("MALFORMED", "an envelope has a key, a type, a payload and a signature")
    kind, payload, signature = fields[2], fields[3], fields[5]
    key = parse_fields(fields[1], _KEY_FIELDS)
    public_key = key.get(2, b"")
    if key.get(1) != _ED25519 or len(public_key) != 32:
        raise RecordRejected("KEY_TYPE", "the key is not Ed25519")
    if kind != payload_type:
        raise RecordRejected("PAYLOAD_TYPE", f"expected {payload_type!r}")
    if not verify(public_key, signature, _signed_bytes(domain, kind, payload)):
        raise RecordRejected("BAD_SIG", "the signature does not verify")
    return Envelope(peer_id_from_public_key(public_key), public_key, kind, payload, raw)
