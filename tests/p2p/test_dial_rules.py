"""Addresses that strangers name: none in anybody's home is dialled unless it is known to be ours too."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from types import SimpleNamespace

import pytest
import trio

from moshgrid.p2p.addresses import AddressBook
from moshgrid.p2p.dial_rules import DialRules
from moshgrid.p2p.errors import Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network

A, B, EVIL = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3))
WORLD = ("62.1.1.1", 1)
HOME = ["127.0.0.1", "::1", "192.168.1.9", "10.9.9.9", "172.16.0.1", "fd00::9", "100.64.0.9"]
NOWHERE = ["0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "fe80::1", "::", "ff02::1"]


def rules(*claims: str, ours: tuple[str, ...] = ()) -> DialRules:
    book = AddressBook()
    book.learn(A, [f"{claim}/p2p/{A}" for claim in claims])
    networks = [ip_network("192.168.1.0/24"), ip_network("127.0.0.0/8")]
    interfaces = SimpleNamespace(
        networks=networks, hosts=frozenset({"192.168.1.2", "127.0.0.1", "192.0.2.2"})
    )
    return DialRules(lambda: ours, book.of, interfaces)


@pytest.mark.parametrize("host", HOME)
def test_who_knows_somebody_outside_dials_nobody_at_home(host):
    for made in (
        rules(),
        rules("/ip4/62.7.7.7/tcp/1", ours=("61.1.1.1",)),
        rules(f"/dns4/{A}.example/tcp/1"),
    ):
        made.met(B, WORLD, False)
        assert not made.allow(A, host)
        assert made.allow(A, "62.7.7.7") and made.allow(A, "2001:db8::1")


@pytest.mark.parametrize("host", NOWHERE)
def test_nobody_is_nowhere(host):
    assert not rules().allow(A, host)


@pytest.mark.parametrize("host", HOME)
def test_who_knows_nobody_outside_is_on_a_network_of_its_own(host):
    made = rules()
    made.met(B, ("192.168.1.7", 1), False)
    made.met(EVIL, WORLD, True)  # through a relay: that is the relay's address
    made.met(EVIL, ("192.0.2.2", 1), False)  # another peer on this computer
    assert made.allow(A, host)


def test_who_comes_from_our_public_address_is_a_neighbour_in_our_networks_only():
    made = rules("/ip4/61.1.1.1/tcp/4001", ours=("61.1.1.1",))
    made.met(B, WORLD, False)
    assert made.allow(A, "192.168.1.9")
    assert not made.allow(A, "192.168.2.9") and not made.allow(A, "127.0.0.1")


def test_where_neighbours_were_met_others_without_a_public_address_are_looked_for():
    made = rules()
    made.met(B, WORLD, False)
    assert not made.allow(A, "192.168.1.9")
    made.met(B, ("192.168.1.7", 1), False)
    assert made.allow(A, "192.168.1.9") and not made.allow(A, "10.9.9.9")
    public = rules("/ip4/62.7.7.7/tcp/1")
    public.met(B, WORLD, False)
    public.met(B, ("192.168.1.7", 1), False)
    assert not public.allow(A, "192.168.1.9"), "it says itself that it is elsewhere"


def test_who_came_from_this_computer_or_network_itself_may_be_dialled_there():
    made = rules()
    made.met(EVIL, WORLD, False)
    made.met(A, ("127.0.0.1", 5), False)
    made.met(B, ("10.9.9.9", 5), False)
    assert made.allow(A, "127.0.0.1") and not made.allow(B, "127.0.0.1")
    assert made.allow(B, "10.9.9.9") and not made.allow(A, "10.9.9.9") and not made.allow(EVIL, "10.9.9.9")


@pytest.mark.parametrize(
    "form",
    [
        "/ip4/127.0.0.1/tcp/{port}/p2p/{peer}",
        "/dns4/localhost/tcp/{port}/p2p/{peer}",
        "/ip4/127.0.0.1/tcp/{port}/ws/p2p/{peer}",
        "/ip4/127.0.0.1/tcp/{port}/p2p/{relay}/p2p-circuit/p2p/{peer}",
        "/dns4/localhost/tcp/{port}/p2p/{relay}/p2p-circuit/p2p/{peer}",
    ],
)
def test_a_stranger_sends_nobody_to_programs_on_this_computer(form):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as program:
            program.setblocking(False)
            addr = form.format(port=program.getsockname()[1], peer=EVIL, relay=B)
            async with open_libp2p_network(Identity.generate()) as network:
                network.caller.rules.met(A, WORLD, False)
                network.learn_addrs(EVIL, [addr], seq=1)
                with pytest.raises(Unreachable, match="not dialled"):
                    await network.open_stream(EVIL, "/test/1")
                assert not await network.reach_directly(EVIL, 2.0)
                with pytest.raises(BlockingIOError):
                    program.accept()
                with trio.move_on_after(1.0), pytest.raises(Unreachable):
                    await network.dial(addr)  # what the user names may be anywhere
                program.accept()[0].close()

    trio.run(main)
