"""Relays announce themselves in the hash table, and peers that need one find them there."""

from __future__ import annotations

import pytest
from victim import until

from moshgrid.dht import DHT
from moshgrid.dht.relays import KEY, RelayRecords
from moshgrid.dht.values import Record
from moshgrid.p2p import Node, RecordRejected
from moshgrid.p2p.identity import Identity

LOCAL = ["/ip4/127.0.0.1/tcp/0"]
PEER, OTHER = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


def direct(peer: str, port: int = 1) -> str:
    return f"/ip4/203.0.113.7/tcp/{port}/p2p/{peer}"


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ([direct(PEER)], True),
        ([direct(PEER, port) for port in range(1, 5)], True),
        ([direct(PEER, port) for port in range(1, 6)], False),
        ([], False),
        (None, False),
        ([7], False),
        (["nonsense"], False),
        ([direct(OTHER)], False),
        ([f"{direct(OTHER)}/p2p-circuit/p2p/{PEER}"], False),
    ],
)
def test_a_relay_gives_a_few_direct_addresses_of_its_own(value, good):
    record = Record(PEER, KEY, "", value, 1, 2.0)
    if good:
        RelayRecords().validate(record, 0)
    else:
        with pytest.raises(RecordRejected):
            RelayRecords().validate(record, 0)


def relayed_by(node: Node) -> set[str]:
    return {
        addr.split("/p2p/")[1].removesuffix("/p2p-circuit") for addr in node.addrs if "p2p-circuit" in addr
    }


def test_relays_are_found_through_a_bootstrap_that_is_none_and_the_neighbours_hear_where_we_are():
    with (
        Node(listen=LOCAL) as bootstrap,
        Node(listen=LOCAL, bootstrap=bootstrap.addrs, relay=True) as one,
        Node(listen=LOCAL, bootstrap=bootstrap.addrs, relay=True) as other,
        Node(listen=LOCAL, bootstrap=bootstrap.addrs) as witness,
    ):
        for each in (bootstrap, one, other, witness):
            DHT(each)
        relays = {one.peer_id, other.peer_id}
        with Node(listen=[], bootstrap=bootstrap.addrs) as home:
            table = DHT(home)
            home.call(until, lambda: relayed_by(home) == relays, 20.0)
            record = witness.host.network.addrs_of
            witness.call(
                until,
                lambda: {addr.split("/p2p/")[1].split("/")[0] for addr in record(home.peer_id)} == relays,
                20.0,
            )
            assert set(table.get_all(KEY)) == relays
            one.close()
            home.call(until, lambda: relayed_by(home) == {other.peer_id}, 10.0)
