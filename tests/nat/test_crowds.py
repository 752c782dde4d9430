"""Many peers behind one address, and peers of one LAN: they join with default limits and average directly."""

from __future__ import annotations

import pytest
from crowds import Crowd, two_relays
from lab import Lab
from routers import Nat

FLOATS = 1 << 18


def test_peers_of_one_lan_meet_without_a_relay(lab: Lab) -> None:
    """Three behind one router: the average is right, and none of it crosses the internet."""
    relays = two_relays(lab)
    home = lab.home("family", Nat.SYMMETRIC, group=2, peers=3)
    crowd = Crowd(home.peers, relays)
    crowd.join("family", FLOATS, compression="none")
    before = sum(home.sent()[relay.host.address].bytes for relay in relays)
    for said in crowd.step():
        assert said["committed"] and len(said["group"]) == 3, said
        crowd.check(said)
    crossed = sum(home.sent()[relay.host.address].bytes for relay in relays) - before
    assert crossed < FLOATS, "bytes for the hash table, none of the arrays"


@pytest.mark.nat
@pytest.mark.timeout(600)
def test_twenty_four_peers_behind_one_address(lab: Lab) -> None:
    """All at once join through two peers that see one address, and average within few rounds."""
    relays = two_relays(lab, group=4)
    home = lab.home("block", Nat.PORT_RESTRICTED, group=2, peers=24)
    crowd = Crowd(home.peers, relays, at_once=24)
    crowd.join("block", FLOATS, compression="none", group_size=8)
    committed: set[int] = set()
    rounds = 0
    while len(committed) < 24 and rounds < 6:
        rounds += 1
        for number, said in enumerate(crowd.step()):
            if said["committed"]:
                crowd.check(said)
                committed.add(number)
    assert len(committed) == 24, (rounds, sorted(committed))
    print(f"all 24 peers averaged within {rounds} rounds")
