"""Reservation vouchers: a relay's signed word that it holds a reservation for a peer."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.p2p.canonical import encode_fields, parse_fields
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_bytes, peer_id_to_bytes

__all__ = ["Voucher", "make_voucher", "open_voucher"]

_MAX_BYTES = 512
_DOMAIN = "libp2p-relay-rsvp"
_PAYLOAD_TYPE = b"\x03\x02"
_FIELDS = {1: bytes, 2: bytes, 3: int}


@dataclass(frozen=True, slots=True)
class Voucher:
    """``relay`` holds a reservation for ``peer`` until ``expires`` (Unix time in seconds)."""

    relay: PeerId
    peer: PeerId
    expires: int


def make_voucher(identity: Identity, peer: PeerId, expires: int) -> bytes:
    """The signed voucher of the relay ``identity``."""
    payload = encode_fields({1: peer_id_to_bytes(identity.peer_id), 2: peer_id_to_bytes(peer), 3: expires})
    return seal(identity, _DOMAIN, _PAYLOAD_TYPE, payload)


def open_voucher(raw: bytes) -> Voucher:
    """The voucher, verified. Raises RecordRejected; WRONG_PEER when it is not the relay that signed it."""
    envelope = open_envelope(raw, _DOMAIN, _PAYLOAD_TYPE, _MAX_BYTES)
    fields = parse_fields(envelope.payload, _FIELDS)
    try:
        relay, peer = (peer_id_from_bytes(fields.get(number, b"")) for number in (1, 2))
    except ValueError as error:
        raise RecordRejected("MALFORMED", str(error)) from None
    if relay != envelope.author:
        raise RecordRejected("WRONG_PEER", "the voucher was not signed by its relay")
    return Voucher(relay, peer, fields.get(3, 0))
