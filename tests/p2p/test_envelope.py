"""Envelopes and their canonical encoding: one spelling only, and any libp2p can verify it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.p2p.canonical import encode_fields, encode_uvarint, parse_fields, read_uvarint
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity

ME = Identity.from_seed(bytes(32))
DOMAIN, KIND = "moshgrid-test", b"/moshgrid/test/1"


def test_an_envelope_gives_back_author_and_payload():
    raw = seal(ME, DOMAIN, KIND, b"payload")
    envelope = open_envelope(raw, DOMAIN, KIND, 1024)
    assert (envelope.author, envelope.public_key) == (ME.peer_id, ME.public_key)
    assert (envelope.payload, envelope.payload_type, envelope.raw) == (b"payload", KIND, raw)


def test_every_flipped_bit_is_refused():
    raw = seal(ME, DOMAIN, KIND, b"payload")
    for bit in range(len(raw) * 8):
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordRejected):
            open_envelope(bytes(broken), DOMAIN, KIND, 1024)


def test_every_cut_and_every_addition_is_refused():
    raw = seal(ME, DOMAIN, KIND, b"payload")
    for broken in [*(raw[:size] for size in range(len(raw))), raw + b"\0", raw + raw, b"\0" + raw]:
        with pytest.raises(RecordRejected):
            open_envelope(broken, DOMAIN, KIND, 1024)


def test_domain_type_and_size_are_checked():
    raw = seal(ME, DOMAIN, KIND, b"payload")
    for args, code in (
        (("another-domain", KIND, 1024), "BAD_SIG"),
        ((DOMAIN, b"another type", 1024), "PAYLOAD_TYPE"),
        ((DOMAIN, KIND, len(raw) - 1), "TOO_LARGE"),
    ):
        with pytest.raises(RecordRejected) as caught:
            open_envelope(raw, *args)
        assert caught.value.code == code
    with pytest.raises(ValueError):
        seal(ME, DOMAIN, KIND, b"")


def test_keys_of_small_order_and_other_kinds_are_refused():
    signature = bytes([1]) + bytes(63)
    for key in (encode_fields({1: 1, 2: bytes([1]) + bytes(31)}), encode_fields({1: 2, 2: ME.public_key})):
        raw = encode_fields({1: key, 2: KIND, 3: b"payload", 5: signature})
        with pytest.raises(RecordRejected) as caught:
            open_envelope(raw, DOMAIN, KIND, 1024)
        assert caught.value.code in ("BAD_SIG", "KEY_TYPE")


def test_py_libp2p_verifies_ours():
    from libp2p.peer.envelope import unmarshal_envelope

    envelope = unmarshal_envelope(seal(ME, DOMAIN, KIND, b"payload"))
    envelope.validate(DOMAIN)
    assert (envelope.raw_payload, envelope.payload_type) == (b"payload", KIND)
    with pytest.raises(ValueError):
        envelope.validate("another-domain")


@given(st.integers(0, 2**64 - 1))
def test_varints_come_back(value):
    data = encode_uvarint(value)
    assert read_uvarint(data, 0) == (value, len(data))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff\x00", b"\xff" * 9 + b"\x02", b"\xff" * 11]
)
def test_bad_varints_are_refused(data):
    with pytest.raises(RecordRejected):
        read_uvarint(data, 0)


TYPES = {1: bytes, 2: int, 3: list, 7: bytes}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            1: st.binary(min_size=1, max_size=300),
            2: st.integers(1, 2**64 - 1),
            3: st.lists(st.binary(max_size=20), min_size=1, max_size=5),
            7: st.binary(min_size=1, max_size=3),
        },
    )
)
def test_fields_come_back(fields):
    assert parse_fields(encode_fields(fields), TYPES) == fields


@given(st.binary(max_size=60))
def test_what_is_accepted_has_only_one_spelling(data):
    try:
        fields = parse_fields(data, TYPES)
    except RecordRejected:
        return
    assert encode_fields(fields) == data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x10\x01\x0a\x01a", "NONCANONICAL"),  # out of order
        (b"\x0a\x01a\x0a\x01b", "NONCANONICAL"),  # repeated
        (b"\x1a\x01a\x10\x01\x1a\x01b", "NONCANONICAL"),  # repeated, and others between
        (b"\x0a\x00", "NONCANONICAL"),  # a default value
        (b"\x10\x00", "NONCANONICAL"),
        (b"\x22\x01a", "NONCANONICAL"),  # an unknown field
        (b"\x08\x01", "MALFORMED"),  # a number where bytes belong
        (b"\x12\x01a", "MALFORMED"),
        (b"\x0a\x05abc", "MALFORMED"),  # cut off
        (b"\x10\x81\x00", "NONCANONICAL"),  # a varint that is not minimal
    ],
)
def test_other_spellings_are_refused(data, code):
    with pytest.raises(RecordRejected) as caught:
        parse_fields(data, TYPES)
    assert caught.value.code == code
