"""Signed records: the exact bytes, every reject code, and that another implementation agrees."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from moshgrid.dht.record import (
    DOMAIN,
    MAX_TTL_MS,
    PAYLOAD_TYPE,
    Author,
    RecordReader,
    check_times,
    supersedes,
)
from moshgrid.p2p.canonical import encode_fields
from moshgrid.p2p.envelope import seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import Identity, peer_id_to_bytes

NOW = 1_700_000_000_000
DEMO = network_id("demo-swarm")
SEED0 = Identity.from_seed(hashlib.sha256(b"seed0").digest())
OTHER = Identity.from_seed(hashlib.sha256(b"seed1").digest())

FIXTURE = bytes.fromhex(
    "0a24080112208f80338eef733ec67c601349c4a8251393b28deb722cfd0a91907744a26d3dab12182f6d6f7368677269"
    "642f67726f75702d7265636f72642f311a590a10314cbb144f815d44dc94fc9eff3dce5f120b72756e372e3062303131"
    "301a260024080112208f80338eef733ec67c601349c4a8251393b28deb722cfd0a91907744a26d3dab2080d095ffbc31"
    "28e0f7a7ffbc31320281012a4091cbd01398b99272501b38ecc922e2c944c5bf5f56a22f167663e6bdede81bb88b300d"
    "dd60da9be516b92a681d44a7230dddd332025325f81839c3d0c660ba05"
)


def payload(**changes: int | bytes | None) -> bytes:
    names = ["network", "key", "subkey", "seq", "expires", "value", "flags"]
    fields: dict[str, int | bytes | None] = {
        "network": DEMO,
        "key": b"run7.0b0110",
        "subkey": peer_id_to_bytes(SEED0.peer_id),
        "seq": NOW,
        "expires": NOW + 300_000,
        "value": b"\x81\x01",
        "flags": 0,
    } | changes
    return encode_fields({names.index(name) + 1: value for name, value in fields.items() if value})


def sealed(
    body: bytes, *, identity: Identity = SEED0, domain: str = DOMAIN, kind: bytes = PAYLOAD_TYPE
) -> bytes:
    return seal(identity, domain, kind, body)


def code_of(raw: bytes, key: bytes | None = None, now: int = NOW) -> str:
    try:
        check_times(RecordReader(DEMO).read(raw, key), now)
    except RecordRejected as error:
        return error.code
    return ""


def test_bytes_are_pinned() -> None:
    raw = Author(SEED0, DEMO).sign(b"run7.0b0110", bytes.fromhex("8101"), 300_000, NOW)
    assert raw == FIXTURE
    assert raw == sealed(payload())


def test_fixture_reads_back() -> None:
    record = RecordReader(DEMO).read(FIXTURE, b"run7.0b0110")
    assert record.author == SEED0.peer_id
    assert (record.seq, record.expires, record.value) == (NOW, NOW + 300_000, b"\x81\x01")
    assert (record.name, record.suffix, record.deleted) == (SEED0.peer_id, "", False)
    check_times(record, NOW)


def test_suffix_is_part_of_the_subkey() -> None:
    record = RecordReader(DEMO).read(Author(SEED0, DEMO).sign(b"k", b"\x01", 60_000, NOW, "a/ü"))
    assert record.name == f"{SEED0.peer_id}/a/ü"
    assert record.subkey == peer_id_to_bytes(SEED0.peer_id) + "/a/ü".encode()


def test_every_flipped_bit_is_refused() -> None:
    reader = RecordReader(DEMO)
    for bit in range(len(FIXTURE) * 8):
        mutant = bytearray(FIXTURE)
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordRejected):
            reader.read(bytes(mutant))


def test_every_cut_and_every_addition_is_refused() -> None:
    reader = RecordReader(DEMO)
    for cut in range(len(FIXTURE)):
        with pytest.raises(RecordRejected):
            reader.read(FIXTURE[:cut])
    for more in (b"\0", b"\x32\x01a", FIXTURE):
        with pytest.raises(RecordRejected):
            reader.read(FIXTURE + more)


UNSORTED = encode_fields({2: b"k"}) + encode_fields({1: DEMO})


@pytest.mark.parametrize(
    ("code", "raw"),
    [
        ("MALFORMED", FIXTURE[:-1]),
        ("MALFORMED", sealed(payload(key=None))),
        ("MALFORMED", sealed(payload(seq=None))),
        ("MALFORMED", sealed(payload(expires=None))),
        ("MALFORMED", sealed(payload(network=DEMO[:15]))),
        ("MALFORMED", sealed(payload(key=b"\xff\xfe"))),
        ("MALFORMED", sealed(payload(value=None))),
        ("MALFORMED", sealed(payload(flags=1))),
        ("MALFORMED", sealed(payload(flags=2, value=None))),
        ("NONCANONICAL", sealed(payload() + b"\x42\x01a")),
        ("NONCANONICAL", sealed(UNSORTED)),
        ("NONCANONICAL", FIXTURE + b"\x32\x01a"),
        ("TOO_LARGE", sealed(payload(value=bytes(1025)))),
        ("TOO_LARGE", sealed(payload(key=b"k" * 129))),
        ("TOO_LARGE", sealed(payload(subkey=peer_id_to_bytes(SEED0.peer_id) + b"/" + b"s" * 58))),
        ("TOO_LARGE", sealed(payload(value=bytes(2000)))),
        ("PAYLOAD_TYPE", sealed(payload(), kind=b"/moshgrid/group-record/2")),
        ("KEY_TYPE", FIXTURE.replace(b"\x08\x01\x12\x20", b"\x08\x02\x12\x20", 1)),
        ("BAD_SIG", sealed(payload(), domain="libp2p-peer-record")),
        ("BAD_SIG", FIXTURE[:-1] + bytes([FIXTURE[-1] ^ 1])),
        ("WRONG_NETWORK", sealed(payload(network=network_id("another")))),
        ("WRONG_KEY", sealed(payload(key=b"run7.0b0111"))),
        ("NOT_OWNER", sealed(payload(), identity=OTHER)),
        ("NOT_OWNER", sealed(payload(subkey=peer_id_to_bytes(SEED0.peer_id) + b"/"))),
        ("NOT_OWNER", sealed(payload(subkey=peer_id_to_bytes(SEED0.peer_id) + b"x"))),
        ("NOT_OWNER", sealed(payload(subkey=None))),
        ("BAD_TTL", sealed(payload(expires=NOW + MAX_TTL_MS + 1))),
        ("BAD_TTL", sealed(payload(expires=NOW))),
        ("FUTURE", sealed(payload(seq=NOW + 60_001))),
        ("EXPIRED", sealed(payload(seq=NOW - 300_000, expires=NOW))),
        ("", FIXTURE),
        ("", sealed(payload(seq=NOW + 60_000))),
        ("", sealed(payload(expires=NOW + MAX_TTL_MS))),
        ("", sealed(payload(value=bytes(1024)))),
        ("", sealed(payload(flags=1, value=None))),
    ],
)
def test_reject_codes(code: str, raw: bytes) -> None:
    assert code_of(raw, b"run7.0b0110") == code


def test_small_order_keys_are_refused() -> None:
    # With this public key OpenSSL accepts one signature for any message; libsodium refuses the key.
    key = bytes([1]) + bytes(31)
    raw = FIXTURE.replace(SEED0.public_key, key)
    assert code_of(raw) == "BAD_SIG"


def test_a_higher_seq_supersedes_and_a_tie_goes_to_the_lower_hash() -> None:
    reader = RecordReader(DEMO)
    old, new = (reader.read(sealed(payload(seq=NOW + i))) for i in (0, 1))
    assert supersedes(new, old) and not supersedes(old, new) and not supersedes(old, old)
    twin = reader.read(sealed(payload(value=b"\x05")))
    assert supersedes(twin, old) is (twin.payload_hash < old.payload_hash)
    assert supersedes(old, twin) is not supersedes(twin, old)


def test_seq_grows_when_the_clock_does_not() -> None:
    reader, author = RecordReader(DEMO), Author(SEED0, DEMO)
    seqs = [reader.read(author.sign(b"k", b"\x01", 60_000, now)).seq for now in (NOW, NOW, NOW - 5, NOW + 9)]
    assert seqs == [NOW, NOW + 1, NOW + 2, NOW + 9]


def test_an_author_that_restarted_goes_on_above_what_it_finds() -> None:
    reader = RecordReader(DEMO)
    restarted = Author(SEED0, DEMO)
    restarted.saw(reader.read(sealed(payload(seq=NOW + 50))))
    foreign = sealed(payload(seq=NOW + 90, subkey=peer_id_to_bytes(OTHER.peer_id)), identity=OTHER)
    restarted.saw(reader.read(foreign))
    assert reader.read(restarted.sign(b"k", b"\x01", 60_000, NOW)).seq == NOW + 51


def test_reader_verifies_a_copy_once_and_remembers_a_bounded_number() -> None:
    opened: list[bytes] = []

    def opener(raw: bytes, domain: str, kind: bytes, limit: int):  # type: ignore[no-untyped-def]
        from moshgrid.p2p.envelope import open_envelope

        opened.append(raw)
        return open_envelope(raw, domain, kind, limit)

    reader = RecordReader(DEMO, remember=2, opener=opener)
    raws = [sealed(payload(seq=NOW + i)) for i in range(3)]
    for raw in (raws[0], raws[0], raws[1], raws[0], raws[2], raws[0], raws[1]):
        reader.read(raw)
    assert opened == [raws[0], raws[1], raws[2], raws[1]]


def test_libp2p_verifies_our_records() -> None:
    from libp2p.peer.envelope import unmarshal_envelope

    envelope = unmarshal_envelope(FIXTURE)
    envelope.validate(DOMAIN)
    assert envelope.payload_type == PAYLOAD_TYPE
    assert envelope.raw_payload == payload()
    assert envelope.marshal_envelope() == FIXTURE
    with pytest.raises(Exception, match=r"(?i)sign|valid"):
        unmarshal_envelope(FIXTURE).validate("libp2p-peer-record")


def test_a_typical_group_record_has_at_most_260_bytes() -> None:
    author = Author(SEED0, DEMO)
    for key, value in ((b"run7.0b0110", 12), (b"avg/albert-2026/groups/0b0110", {"round": 4_711})):
        raw = author.sign(key, msgspec.msgpack.encode(value), 300_000, NOW)
        assert RecordReader(DEMO).read(raw).key == key
        assert len(raw) <= 260
    assert len(FIXTURE) <= 260
