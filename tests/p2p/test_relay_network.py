"""Relays over real connections: two peers that meet through a third one."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from echoing import ECHO, echo
from ipv6_loopback import skip_without_ipv6
from victim import until

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.dcutr import DCUTR, HolePunch, HolePunchType
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.errors import StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import Libp2pNetwork, open_libp2p_network
from moshgrid.p2p.network import Stream
from moshgrid.p2p.relay_asking import reserve
from moshgrid.p2p.relay_forwarding import forward
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_messages import HOP, STOP, HopMessage, HopType, RelayStatus, StopMessage, StopType
from moshgrid.p2p.relay_server import RelayServer


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
async def relay_at(
    limits: RelayLimits | None = None, listen: str = "/ip4/127.0.0.1/tcp/0"
) -> AsyncIterator[tuple[Libp2pNetwork, RelayServer]]:
    identity = Identity.generate()
    async with open_libp2p_network(identity, [listen]) as relay:
        assert isinstance(relay, Libp2pNetwork)
        server = RelayServer(relay, identity, Clock(), relay.observed_ip, limits)
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


def run(test, limit=20.0):
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


def test_peers_meet_through_a_relay_over_ipv6():
    skip_without_ipv6()

    async def scenario():
        async with (
            relay_at(listen="/ip6/::1/tcp/0") as (relay, server),
            open_libp2p_network(Identity.generate(), []) as target,
            open_libp2p_network(Identity.generate(), []) as asker,
        ):
            target.serve(ECHO, echo)
            assert await asker.dial(await reserve_at(target, relay)) == target.peer_id
            stream = await asker.open_stream(target.peer_id, ECHO)
            await stream.send(b"six")
            assert await stream.receive() == b"six"
            assert server.table.circuits == 1 and relay.observed_ip(asker.peer_id) == "::1"

    run(scenario)


def test_new_streams_take_the_direct_connection_as_soon_as_there_is_one():
    async def scenario():
        async with three() as world:
            heard: list[bool] = []
            for network in (world.asker, world.target):
                network.on_relayed(lambda connection: heard.append(connection.is_initiator))
            peer = await world.asker.dial(world.addr)
            relayed = await world.asker.open_stream(peer, ECHO)
            assert sorted(heard) == [False, True]
            world.asker.learn_addrs(peer, world.target.own_addrs.of("listening"))
            assert await world.asker.reach_directly(peer, 10.0)
            before = world.server.table.bytes_relayed
            stream = await world.asker.open_stream(peer, ECHO)
            await stream.send(bytes(100_000))
            left = 100_000
            while left:
                left -= len(await stream.receive())
            assert world.server.table.bytes_relayed < before + 10_000
            assert world.asker.circuit_of(peer) is None
            await relayed.send(b"the old one goes on")
            assert await relayed.receive() == b"the old one goes on"
            assert sorted(heard) == [False, True]

    run(scenario)


def test_one_connection_too_many_ends_a_relayed_one_and_never_the_direct_one():
    async def scenario():
        async with three() as world:
            peer = await world.asker.dial(world.target.addrs[0])
            (direct,) = world.asker._connections.of(peer)
            for _ in range(12):
                connection = await world.asker.circuits.call(world.addr, peer)
                await world.asker.begin(connection)
            await until(lambda: len(world.asker._connections.of(peer)) == 8, 10.0)
            assert direct in world.asker._connections.usable(peer)
            assert world.asker._connections.usable(peer)[0] is direct
            assert world.target.is_direct(world.asker.peer_id)

    run(scenario)


def test_only_relays_that_we_chose_may_bring_us_connections():
    async def scenario():
        async with three() as world:
            world.target.circuits.relays.clear()
            with pytest.raises(Unreachable, match="the relay could not reach the peer"):
                await world.asker.dial(world.addr)
            await until(lambda: not world.server.table.circuits, 5.0)

    run(scenario)


def test_why_a_relayed_address_did_not_work_is_told():
    async def scenario():
        async with three() as world:
            relay = world.relay.addrs[0]
            gone = Identity.generate().peer_id
            with pytest.raises(Unreachable, match="is not at this relay: it left, or the address is old"):
                await world.asker.dial(f"{relay}/p2p-circuit/p2p/{gone}")
            with pytest.raises(Unreachable, match="the relay could not be reached: refused the connection"):
                await world.asker.dial(
                    f"/ip4/127.0.0.1/tcp/1/p2p/{gone}/p2p-circuit/p2p/{world.target.peer_id}"
                )
            through_peer = f"{world.target.addrs[0]}/p2p-circuit/p2p/{gone}"
            with pytest.raises(Unreachable, match=r"the relay .*does not speak"):
                await world.asker.dial(through_peer)

    run(scenario)


def test_a_relay_cannot_pass_off_one_peer_as_another():
    async def scenario():
        async with three() as world:

            async def lie(stream: Stream) -> None:
                await read_delimited(stream, 4096)
                stop = await world.relay.open_stream(world.target.peer_id, STOP)
                await send_delimited(
                    stop, StopMessage(StopType.CONNECT, Identity.generate().peer_id).encode()
                )
                await read_delimited(stop, 4096)
                await send_delimited(stream, HopMessage(HopType.STATUS, status=RelayStatus.OK).encode())
                await forward(stream, stop, lambda way: 1 << 40, lambda way, count: 0.0)

            world.relay.serve(HOP, lie)
            with contextlib.suppress(Unreachable):
                await world.asker.dial(world.addr)
            await until(lambda: world.target.connected() == {world.relay.peer_id}, 10.0)

    run(scenario)


@pytest.mark.parametrize("limits", [RelayLimits(circuit_bytes=1_000_000), RelayLimits(circuit_seconds=1)])
def test_a_circuit_that_is_used_up_is_a_lost_connection_and_the_next_one_is_new(limits):
    async def scenario():
        async with three(limits) as world:
            peer = await world.asker.dial(world.addr)
            lost = trio.Event()
            world.asker.on_lost(lambda gone: lost.set() if gone == peer else None)
            stream = await world.asker.open_stream(peer, ECHO)
            try:
                async with trio.open_nursery() as nursery:

                    async def listen() -> None:
                        while await stream.receive():
                            pass

                    nursery.start_soon(listen)
                    for _ in range(40):
                        await stream.send(bytes(100_000))
            except* StreamReset:
                pass
            await lost.wait()
            stream = await world.asker.open_stream(peer, ECHO)
            await stream.send(b"again")
            assert await stream.receive() == b"again"
            info = world.asker.circuit_of(peer)
            assert info is not None and not info.carries_tensors

    run(scenario)


def test_garbage_on_both_protocols_harms_nobody():
    async def scenario():
        async with three() as world:
            chance = random.Random(5)
            for protocol, victim in ((HOP, world.relay), (STOP, world.target)):
                await world.asker.dial(victim.addrs[0])
                world.target.circuits.relays.add(world.asker.peer_id)
                for size in (0, 1, 2, 100, 5000, 100_000):
                    for first in (b"", b"\x00", b"\xff\xff\xff\x7f", b"\x10\x08\x01\x12\x0c"):
                        stream = await world.asker.open_stream(victim.peer_id, protocol)
                        with contextlib.suppress(StreamReset):
                            await stream.send(first + chance.randbytes(size))
                            await stream.close_write()
                            while await stream.receive():
                                pass
                        await stream.reset()
            assert not world.server.table.circuits
            async with open_libp2p_network(Identity.generate(), listen=[]) as somebody:
                assert await somebody.dial(world.addr) == world.target.peer_id
                assert not somebody.is_direct(world.target.peer_id)

    run(scenario)


def test_a_reader_that_stops_holds_up_its_own_circuit_only():
    async def scenario():
        async with three() as world:

            async def never(stream: Stream) -> None:
                await trio.sleep_forever()

            world.target.serve("/test/never/1", never)
            peer = await world.asker.dial(world.addr)
            before = world.server.table.bytes_relayed
            stream = await world.asker.open_stream(peer, "/test/never/1")
            with trio.move_on_after(0.5):
                await stream.send(bytes(200 << 20))
                raise AssertionError("somebody holds 200 MB")
            assert world.server.table.bytes_relayed - before < 40 << 20
            async with open_libp2p_network(Identity.generate(), listen=[]) as somebody:
                await somebody.dial(world.addr)
                echoing = await somebody.open_stream(peer, ECHO)
                await echoing.send(b"not held up")
                assert await echoing.receive() == b"not held up"

    run(scenario)


@pytest.mark.parametrize(
    ("limits", "circuits"), [(RelayLimits(circuit_bytes=3_000_000), 3), (RelayLimits(circuit_seconds=3), 2)]
)
def test_who_opens_streams_all_the_time_never_sees_a_circuit_end(limits, circuits):
    async def scenario():
        async with three(limits) as world:
            peer = await world.asker.dial(world.addr)
            seen: list[object] = []
            world.asker.on_relayed(seen.append)
            while len(seen) < circuits:
                stream = await world.asker.open_stream(peer, ECHO)
                for _ in range(5):
                    await stream.send(bytes(20_000))
                    left = 20_000
                    while left:
                        left -= len(await stream.receive())
                await stream.close()
            await until(lambda: world.server.table.circuits == 1, 10.0)

    run(scenario)


def test_who_holds_a_reservation_may_be_idle_at_its_relay():
    async def scenario():
        identity = Identity.generate()
        strict = ConnectionLimits(idle_seconds=0.4, exempt=())
        async with (
            open_libp2p_network(identity, limits=strict) as relay,
            open_libp2p_network(Identity.generate()) as target,
            open_libp2p_network(Identity.generate()) as stranger,
        ):
            server = RelayServer(
                relay, identity, Clock(), relay.observed_ip, RelayLimits(reservation_seconds=2)
            )
            relay.keep_idle(server.needs)
            server.start()
            await reserve_at(target, relay)
            await stranger.dial(relay.addrs[0])
            await until(lambda: relay.connected() == {target.peer_id}, 5.0)
            assert server.table.reservations == 1
            await until(lambda: not relay.connected(), 10.0)  # it was not renewed
            assert not any(server.table.counts.values())

    run(scenario)


def test_who_begins_one_punch_after_the_other_is_called_once_and_nobody_complains(caplog):
    async def scenario():
        async with three() as world:
            peer = await world.asker.dial(world.addr)
            answering = world.target.puncher._answering
            for _ in range(6):
                stream = await world.asker.open_stream(peer, DCUTR)
                await send_delimited(stream, HolePunch(HolePunchType.CONNECT).encode())
                HolePunch.decode(await read_delimited(stream, 4096))
                await send_delimited(stream, HolePunch(HolePunchType.SYNC).encode())
                assert set(answering) <= {world.asker.peer_id}
            await until(lambda: not answering, 10.0)

    run(scenario)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
