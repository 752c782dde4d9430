"""Runs of peers behind different routers: they find each other, average, and outlive a relay."""

from __future__ import annotations

from collections import Counter

import pytest
from crowds import Crowd, two_relays
from lab import Lab
from routers import Nat
from wires import Wire

SIXTEEN_MB = 4 << 20  # float32 values
SMALL = 1 << 18
LAN = "192.168.1"
MIXED = (
    Nat.FULL_CONE,
    Nat.ADDRESS_RESTRICTED,
    Nat.PORT_RESTRICTED,
    Nat.UDP_BLOCKED,
    Nat.DOUBLE,
    Nat.SYMMETRIC,
)
ROUNDS = 5
AT_MOST = 15.0  # seconds until a round is committed or refused with a reason


def crowd_behind(
    lab: Lab,
    name: str,
    types: tuple[Nat, ...],
    group: int,
    wire: Wire | None = None,
    lan: str | None = None,
) -> Crowd:
    """A run's peers, one behind a router of each of these types, and two relays."""
    relays = two_relays(lab, group)
    homes = [
        lab.home(f"{name}-{number}-{nat.value}", nat, group + 2 + number, lan=lan, wire=wire)
        for number, nat in enumerate(types)
    ]
    return Crowd([home.peer for home in homes], relays)


def test_three_behind_different_routers_average(lab: Lab) -> None:
    """Each is 192.168.1.2 in its own home: nobody takes another's address for one around the corner."""
    crowd = crowd_behind(lab, "three", (Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.FULL_CONE), 0, lan=LAN)
    crowd.join("three", SMALL, compression="none", group_size=3)
    committed = crowd.step_until(lambda said: said["committed"] and len(said["group"]) == 3, ROUNDS)
    for said in committed:
        crowd.check(said)


@pytest.mark.nat
@pytest.mark.timeout(600)
def test_six_average_sixteen_megabytes_and_outlive_a_relay(lab: Lab) -> None:
    """All six in one group and the right mean; then, with a relay killed in the middle, again."""
    crowd = crowd_behind(lab, "six", MIXED, 10)
    crowd.join("six", SIXTEEN_MB, compression="none", group_size=6)
    for said in crowd.step_until(lambda said: len(said["contributors"]) == 6, ROUNDS):
        crowd.check(said)
    starting = crowd.peers[0].soon("wait_event", event="exchange_started", seconds=60.0)
    saying = crowd.begin_step()
    starting.result(90)
    crowd.relays[0].process.kill()
    for answer in saying:
        said = answer.result(120)
        assert said["committed"] or said["reason"], said
        if said["committed"]:
            crowd.check(said)
    for said in crowd.step_until(lambda said: len(said["contributors"]) == 6, ROUNDS):
        crowd.check(said)


@pytest.mark.nat
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("types", "group", "can_average"),
    [
        ((Nat.PORT_RESTRICTED,) * 4, 30, (0, 1, 2, 3)),
        ((Nat.SYMMETRIC,) * 4, 40, (0, 1, 2, 3)),
        ((Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.PORT_RESTRICTED, Nat.SYMMETRIC), 50, (0, 1, 2, 3)),
    ],
    ids=["port", "sym", "mixed"],
)
def test_groups_of_home_peers_only(
    lab: Lab, types: tuple[Nat, ...], group: int, can_average: tuple[int, ...]
) -> None:
    """A committed round, or a refusal that says why, within 15 s; and whatever is committed is right.

    Those that cannot meet directly average through their relays, which let tensors through.
    """
    name = f"homes-{group}"
    crowd = crowd_behind(lab, name, types, group)
    crowd.join(name, SMALL, compression="none", group_size=4)
    committed: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    for _ in range(ROUNDS):
        for number, said in enumerate(crowd.step()):
            assert said["seconds"] <= AT_MOST, said
            assert said["committed"] or said["reason"], said
            committed[number] += said["committed"]
            reasons[said["reason"]] += 1
            if said["committed"]:
                crowd.check(said)
    print(f"{[nat.value for nat in types]}: committed {dict(committed)} of {ROUNDS} each; {dict(reasons)}")
    assert all(committed[number] for number in can_average), (committed, reasons)


@pytest.mark.nat
@pytest.mark.timeout(600)
def test_far_away_and_lossy(lab: Lab) -> None:
    """100 ms there and back and 2 % lost between any two homes: they punch, and they average."""
    wire = Wire(delay=0.025, jitter=0.002, loss=0.01)
    crowd = crowd_behind(lab, "far", (Nat.PORT_RESTRICTED, Nat.ADDRESS_RESTRICTED, Nat.SYMMETRIC), 60, wire)
    one, other = crowd.peers[:2]
    for _ in range(3):
        addrs = other.call("addrs")["addrs"]
        said = one.call("reach", peer=other.peer_id, addrs=addrs, seconds=8.0)
        if said["direct"]:
            break
    assert said["direct"], said
    assert one.call("echo", peer=other.peer_id, size=1 << 18)["good"]
    crowd.join("far", SMALL, compression="none", group_size=3)
    for said in crowd.step_until(lambda said: len(said["contributors"]) == 3, ROUNDS):
        crowd.check(said)
