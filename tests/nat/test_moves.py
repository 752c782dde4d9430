"""Addresses that change while a peer runs: it notices, says so, and is found where it is now."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from crowds import Crowd, two_relays
from lab import Lab
from neighbourhood import Relay
from peers import Peer, Process
from routers import Nat

SECONDS = 50.0  # patience of a test; what a user waits is printed
SIZE = 10_000
ROUNDS = 8


@pytest.fixture(scope="module")
def relays(lab: Lab) -> list[Relay]:
    """Two, and three strangers who know them: no part of the hash table, and so never called."""
    relays = two_relays(lab)
    for group in (5, 6, 7):
        process = Process(lab.public_host(f"witness-{group}", group))
        process.open(bootstrap=[relay.addr for relay in relays], relay=True)
    return relays


@pytest.fixture
def friend(lab: Lab, relays: list[Relay]) -> Iterator[Peer]:
    """Somebody at another home who met the peer before it moved."""
    process = Process(lab.home("friend", Nat.PORT_RESTRICTED, group=4).peer)
    yield process.open(dht=True, bootstrap=[relay.addr for relay in relays])
    process.kill()


def joined(process: Process, relays: list[Relay]) -> Peer:
    return process.open(dht=True, bootstrap=[relay.addr for relay in relays])


def meet(friend: Peer, peer: Peer, addrs: list[str]) -> None:
    """A friend reaches the peer again."""
    said = friend.call("echo", peer=peer.peer_id, size=SIZE, addrs=addrs)
    assert said["good"], said


@pytest.mark.nat
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("nat", "verdict"), [(Nat.FULL_CONE, "public"), (Nat.PORT_RESTRICTED, "punchable")], ids=["full", "port"]
)
def test_the_router_gets_another_public_address(
    lab: Lab, relays: list[Relay], friend: Peer, nat: Nat, verdict: str
) -> None:
    home = lab.home(f"renumbered-{nat.value}", nat, group=2)
    peer = joined(Process(home.peer), relays)
    before = home.address
    assert peer.call("verdict", seconds=SECONDS, wanted=verdict)["verdict"] == verdict
    meet(friend, peer, peer.call("addrs")["addrs"])

    lab.renumber(home, group=3)
    said = peer.call("verdict", seconds=SECONDS, about=home.address, wanted=verdict)
    print(
        f"{nat.value}: at another public address, {said['verdict']} after {said['seconds']} s; {said['all']}"
    )
    assert said["verdict"] == verdict and home.address in said["why"], said
    if verdict != "public":
        assert peer.call("relayed", seconds=SECONDS)["addrs"]
    addrs = peer.call("addrs")["addrs"]
    assert not any(before in addr for addr in addrs), addrs
    assert any(home.address in addr for addr in addrs) == (verdict == "public"), addrs
    meet(friend, peer, addrs)


@pytest.mark.nat
@pytest.mark.timeout(300)
def test_a_laptop_is_carried_to_another_home(lab: Lab, relays: list[Relay], friend: Peer) -> None:
    """From a router that lets strangers in to a symmetric one: what was public is told no longer."""
    home = lab.home("office", Nat.FULL_CONE, group=2)
    other = lab.home("cafe", Nat.SYMMETRIC, group=3)
    peer = joined(Process(home.peer), relays)
    assert peer.call("verdict", seconds=SECONDS, wanted="public")["verdict"] == "public"
    meet(friend, peer, peer.call("addrs")["addrs"])

    lab.carry(home.peer, other)
    said = peer.call("verdict", seconds=SECONDS, wanted="private")
    print(f"carried: {said['verdict']} after {said['seconds']} s; {said['all']}")
    assert said["verdict"] == "private", said
    assert peer.call("relayed", seconds=SECONDS)["addrs"]
    addrs = peer.call("addrs")["addrs"]
    assert not any(home.address in addr for addr in addrs), addrs
    assert any(home.peer.address in addr for addr in addrs), addrs
    meet(friend, peer, addrs)


@pytest.mark.nat
@pytest.mark.timeout(300)
def test_a_run_goes_on_with_a_peer_that_has_another_address(lab: Lab, relays: list[Relay]) -> None:
    """Three average, the router of one gets another address, and all three find each other again."""
    types = (Nat.PORT_RESTRICTED, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED)
    homes = [lab.home(f"run-{nat.value}", nat, 10 + number) for number, nat in enumerate(types)]
    crowd = Crowd([home.peer for home in homes], relays)
    crowd.join("moving", 1 << 16, compression="none", group_size=3)
    for _ in range(2):
        for said in crowd.step_until(lambda said: len(said["contributors"]) == 3, ROUNDS):
            crowd.check(said)
        lab.renumber(homes[0], group=20)
