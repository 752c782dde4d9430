"""Signed peer records (libp2p RFC 0003): a peer's addresses, in its own hand, for others to pass on."""

from __future__ import annotations

from collections.abc import Sequence

from multiaddr import Multiaddr

from moshgrid.p2p.addresses import MAX_ADDRS, read_binary
from moshgrid.p2p.canonical import encode_fields, parse_fields
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, PeerId, peer_id_to_bytes

__all__ = ["MAX_PEER_RECORD_BYTES", "make_peer_record", "open_peer_record"]

MAX_PEER_RECORD_BYTES = 2048
_DOMAIN = "libp2p-peer-record"
_PAYLOAD_TYPE = b"\x03\x01"
_RECORD_FIELDS = {1: bytes, 2: int, 3: list}
_ADDRESS_FIELDS = {1: bytes}


def make_peer_record(identity: Identity, addrs: Sequence[str], seq: int) -> bytes:
    """The signed record of ``identity``'s addresses, the first 16 that fit; a higher ``seq`` is newer.

    ``/p2p/<id>`` at the end of an address is left out, as the record names the peer already.
    """
    suffix = f"/p2p/{identity.peer_id}"
    binary = [Multiaddr(addr.removesuffix(suffix)).to_bytes() for addr in addrs[:MAX_ADDRS]]
    infos = [encode_fields({1: addr}) for addr in binary]
    while True:
        payload = encode_fields({1: peer_id_to_bytes(identity.peer_id), 2: seq, 3: infos})
        raw = seal(identity, _DOMAIN, _PAYLOAD_TYPE, payload)
        if len(raw) <= MAX_PEER_RECORD_BYTES:
            return raw
        infos.pop()


def open_peer_record(raw: bytes) -> tuple[PeerId, int, tuple[str, ...]]:
    """The peer, the sequence number, and its addresses as full multiaddrs ending in ``/p2p/<id>``.

    Raises RecordRejected; WRONG_PEER when the record speaks of another peer than its signer.
    """
    envelope = open_envelope(raw, _DOMAIN, _PAYLOAD_TYPE, MAX_PEER_RECORD_BYTES)
    fields = parse_fields(envelope.payload, _RECORD_FIELDS)
    if fields.get(1) != peer_id_to_bytes(envelope.author):
        raise RecordRejected("WRONG_PEER", "the record is not about its signer")
    infos = fields.get(3, [])
    if len(infos) > MAX_ADDRS:
        raise RecordRejected("TOO_LARGE", f"{len(infos)} addresses; at most {MAX_ADDRS}")
    return envelope.author, fields.get(2, 0), tuple(_address(info, envelope.author) for info in infos)


def _address(info: bytes, peer: PeerId) -> str:
    raw = parse_fields(info, _ADDRESS_FIELDS).get(1)
    if raw is None:
        raise RecordRejected("MALFORMED", "an address is missing")
    try:
        text = str(read_binary(bytes(raw)))
    except ValueError as error:
        raise RecordRejected("MALFORMED", f"an address cannot be read: {error}") from error
    return text if f"/p2p/{peer}" in text else f"{text}/p2p/{peer}"
