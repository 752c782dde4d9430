"""A peer that is reached through relays only moves to another when its relay dies, with a word or without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lab import Lab
from neighbourhood import Relay
from peers import Peer, Process
from routers import Nat

SECONDS = 10.0  # from a relay's death until strangers come through another
PATIENCE = 50.0  # of what is not to be measured


def reached(lab: Lab, peer: Peer, name: str, through: Relay, group: int) -> None:
    """A stranger who knows another relay comes through to the peer."""
    stranger = Process(lab.public_host(name, group)).open(dht=True, bootstrap=[through.addr])
    said = stranger.call("echo", peer=peer.peer_id, size=1000, addrs=peer.call("addrs")["addrs"])
    assert said["good"], said


@pytest.mark.nat
@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", [Process.kill, Process.freeze], ids=["killed", "silent"])
def test_reached_again_within_ten_seconds_of_a_relay_s_death(
    lab: Lab, end: Callable[[Process], None]
) -> None:
    """It joined through the one that dies; the other it found in the hash table."""
    first, second = (Relay(lab, f"relay-{group}", group) for group in (0, 1))
    first.open()
    home = lab.home("anna", Nat.SYMMETRIC, group=2)
    anna = Process(home.peer).open(dht=True, bootstrap=[first.addr])
    assert anna.call("relayed", seconds=PATIENCE)["addrs"]
    second.open([first.addr])
    reached(lab, anna, "visitor", second, 3)

    end(first.process)
    moved = anna.call("relayed", seconds=SECONDS, without=first.peer.peer_id)
    assert moved["addrs"] and all(second.peer.peer_id in addr for addr in moved["addrs"]), moved
    reached(lab, anna, "stranger", second, 4)
    print(f"moved to another relay after {moved['seconds']} s")


@pytest.mark.nat
@pytest.mark.timeout(180)
def test_one_of_three_relays_dies_without_a_word(lab: Lab) -> None:
    """The other two are told at once, and a fourth takes its place."""
    relays = [Relay(lab, f"relay-{group}", group) for group in range(4)]
    relays[0].open()
    for relay in relays[1:]:
        relay.open([relays[0].addr])
    home = lab.home("berta", Nat.SYMMETRIC, group=4)
    berta = Process(home.peer).open(dht=True, bootstrap=[relay.addr for relay in relays])
    at = berta.call("relayed", seconds=PATIENCE, count=3)["addrs"]
    dead = next(relay for relay in relays if any(relay.peer.peer_id in addr for addr in at))

    dead.process.freeze()
    moved = berta.call("relayed", seconds=SECONDS, without=dead.peer.peer_id, count=3)
    assert not any(dead.peer.peer_id in addr for addr in moved["addrs"]), moved
    print(
        f"{len(at)} relays, one of them silent; told {len(moved['addrs'])} others after {moved['seconds']} s"
    )
    (other, *_) = (relay for relay in relays if relay is not dead)
    reached(lab, berta, "stranger", other, 5)
