"""Connections that carry nothing end after a minute, politely, and are made again when they are needed."""

from __future__ import annotations

import trio
from wire_pipe import pipe

from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.idle import IdleConnections
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.testing import run_virtual

ECHO, SILENT = "/test/echo/1", "/test/silent/1"
ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))


class Nobody:
    def connection_began(self, connection) -> None:
        pass

    def connection_ended(self, connection) -> None:
        pass


class Fake:
    """Something to be watched."""

    def __init__(self) -> None:
        self.open_streams = self.streams_ever = 0
        self.peer = PeerId("somebody")
        self.left: str | None = None

    def leave(self, reason: str) -> None:
        self.left = reason


def test_only_what_stays_without_streams_is_idle():
    idle = IdleConnections(60.0)
    nothing, busy, brief, gone = Fake(), Fake(), Fake(), Fake()
    for each in (nothing, busy, brief, gone):
        idle.watch(each, 0.0)
    busy.open_streams = busy.streams_ever = 1
    idle.forget(gone)
    idle.forget(gone)
    assert idle.look(59.0) == []
    brief.streams_ever = 1  # opened and closed since
    assert idle.look(60.0) == [nothing]
    assert idle.look(119.0) == []
    assert idle.look(120.0) == [brief]
    busy.open_streams = 0
    assert idle.look(178.0) == []
    assert idle.look(180.0) == [busy]
    assert idle.look(1e9) == []


def test_an_idle_connection_hears_goodbye_after_a_minute_and_a_silent_stream_keeps_one():
    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            idle = IdleConnections(60.0)
            nursery.start_soon(idle.run)
            ended: list[float] = []
            connections = []
            for _ in range(2):
                near, far = pipe()
                ours: list = []

                async def listen(far=far, ours=ours) -> None:
                    ours.append(await Upgrade(BOB, Nobody(), None).connect(far, None))

                async with trio.open_nursery() as both:
                    both.start_soon(listen)
                    theirs = await Upgrade(ALICE, Nobody(), None).connect(near, _id(BOB))
                idle.watch(ours[0], trio.current_time())
                nursery.start_soon(theirs.start)
                nursery.start_soon(ours[0].start)
                connections.append((theirs, ours[0]))
            (left, _), (kept, inside) = connections
            stream = await kept.open_stream()
            await stream.write(b"x")

            async def note() -> None:
                await left.over.wait()
                ended.append(trio.current_time())

            began = trio.current_time()
            nursery.start_soon(note)
            await trio.sleep(600)
            assert len(ended) == 1 and 60 <= ended[0] - began <= 76
            assert left.driver.session.fault is None
            assert not kept.over.is_set() and inside.open_streams == 1
            await stream.reset()
            with trio.fail_after(76):
                await kept.over.wait()
            nursery.cancel_scope.cancel()

    run_virtual(scenario)


def _id(identity: Identity):
    from libp2p.peer.id import ID

    return ID.from_base58(identity.peer_id)


async def _echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def _lost(network: Network) -> None:
    event = trio.Event()
    network.on_lost(lambda peer: event.set())
    await event.wait()


def test_what_ended_for_being_idle_is_dialled_again_when_needed():
    async def scenario() -> None:
        limits = ConnectionLimits(idle_seconds=0.2, exempt=())
        with trio.fail_after(20.0):
            async with (
                open_libp2p_network(Identity.generate(), limits=limits) as network,
                open_libp2p_network(Identity.generate(), []) as visitor,
            ):
                network.serve(ECHO, _echo)
                for _ in range(2):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_lost, visitor)
                        nursery.start_soon(visitor.dial, network.addrs[0])
                    stream = await visitor.open_stream(network.peer_id, ECHO)
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                    await stream.close()

    trio.run(scenario)


def test_a_connection_that_ends_in_the_moment_of_use_is_made_again():
    async def scenario() -> None:
        with trio.fail_after(20.0):
            async with (
                open_libp2p_network(Identity.generate()) as network,
                open_libp2p_network(Identity.generate(), []) as visitor,
            ):
                network.serve(ECHO, _echo)
                await visitor.dial(network.addrs[0])
                (connection,) = network._connections.all()
                connection.leave("it was idle")  # its goodbye is on the way
                stream = await visitor.open_stream(network.peer_id, ECHO)
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"

    trio.run(scenario)


def test_neighbours_may_be_idle():
    async def scenario() -> None:
        limits = ConnectionLimits(idle_seconds=0.05)
        with trio.fail_after(20.0):
            async with (
                open_libp2p_network(Identity.generate(), limits=limits) as network,
                open_libp2p_network(Identity.generate(), []) as visitor,
            ):
                await visitor.dial(network.addrs[0])
                with trio.move_on_after(0.3):
                    await _lost(visitor)
                    raise AssertionError("a neighbour was sent away")

    trio.run(scenario)
