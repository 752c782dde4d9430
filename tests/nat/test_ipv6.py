"""Homes with IPv6, open or behind a firewall, and IPv4 behind a router: a verdict for each of the two."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from ipv6 import Six, connect_home, connect_host
from lab import Home, Lab
from neighbourhood import PORT, Relay
from peers import Peer, Process
from routers import Nat

from moshgrid.p2p.link import Link

pytestmark = pytest.mark.nat

SCHEMA = Path(__file__).parents[2] / "docs/schemas/doctor.schema.json"
PATIENCE = 30.0
BOTH = ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]
HOMES = {
    (Nat.PORT_RESTRICTED, Six.OPEN): {"ip4": "punchable", "ip6": "public"},
    (Nat.PORT_RESTRICTED, Six.FIREWALL): {"ip4": "punchable", "ip6": "punchable"},
    (Nat.SYMMETRIC, Six.OPEN): {"ip4": "private", "ip6": "public"},
    (Nat.OPEN, Six.FIREWALL): {"ip4": "public", "ip6": "punchable"},
    (Nat.OPEN, Six.OPEN): {"ip4": "public", "ip6": "public"},
}


@dataclass
class World:
    """Two peers to join through, four witnesses of which one has no IPv6, and homes."""

    joining: list[Relay]
    over_six: list[str]
    homes: dict[tuple[Nat, Six], tuple[Home, Process, str]]


@pytest.fixture(scope="module")
def world(lab: Lab) -> World:
    joining, over_six = [], []
    for group in (0, 1):
        relay = Relay(lab, f"joining-{group}", group)
        address = connect_host(lab, relay.host, group)
        relay.open([each.addr for each in joining], six=True)
        joining.append(relay)
        over_six.append(f"/ip6/{address}/tcp/{PORT}/p2p/{relay.peer.peer_id}")
    for group in (5, 6, 7, 8):
        witness = Relay(lab, f"witness-{group}", group)
        if group != 5:
            connect_host(lab, witness.host, group)
        witness.open([relay.addr for relay in joining], six=group != 5)
    homes = {}
    for nat, six in HOMES:
        home = lab.home(f"{nat.value}-{six.value}", nat, group=2)
        (address,) = connect_home(lab, home, 2, six)
        homes[nat, six] = home, Process(home.peer), address
    return World(joining, over_six, homes)


@pytest.mark.parametrize("joining_over", [4, 6])
def test_each_address_family_has_its_verdict(world: World, joining_over: int) -> None:
    """Whichever of the two is used to join, the peers met are called over the other as well."""
    bootstrap = [relay.addr for relay in world.joining] if joining_over == 4 else world.over_six
    newcomers = {key: at[1].open(bootstrap=bootstrap, listen=BOTH) for key, at in world.homes.items()}
    waiting = {
        key: peer.soon("families", seconds=PATIENCE, wanted=HOMES[key]) for key, peer in newcomers.items()
    }
    found = {key: answer.result(60) for key, answer in waiting.items()}
    print({f"{key[0].value} {key[1].value}": said["all"] for key, said in found.items()})
    for key, said in found.items():
        assert said["families"] == HOMES[key], (key, said)
        assert said["verdict"] == HOMES[key]["ip4"], (key, said)  # never public where IPv4 is not
        others = {verdict for verdict, _ in said["all"]} - {HOMES[key]["ip4"]}
        assert "public" not in others, (key, said)
        assert f"Over IPv6 {HOMES[key]['ip6']}" in said["why"], (key, said)
        assert ("firewall" in said["improve"]) == (HOMES[key]["ip6"] != "public"), (key, said)
    for peer in newcomers.values():
        peer.call("close")


def test_a_firewall_and_one_peer_to_join_through_are_never_public(lab: Lab, world: World) -> None:
    """Neither where that peer knows nobody who could try, nor for one whose IPv4 is open."""
    alone = Relay(lab, "alone", 10)
    address = connect_host(lab, alone.host, 10)
    alone.open(six=True)
    over_six = f"/ip6/{address}/tcp/{PORT}/p2p/{alone.peer.peer_id}"
    process = world.homes[Nat.OPEN, Six.FIREWALL][1]
    peer = process.open(bootstrap=[over_six], listen=["/ip6/::/tcp/0"])
    said = peer.call("said", seconds=PATIENCE)
    assert {verdict for verdict, _ in said["all"]} == {"unknown"}, said
    peer.call("close")


def test_a_computer_with_ipv6_only(lab: Lab, world: World) -> None:
    """Its verdict is that of IPv6, with the word for what would improve it."""
    homes = {six: world.homes[Nat.PORT_RESTRICTED, six][1] for six in Six}
    peers = {
        six: home.open(bootstrap=world.over_six, listen=["/ip6/::/tcp/0"]) for six, home in homes.items()
    }
    for six, wanted in ((Six.OPEN, "public"), (Six.FIREWALL, "punchable")):
        said = peers[six].call("verdict", seconds=PATIENCE, wanted=wanted)
        print(six, said)
        assert said["verdict"] == wanted, said
        assert ("through the firewall" in said["improve"]) == (six is Six.FIREWALL), said
        if six is Six.FIREWALL:
            addrs = peers[six].call("relayed", seconds=PATIENCE)["addrs"]
            assert any(addr.startswith("/ip6/") for addr in addrs), addrs
        peers[six].call("close")


def test_symmetric_routers_are_left_aside_where_firewalls_can_be_punched(lab: Lab, world: World) -> None:
    """Over IPv4 no hole can be punched between the two, over IPv6 one can."""
    peers: list[Peer] = []
    hosts = []
    for name, group in (("anna", 11), ("bert", 12)):
        home = lab.home(name, Nat.SYMMETRIC, group)
        hosts.append((home, *connect_home(lab, home, group, Six.FIREWALL)))
        peers.append(Process(home.peer).open(bootstrap=[each.addr for each in world.joining], listen=BOTH))
    one, other = peers
    for peer in peers:
        peer.call("families", seconds=PATIENCE, wanted={"ip4": "private", "ip6": "punchable"})
        peer.call("relayed", seconds=PATIENCE)
    addrs = [addr for addr in other.call("addrs")["addrs"] if "circuit" in addr]
    for _ in range(3):
        said = one.call("reach", peer=other.peer_id, addrs=addrs, seconds=8.0)
        if said["direct"]:
            break
    assert said["direct"], said
    assert one.call("echo", peer=other.peer_id, size=1 << 18)["good"]
    assert hosts[1][1] in {address for _, address, _ in hosts[0][0].peer.connections(six=True)}


@pytest.mark.timeout(300)
def test_doctor_says_it_of_each(world: World) -> None:
    link = str(Link("public", None, tuple(relay.addr for relay in world.joining)))
    command = [sys.executable, "-c", "from moshgrid.swarm.cli import main; main()", "doctor", link, "--json"]
    listen = ["--listen", "/ip4/0.0.0.0/tcp/31337", "--listen", "/ip6/::/tcp/31337"]
    started = {
        key: home.peer.start([*command, *listen], stdout=subprocess.PIPE, text=True)
        for key, (home, _, _) in world.homes.items()
    }
    schema = json.loads(SCHEMA.read_text())
    for key, process in started.items():
        out, _ = process.communicate(timeout=120)
        said = json.loads(out)
        jsonschema.validate(said, schema)
        assert said["verdict"] == HOMES[key]["ip4"], said
        six = next(check for check in said["checks"] if check["name"] == "IPv6")
        assert six["text"].startswith(HOMES[key]["ip6"]), six
        assert ("let TCP port 31337 in" in six["advice"]) == (HOMES[key]["ip6"] != "public"), six
        address = world.homes[key][2]
        outcomes = [each["outcome"] for each in said["addresses"] if address in each["address"]]
        wanted = {"good"} if HOMES[key]["ip6"] == "public" else {"help", "unknown"}  # if nobody could try
        assert set(outcomes) <= wanted and len(outcomes) == 1, said
