"""A peer that is reached through relays only moves to another when its relay dies."""

from __future__ import annotations

import pytest
from lab import Lab
from neighbourhood import Relay
from peers import Process
from routers import Nat

SECONDS = 10.0


@pytest.mark.nat
@pytest.mark.timeout(180)
def test_reached_again_within_ten_seconds_of_a_relay_s_death(lab: Lab) -> None:
    """It joined through the one that dies; the other it found in the hash table."""
    first, second = (Relay(lab, f"relay-{group}", group) for group in (0, 1))
    first.open()
    home = lab.home("anna", Nat.SYMMETRIC, group=2)
    anna = Process(home.peer).open(dht=True, bootstrap=[first.addr])
    assert anna.call("relayed", seconds=SECONDS)["addrs"]
    second.open([first.addr])
    visitor = Process(lab.public_host("visitor", 3)).open(dht=True, bootstrap=[second.addr])
    assert visitor.call("echo", peer=anna.peer_id, size=1000, addrs=anna.call("addrs")["addrs"])["good"]

    first.process.kill()
    moved = anna.call("relayed", seconds=SECONDS, without=first.peer.peer_id)
    assert moved["addrs"] and all(second.peer.peer_id in addr for addr in moved["addrs"]), moved
    stranger = Process(lab.public_host("stranger", 4)).open(dht=True, bootstrap=[second.addr])
    assert stranger.call("echo", peer=anna.peer_id, size=1000, addrs=anna.call("addrs")["addrs"])["good"]
    print(f"moved to another relay after {moved['seconds']} s")
