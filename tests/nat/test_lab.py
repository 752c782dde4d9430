"""The lab itself, with plain sockets: each router is of its type, and the matrix is the routers' doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import trio
from lab import Home, Host, Lab
from matrix import PAIRS, direct_over_tcp
from namespaces import NAMED, LabError, own_prefix, remove_leftovers, why_not
from raw_sockets import can_connect, knocking, punch, seen_by, seen_by_udp
from routers import Nat

# Where the witness does not even refuse, as a host behind NAT of its own: a refusal ends a router's mapping.
_SILENT = """
table ip silent {
  chain input {
    type filter hook input priority 0; policy accept;
    tcp dport 7500-7999 ct state new drop
  }
}
"""
SILENCE = 0.4  # seconds after which a packet that had to cross a few namespaces is taken as dropped


@dataclass(frozen=True)
class Street:
    """Two homes of every type, and two witnesses of different address groups."""

    left: dict[Nat, Home]
    right: dict[Nat, Home]
    witness: Host
    stranger: Host


@pytest.fixture(scope="module")
def street(lab: Lab) -> Street:
    witness = lab.public_host("witness", group=0)
    witness.namespace.nft(_SILENT)
    return Street(
        {nat: lab.home(f"left-{nat.value}", nat, group=2) for nat in Nat},
        {nat: lab.home(f"right-{nat.value}", nat, group=3) for nat in Nat},
        witness,
        lab.public_host("stranger", group=1),
    )


@pytest.mark.parametrize("nat", Nat)
def test_mapping(street: Street, nat: Nat) -> None:
    home, port = street.left[nat], 4001

    async def main() -> list[tuple[str, int]]:
        return [
            await seen_by(home.peer, port, street.witness, 7001),
            await seen_by(home.peer, port, street.witness, 7002),
            await seen_by(home.peer, port, street.stranger, 7003),
        ]

    seen = trio.run(main)
    assert {address for address, _ in seen} == {home.address}
    if nat is Nat.SYMMETRIC:
        assert len({seen_port for _, seen_port in seen} | {port}) == 4
    else:
        assert [seen_port for _, seen_port in seen] == [port] * 3


@pytest.mark.parametrize("nat", Nat)
def test_filtering(street: Street, nat: Nat) -> None:
    """Who gets in to a listening port: before anything was sent, and after one packet to the witness."""
    home, port = street.left[nat], 4002
    target = (home.address, port)

    async def who_gets_in(first: int) -> set[str]:
        tries = {
            "the very port": (street.witness, first),
            "the same address": (street.witness, first + 1),
            "a stranger": (street.stranger, first + 2),
        }
        inside: set[str] = set()

        async def attempt(name: str, host: Host, source: int) -> None:
            if await can_connect(host, source, target, SILENCE):
                inside.add(name)

        async with trio.open_nursery() as nursery:
            for name, (host, source) in tries.items():
                nursery.start_soon(attempt, name, host, source)
        return inside

    async def main() -> tuple[set[str], set[str]]:
        with home.peer.socket(port=port) as listener:
            listener.listen()
            before = await who_gets_in(7510)
            async with knocking(home.peer, port, (street.witness.address, 7500)):
                return before, await who_gets_in(7500)

    before, after = trio.run(main)
    everybody = {"the very port", "the same address", "a stranger"}
    expected = {
        Nat.OPEN: everybody,
        Nat.FULL_CONE: everybody,
        Nat.ADDRESS_RESTRICTED: everybody - {"a stranger"},
        Nat.SYMMETRIC: set[str](),  # the witness saw another port than this
    }
    assert before == (everybody if nat is Nat.OPEN else set())
    assert after == expected.get(nat, {"the very port"})


@pytest.mark.parametrize("nat", Nat)
def test_datagrams(street: Street, nat: Nat) -> None:
    home = street.left[nat]
    seen = trio.run(seen_by_udp, home.peer, 4003, street.witness, 7020, SILENCE)
    if nat is Nat.UDP_BLOCKED:
        assert seen is None
    else:
        assert seen is not None and seen[0] == home.address


def test_the_matrix_of_simultaneous_open(street: Street) -> None:
    """All ordered pairs at once: those meet that should, the others not, though SYNs are repeated twice."""
    met: dict[tuple[Nat, Nat], bool] = {}

    async def attempt(number: int, pair: tuple[Nat, Nat]) -> None:
        one, other = street.left[pair[0]].peer, street.right[pair[1]].peer
        met[pair] = await punch(one, other, 20000 + number, street.witness, 30000 + number, 5.0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, pair in enumerate(PAIRS):
                nursery.start_soon(attempt, number, pair)

    trio.run(main)
    assert met == {pair: direct_over_tcp(*pair) for pair in PAIRS}


def test_routers_and_the_internet_count(lab: Lab, street: Street) -> None:
    home = street.left[Nat.PORT_RESTRICTED]
    before = home.sent()[street.witness.address].packets
    trio.run(seen_by, home.peer, 4005, street.witness, 7030)
    assert home.sent()[street.witness.address].packets > before
    assert home.received()[street.witness.address].packets > 0
    assert lab.passed()[home.address, street.witness.address].bytes > 0
    assert street.right[Nat.OPEN].address not in street.left[Nat.OPEN].peer.address


def test_peers_of_one_lan_reach_each_other_and_share_the_address(lab: Lab, street: Street) -> None:
    home = lab.home("family", Nat.PORT_RESTRICTED, peers=3)

    async def main() -> None:
        with home.peers[2].socket(port=4000) as listener:
            listener.listen()
            assert await can_connect(home.peers[0], 0, (home.peers[2].address, 4000), 5)
            # Nobody else reaches a private address: the internet drops it.
            assert not await can_connect(street.witness, 0, (home.peers[2].address, 4000), SILENCE)
        seen = [await seen_by(peer, 0, street.witness, 7040) for peer in home.peers]
        assert {address for address, _ in seen} == {home.address}

    trio.run(main)
    with pytest.raises(LabError, match="one peer"):
        lab.home("too-many", Nat.FULL_CONE, peers=2)


def test_a_lab_leaves_nothing_even_when_its_process_is_killed(lab: Lab) -> None:
    script = (
        "import sys; from lab import Lab; lab = Lab()\n"
        "host = lab.public_host('orphan'); p = host.start(['sleep', '600'])\n"
        "print(p.pid, host.namespace.name, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
    )
    assert process.stdin and process.stdout
    pid, name = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert (NAMED / name).exists()
    assert name in remove_leftovers()
    assert not (NAMED / name).exists()
    assert not _alive(int(pid))
    assert list(NAMED.glob(own_prefix(1).rstrip("1-") + "*")), "those of a living process stay"


def test_where_no_lab_can_be_the_reason_says_what_helps(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    del lab  # skips where there is none
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "as root" in (why_not() or "")
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert "apt-get install nftables iproute2" in (why_not() or "")


def _alive(pid: int) -> bool:
    """Whether a process runs; one that was killed and that nobody has waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
