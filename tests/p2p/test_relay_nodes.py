"""Nodes behind relays: reservations held by themselves, and what the world hears of them."""

from __future__ import annotations

import pytest
import trio.testing
from echoing import ECHO, echo
from victim import until

from moshgrid.p2p import Node
from moshgrid.p2p.relaying import LAYER, Relaying

LOCAL = ["/ip4/127.0.0.1/tcp/0"]


async def serve_echo(node: Node) -> None:
    node.host.network.serve(ECHO, echo)


async def ask_echo(node: Node, peer: str, addrs: tuple[str, ...]) -> bytes:
    node.host.network.learn_addrs(peer, addrs)
    stream = await node.host.network.open_stream(peer, ECHO)
    await stream.send(b"hello")
    heard = await stream.receive()
    await stream.close()
    return heard


def relaying(node: Node) -> Relaying:
    layer = node.host.layers[LAYER]
    assert isinstance(layer, Relaying)
    return layer


def wait_for(node: Node, condition, seconds: float = 10.0) -> None:
    node.call(until, condition, seconds)


def relays_of(node: Node) -> set[str]:
    return {
        addr.split("/p2p/")[1].removesuffix("/p2p-circuit") for addr in node.addrs if "p2p-circuit" in addr
    }


def test_peers_that_nobody_can_dial_are_reached_through_their_relay():
    with (
        Node(listen=LOCAL, relay=True) as relay,
        Node(listen=[], bootstrap=relay.addrs) as target,
        Node(listen=[], bootstrap=relay.addrs) as asker,
    ):
        for node in (target, asker):
            wait_for(node, lambda node=node: relays_of(node) == {relay.peer_id})
        assert target.addrs == (f"{relay.addrs[0]}/p2p-circuit/p2p/{target.peer_id}",)
        assert "/p2p-circuit/" in target.link
        target.call(serve_echo, target)
        assert asker.call(ask_echo, asker, target.peer_id, target.addrs) == b"hello"
        assert not asker.host.network.is_direct(target.peer_id)
        table = relaying(relay).server.table
        assert (table.reservations, table.circuits) == (2, 1)
        target.close()
        wait_for(relay, lambda: table.counts["reservations"] == 1 and not table.circuits)


def test_a_node_that_is_known_to_be_public_gives_its_reservation_back():
    with Node(listen=LOCAL, relay=True) as relay, Node(listen=[], bootstrap=relay.addrs) as node:
        wait_for(node, lambda: relays_of(node) == {relay.peer_id})

        async def learn(public: bool) -> None:
            relaying(node).learned(public)

        node.call(learn, True)
        wait_for(node, lambda: not node.addrs)
        node.call(learn, False)
        wait_for(node, lambda: relays_of(node) == {relay.peer_id})


@pytest.mark.parametrize(
    ("options", "reserves"),
    [
        ({}, False),
        ({"use_relays": True}, True),
        ({"listen": []}, True),
        ({"listen": [], "use_relays": False}, False),
    ],
)
def test_who_listens_on_this_computer_only_needs_no_relay_unless_told(options, reserves):
    with (
        Node(listen=LOCAL, relay=True) as relay,
        Node(**{"listen": LOCAL, "bootstrap": relay.addrs, **options}) as node,
    ):
        wait_for(node, lambda: node.host.network.connected() == {relay.peer_id})
        if reserves:
            wait_for(node, lambda: relays_of(node) == {relay.peer_id})
        else:
            node.call(trio.testing.wait_all_tasks_blocked, 0.2)
            assert not relays_of(node) and not relaying(relay).server.table.reservations


def test_a_relay_that_dies_is_replaced_within_ten_seconds():
    with (
        Node(listen=LOCAL, relay=True) as first,
        Node(listen=LOCAL, relay=True, bootstrap=first.addrs) as second,
        Node(listen=[], bootstrap=[*first.addrs, *second.addrs]) as node,
        Node(listen=[]) as asker,
    ):
        node.call(serve_echo, node)
        wait_for(node, lambda: relays_of(node) == {first.peer_id, second.peer_id})
        first.close()
        wait_for(node, lambda: relays_of(node) == {second.peer_id}, seconds=10.0)
        assert asker.call(ask_echo, asker, node.peer_id, node.addrs) == b"hello"
