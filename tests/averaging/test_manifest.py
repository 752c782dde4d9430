"""The manifest: signed by its leader, refused when any rule is broken, parts follow from it alone."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_simulation import IDENTITIES, manifest_for

from moshgrid.averaging.manifest import (
    Manifest,
    Member,
    countersign,
    is_countersigned,
    open_manifest,
    sign_manifest,
)
from moshgrid.p2p.errors import RemoteProtocolError

A, B, C = IDENTITIES[:3]


def manifest(**changes):
    fields = {
        "run": bytes(16),
        "group_key": "3",
        "round": 7,
        "members": (Member(A.peer_id, "full", 1.0, 0.5), Member(B.peer_id, "full", 2.0, 0.5)),
        "codec": "float16",
        "dtype": "float32",
        "elements": 100,
        "part_elements": 30,
        "schema": bytes(32),
        "reference": b"",
        "nonce": bytes(16),
        **changes,
    }
    return Manifest(**fields)


def test_a_manifest_survives_the_wire_and_names_its_group():
    signed = sign_manifest(A, manifest())
    again = open_manifest(signed.raw, B.peer_id)
    assert again.manifest == signed.manifest
    assert again.group_id == signed.group_id
    assert again.leader == A.peer_id
    assert sign_manifest(A, manifest(round=8)).group_id != signed.group_id


MEMBER = Member(B.peer_id, "full", 1.0, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"members": (MEMBER,)},
        {"members": (Member(A.peer_id, "full", 1, 0.5), Member(A.peer_id, "full", 1, 0.5))},
        {"members": (Member(A.peer_id, "full", 0, 0.5), Member(B.peer_id, "full", 0, 0.5))},
        {"members": (Member(A.peer_id, "full", -1, 0.5), MEMBER)},
        {"members": (Member(A.peer_id, "full", float("nan"), 0.5), MEMBER)},
        {"members": (Member(A.peer_id, "full", 1e30, 0.5), MEMBER)},
        {"members": (Member(A.peer_id, "full", 1, 0.7), MEMBER)},
        {"members": (Member(A.peer_id, "full", 1, float("inf")), MEMBER)},
        {"members": (Member(A.peer_id, "full", 1, 0.5), Member("nobody", "full", 1, 0.5))},
        {"members": (MEMBER, Member(A.peer_id, "full", 1, 0.5))},
        {"codec": "gzip"},
        {"dtype": "float64"},
        {"elements": 0},
        {"elements": 2**40},
        {"part_elements": 0},
        {"part_elements": 101},
        {"elements": 10**6, "part_elements": 10**6},
        {"run": b"short"},
        {"nonce": b""},
        {"schema": bytes(31)},
        {"reference": bytes(5)},
        {"group_key": "x" * 129},
        {"round": 0},
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(changes):
    with pytest.raises(ValueError):
        sign_manifest(A, manifest(**changes))


def test_every_changed_bit_is_refused():
    raw = sign_manifest(A, manifest()).raw
    for position in range(0, 8 * len(raw), 5):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(RemoteProtocolError, match="refused"):
            open_manifest(bytes(changed), B.peer_id)


def test_another_struct_or_garbage_is_refused():
    for raw in (b"", b"\x00" * 100, msgspec.msgpack.encode({"run": 1})):
        with pytest.raises(RemoteProtocolError):
            open_manifest(raw, B.peer_id)


def test_a_countersignature_fits_one_member_and_one_group():
    group = sign_manifest(A, manifest()).group_id
    signature = countersign(B, group)
    assert is_countersigned(B.peer_id, group, signature)
    assert not is_countersigned(C.peer_id, group, signature)
    assert not is_countersigned(B.peer_id, bytes(32), signature)


@given(st.integers(2, 12), st.integers(1, 5))
def test_parts_cover_the_vector_once_and_in_order(n, parts_each):
    signed = manifest_for(n, parts_each)
    at = 0
    for part in signed.parts:
        assert part.start == at
        at = part.stop
    assert at == signed.manifest.elements
    owners = [part.owner for part in signed.parts]
    assert owners == sorted(owners)
    assert {owners.count(owner) for owner in range(n)} == {parts_each}


def test_a_member_without_a_fraction_owns_nothing():
    members = (
        Member(A.peer_id, "full", 1, 0.75),
        Member(B.peer_id, "client", 1, 0.0),
        Member(C.peer_id, "full", 1, 0.25),
    )
    signed = sign_manifest(A, manifest(members=members, elements=400, part_elements=100))
    assert [part.owner for part in signed.parts] == [0, 0, 0, 2]
