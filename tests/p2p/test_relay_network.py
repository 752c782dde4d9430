"""Relays over real connections: two peers that meet through a third one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import Libp2pNetwork, open_libp2p_network
from moshgrid.p2p.network import Stream
from moshgrid.p2p.relay_asking import reserve
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_server import RelayServer

ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


@dataclass
class Trio:
    """A relay, a peer that holds a reservation there, and one that wants to reach it."""

    relay: Libp2pNetwork
    server: RelayServer
    target: Libp2pNetwork
    asker: Libp2pNetwork
    addr: str
    """The target's relayed address."""


@asynccontextmanager
async def relay_at(limits: RelayLimits | None = None) -> AsyncIterator[tuple[Libp2pNetwork, RelayServer]]:
    identity = Identity.generate()
    async with open_libp2p_network(identity) as relay:
        assert isinstance(relay, Libp2pNetwork)
        server = RelayServer(relay, identity, Clock(), relay.address_of, limits)
        server.start()
        yield relay, server


async def reserve_at(peer: Libp2pNetwork, relay: Libp2pNetwork) -> str:
    peer.circuits.relays.add(await peer.dial(relay.addrs[0]))
    granted = await reserve(peer, relay.peer_id)
    assert granted.addrs == relay.addrs
    return f"{granted.addrs[0]}/p2p-circuit/p2p/{peer.peer_id}"


@asynccontextmanager
async def three(limits: RelayLimits | None = None) -> AsyncIterator[Trio]:
    async with (
        relay_at(limits) as (relay, server),
        open_libp2p_network(Identity.generate()) as target,
        open_libp2p_network(Identity.generate()) as asker,
    ):
        assert isinstance(target, Libp2pNetwork) and isinstance(asker, Libp2pNetwork)
        target.serve(ECHO, echo)
        yield Trio(relay, server, target, asker, await reserve_at(target, relay))


def run(test, limit=60.0):
    async def main():
        with trio.fail_after(limit):
            await test()

    trio.run(main)


def test_two_peers_meet_through_a_relay():
    async def scenario():
        async with three() as world:
            peer = await world.asker.dial(world.addr)
            assert peer == world.target.peer_id
            assert not world.asker.is_direct(peer) and not world.target.is_direct(world.asker.peer_id)
            stream = await world.asker.open_stream(peer, ECHO)
            sent = bytes(range(256)) * 8192
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, sent)
                heard = bytearray()
                while len(heard) < len(sent):
                    heard += await stream.receive()
            assert heard == sent
            assert world.server.table.circuits == 1
            assert world.server.table.bytes_relayed > 2 * len(sent)
            info = world.asker.circuit_of(peer)
            assert info is not None and info.relay == world.relay.peer_id and info.carries_tensors
            theirs = world.target.circuit_of(world.asker.peer_id)
            assert theirs == info

    run(scenario)
