"""DCUtR: the words, the order and the moment, and which places are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import dcutr_pb2
from multiaddr import Multiaddr

from moshgrid.p2p.dcutr import (
    MAX_MESSAGE_BYTES,
    Heard,
    HolePunch,
    HolePunching,
    HolePunchType,
    Punch,
    Say,
    places_of,
)
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.protobuf import Malformed

CONNECT, SYNC = HolePunchType.CONNECT, HolePunchType.SYNC


def binary(*texts: str) -> list[bytes]:
    return [Multiaddr(text).to_bytes() for text in texts]


OURS, THEIRS = binary("/ip4/61.1.1.1/tcp/4001"), binary("/ip4/62.2.2.2/tcp/4002")


def test_the_bytes_are_those_of_the_specification():
    message = HolePunch(CONNECT, tuple(OURS))
    theirs = dcutr_pb2.HolePunch()
    theirs.type, theirs.ObsAddrs[:] = dcutr_pb2.HolePunch.CONNECT, OURS
    assert message.encode() == theirs.SerializeToString()
    assert HolePunch.decode(theirs.SerializeToString()) == message
    theirs.type = dcutr_pb2.HolePunch.SYNC
    assert HolePunch.decode(theirs.SerializeToString()).type is SYNC


def test_who_was_called_begins_and_both_call_at_the_same_moment():
    called = HolePunching(OURS, begins=True, called=True)
    caller = HolePunching((), begins=False, called=False)
    (first,) = called.begin(10.0)
    caller.own_are(THEIRS)
    (answer,) = caller.handle(Heard(first.message), 10.05)
    assert answer == Say(HolePunch(CONNECT, tuple(THEIRS))) and caller.theirs == tuple(OURS)
    (sync,) = called.handle(Heard(answer.message), 10.1)
    assert sync == Say(HolePunch(SYNC)) and called.round_trip == pytest.approx(0.1)
    assert called.deadline == pytest.approx(10.15)  # when the other side has it
    assert called.handle(DeadlinePassed(), 10.14) == []
    assert called.handle(DeadlinePassed(), 10.16) == [Punch(tuple(THEIRS), as_client=False)]
    assert called.deadline is None
    assert caller.handle(Heard(sync.message), 10.16) == [Punch(tuple(OURS), as_client=True)]


def test_the_caller_over_the_relay_is_the_client_even_when_it_begins():
    caller = HolePunching(OURS, begins=True, called=False)
    caller.begin(0.0)
    caller.handle(Heard(HolePunch(CONNECT, tuple(THEIRS))), 0.2)
    assert caller.handle(DeadlinePassed(), 0.31) == [Punch(tuple(THEIRS), as_client=True)]


@pytest.mark.parametrize("begins", [True, False])
def test_words_out_of_turn_are_refused(begins):
    machine = HolePunching(OURS, begins=begins, called=begins)
    if begins:
        machine.begin(0.0)
    with pytest.raises(Malformed):
        machine.handle(Heard(HolePunch(SYNC)), 0.1)
    machine.handle(Heard(HolePunch(CONNECT)), 0.1)
    with pytest.raises(Malformed):
        machine.handle(Heard(HolePunch(CONNECT)), 0.2)


def test_a_peer_id_at_the_end_is_no_part_of_the_place():
    """js-libp2p sends its addresses so, the relayed ones too."""
    peer = Identity.from_seed(bytes(32)).peer_id
    place = f"/ip4/61.1.1.1/tcp/1/p2p/{peer}"
    assert places_of(binary(place, f"{place}/p2p-circuit/p2p/{peer}", f"{place}/p2p-circuit")) == [
        ("61.1.1.1", 1)
    ]


def test_only_plain_tcp_places_of_the_world_are_called_and_few():
    addrs = binary(
        "/ip4/61.1.1.1/tcp/1",
        "/ip4/192.168.1.9/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/100.64.3.3/tcp/1",
        "/ip4/61.1.1.1/udp/1/quic-v1",
        "/ip4/61.1.1.1/tcp/1/ws",
        "/dns4/printer.local/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/fe80::1/tcp/1",
        "/ip4/61.1.1.1/tcp/0",
        "/ip6/2001:db8::1/tcp/9",
    )
    assert places_of([*addrs, b"\xff\xff", b""]) == [("61.1.1.1", 1), ("2001:db8::1", 9)]
    assert places_of(addrs, home_too=True)[1] == ("192.168.1.9", 1)
    assert len(places_of(binary(*(f"/ip4/61.1.1.1/tcp/{port}" for port in range(1, 30))))) == 8
    assert (
        len({host for host, _ in places_of(binary(*(f"/ip4/61.1.1.{n}/tcp/1" for n in range(1, 30))))}) == 4
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data):
    try:
        message = HolePunch.decode(data)
    except Malformed:
        return
    places_of(message.addrs, home_too=True)
    assert HolePunch.decode(message.encode()).type is message.type


def test_sizes_are_bounded():
    with pytest.raises(Malformed):
        HolePunch.decode(bytes(MAX_MESSAGE_BYTES + 1))
    many = HolePunch(CONNECT, tuple(bytes([1]) * 400 for _ in range(40)))
    assert len(many.encode()) <= MAX_MESSAGE_BYTES and len(HolePunch.decode(many.encode()).addrs) == 10
