"""Peers behind one router: they find each other directly, at addresses that nobody outside is offered."""

from __future__ import annotations

from lab import Lab
from neighbourhood import RELAYED_SECONDS, Relay
from peers import Process
from routers import Nat

SIZE = 256 * 1024


def test_two_peers_of_one_home_meet_in_it(lab: Lab) -> None:
    relays = [Relay(lab, f"relay-{group}", group) for group in (0, 1)]
    relays[0].open()
    relays[1].open([relays[0].addr])
    home = lab.home("both", Nat.SYMMETRIC, 2, peers=2)
    one, other = (Process(host).open(bootstrap=[relay.addr for relay in relays]) for host in home.peers)
    for peer in (one, other):
        peer.call("relayed", seconds=RELAYED_SECONDS)
    relayed = [addr for addr in other.call("addrs")["addrs"] if "p2p-circuit" in addr]
    assert relayed
    said = one.call("reach", peer=other.peer_id, addrs=relayed, seconds=5.0)
    assert said["direct"], said
    before = home.sent()
    assert one.call("echo", peer=other.peer_id, size=SIZE)["good"]
    through_router = sum(
        passed.bytes - (before[host].bytes if host in before else 0) for host, passed in home.sent().items()
    )
    assert through_router < SIZE // 4
    assert any(address == home.peers[1].address for _, address, _ in home.peers[0].connections())
