"""What a peer says of where it is: by source, in order, bounded, and with word of every change."""

from __future__ import annotations

import pytest

from moshgrid.p2p.addresses import MAX_ADDRS
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.own_addrs import OwnAddrs

PEER, RELAY = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


def at(host: str) -> str:
    return f"/ip4/{host}/tcp/1/p2p/{PEER}"


RELAYED = f"/ip4/203.0.113.7/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}"


def test_sources_are_told_in_order_and_each_change_once():
    own, changes = OwnAddrs(PEER), []
    take_off = own.on_change(lambda: changes.append(own.all()))
    own.set("relayed", [RELAYED])
    own.set("listening", [at("10.0.0.1")])
    own.set("observed", [at("198.51.100.1"), at("198.51.100.1")])
    own.set("mapped", [at("198.51.100.1")])
    everything = (at("10.0.0.1"), at("198.51.100.1"), RELAYED)
    assert own.all() == everything and own.of("observed") == (at("198.51.100.1"),)
    assert changes == [(RELAYED,), (at("10.0.0.1"), RELAYED), everything]
    own.set("observed", [])
    assert own.all() == everything
    take_off()
    own.set("mapped", [])
    assert own.all() == (at("10.0.0.1"), RELAYED) and len(changes) == 3


def test_what_was_learned_is_told_even_by_a_peer_with_many_interfaces():
    own = OwnAddrs(PEER)
    own.set("listening", [at(f"10.0.0.{number}") for number in range(40)])
    own.set("relayed", [RELAYED])
    assert len(own.all()) == MAX_ADDRS and own.all()[-1] == RELAYED and own.all()[0] == at("10.0.0.0")


def test_nobody_says_where_others_are():
    own = OwnAddrs(PEER)
    with pytest.raises(ValueError, match="another peer"):
        own.set("observed", [f"/ip4/203.0.113.7/tcp/1/p2p/{RELAY}"])
    with pytest.raises(ValueError, match="listening, mapped, observed, relayed"):
        own.set("guessed", [])
    assert own.all() == ()
