"""Signed peer records, against our own rules and against py-libp2p's code."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from moshgrid.p2p.canonical import encode_fields
from moshgrid.p2p.envelope import seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, peer_id_to_bytes
from moshgrid.p2p.peer_record import make_peer_record, open_peer_record

ME = Identity.from_seed(bytes(32))
ADDRS = (
    f"/ip4/203.0.113.7/tcp/31337/p2p/{ME.peer_id}",
    f"/ip6/2001:db8::7/tcp/31337/p2p/{ME.peer_id}",
    f"/dns4/peer.example.org/tcp/4001/p2p/{ME.peer_id}",
)


def test_a_record_says_what_was_put_in():
    assert open_peer_record(make_peer_record(ME, ADDRS, 7)) == (ME.peer_id, 7, ADDRS)
    assert open_peer_record(make_peer_record(ME, (), 0)) == (ME.peer_id, 0, ())


def test_too_many_or_too_long_addresses_are_left_out():
    many = [f"/ip4/203.0.113.7/tcp/{port}" for port in range(1, 40)]
    assert len(open_peer_record(make_peer_record(ME, many, 1))[2]) == 16
    long = [f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.example.org/tcp/{port}" for port in range(1, 17)]
    raw = make_peer_record(ME, long, 1)
    assert len(raw) <= 2048
    assert 5 < len(open_peer_record(raw)[2]) < 16


def test_every_flipped_bit_is_refused():
    raw = make_peer_record(ME, ADDRS[:1], 3)
    for bit in range(len(raw) * 8):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordRejected):
            open_peer_record(bytes(broken))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({1: peer_id_to_bytes(Identity.from_seed(bytes([1]) * 32).peer_id), 2: 1}, "WRONG_PEER"),
        ({2: 1}, "WRONG_PEER"),
        ({1: peer_id_to_bytes(ME.peer_id), 3: [encode_fields({1: b"\xff\xff"})]}, "MALFORMED"),
        ({1: peer_id_to_bytes(ME.peer_id), 3: [b""]}, "MALFORMED"),
        ({1: peer_id_to_bytes(ME.peer_id), 3: [encode_fields({1: b"\x04\x7f\0\0\1"})] * 17}, "TOO_LARGE"),
    ],
)
def test_bad_contents_are_refused(fields, code):
    with pytest.raises(RecordRejected) as caught:
        open_peer_record(seal(ME, "libp2p-peer-record", b"\x03\x01", encode_fields(fields)))
    assert caught.value.code == code


def test_py_libp2p_reads_ours():
    from libp2p.peer.envelope import consume_envelope

    envelope, record = consume_envelope(make_peer_record(ME, ADDRS, 7), "libp2p-peer-record")
    assert str(record.peer_id) == ME.peer_id
    assert record.seq == 7
    assert [f"{addr}/p2p/{ME.peer_id}" for addr in record.addrs] == list(ADDRS)
    assert envelope.public_key.to_bytes() == ME.public_key


def test_we_read_py_libp2ps():
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.envelope import seal_record
    from libp2p.peer.id import ID
    from libp2p.peer.peer_record import PeerRecord

    keys = create_new_key_pair(ME.private_bytes())
    addrs = [Multiaddr(addr.removesuffix(f"/p2p/{ME.peer_id}")) for addr in ADDRS]
    record = PeerRecord(ID.from_pubkey(keys.public_key), addrs, 9)
    raw = seal_record(record, keys.private_key).marshal_envelope()
    assert open_peer_record(raw) == (ME.peer_id, 9, ADDRS)
