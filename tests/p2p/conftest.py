"""Two kinds of networks for the same tests."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.network import Network
from moshgrid.p2p.testing import MemorySwitch, run_virtual

RELAY = Identity.from_seed(bytes([255]) * 32)


class Mesh:
    """Makes networks and takes them away, each in a task of its own."""

    def __init__(
        self,
        nursery: trio.Nursery,
        open_one: Callable[[Identity], AbstractAsyncContextManager[Network]],
        freeze: Callable[[Any], None],
        crash: Callable[[Any], None],
    ) -> None:
        self.nursery = nursery
        self.freeze = freeze
        """Stops a peer as SIGSTOP would."""
        self.crash = crash
        """Ends a peer's connections as SIGKILL would."""
        self._open_one = open_one
        self._living: dict[str, tuple[trio.Event, trio.Event]] = {}
        self._count = 0

    async def network(self) -> Network:
        """A new peer."""
        self._count += 1
        return await self.nursery.start(self._live, Identity.from_seed(bytes([self._count]) * 32))

    async def _live(self, identity: Identity, task_status: Any) -> None:
        stop, stopped = self._living[identity.peer_id] = trio.Event(), trio.Event()
        async with self._open_one(identity) as network:
            task_status.started(network)
            await stop.wait()
        stopped.set()

    async def pair(self) -> tuple[Network, Network]:
        """Two connected peers; the first dialled the second."""
        a, b = await self.network(), await self.network()
        assert await a.dial(b.addrs[0]) == b.peer_id
        return a, b

    async def close(self, network: Network) -> None:
        """Takes a peer off the network."""
        stop, stopped = self._living.pop(network.peer_id)
        stop.set()
        await stopped.wait()

    async def close_all(self) -> None:
        """Takes everybody off."""
        for stop, stopped in self._living.values():
            stop.set()
            await stopped.wait()


@dataclass
class World:
    """How a test runs: which networks, and whose time."""

    kind: str
    relay = RELAY.peer_id
    """Who is connected too where peers are relayed."""

    def run(self, test: Callable[[Mesh], Awaitable[Any]], limit: float = 30.0) -> None:
        """Runs ``test(mesh)``, failing after ``limit`` seconds of the loop's time."""

        async def main() -> None:
            with trio.fail_after(limit):
                async with self._mesh() as mesh:
                    await test(mesh)

        if self.kind == "memory":
            run_virtual(main)
        else:
            trio.run(main)

    @asynccontextmanager
    async def _mesh(self) -> AsyncIterator[Mesh]:
        async with AsyncExitStack() as stack:
            if self.kind == "memory":
                switch = await stack.enter_async_context(MemorySwitch())

                def freeze(network: Any) -> None:
                    switch.freeze(network.peer_id)

                def crash(network: Any) -> None:
                    switch.crash(network.peer_id)

                @asynccontextmanager
                async def open_one(identity: Identity) -> AsyncIterator[Network]:
                    network = switch.network(identity)
                    yield network
                    await network.aclose()
            elif self.kind == "relayed":
                open_one = await stack.enter_async_context(relayed())
                freeze, crash = _silence, _cut
            else:
                from moshgrid.p2p.libp2p_network import open_libp2p_network

                listen = "/ip4/127.0.0.1/tcp/0" + ("/ws" if self.kind == "websocket" else "")
                open_one = partial(open_libp2p_network, listen=[listen])
                freeze, crash = _silence, _cut
            nursery = await stack.enter_async_context(trio.open_nursery())
            mesh = Mesh(nursery, open_one, freeze, crash)
            yield mesh
            await mesh.close_all()


@asynccontextmanager
async def relayed() -> AsyncIterator[Callable[[Identity], AbstractAsyncContextManager[Network]]]:
    """Opens peers that listen nowhere, and are reached through one relay."""
    from moshgrid.p2p.clock import Clock
    from moshgrid.p2p.libp2p_network import open_libp2p_network
    from moshgrid.p2p.relay_keeping import RelayKeeping
    from moshgrid.p2p.relay_server import RelayServer

    async with open_libp2p_network(RELAY) as relay:
        RelayServer(relay, RELAY, Clock(), relay.observed_ip).start()

        @asynccontextmanager
        async def open_one(identity: Identity) -> AsyncIterator[Network]:
            async with open_libp2p_network(identity, listen=[]) as network, trio.open_nursery() as nursery:
                found = trio.Event()
                network.own_addrs.on_change(found.set)
                keeping = RelayKeeping(
                    network,
                    Clock(),
                    network.circuits.relays,
                    lambda addrs: network.own_addrs.set("relayed", addrs),
                    lambda: 0.0,
                )
                network.learn_addrs(relay.peer_id, relay.addrs)
                nursery.start_soon(keeping.run)
                keeping.found(relay.peer_id)
                keeping.want(True)
                await found.wait()
                yield network
                nursery.cancel_scope.cancel()

        yield open_one


def _silence(network: Any) -> None:
    """From outside the same as SIGSTOP: nothing is sent any more on what is connected."""
    for connection in network._connections.all():
        connection.driver.session.take = list


def _cut(network: Any) -> None:
    """From outside the same as SIGKILL: the system ends the connections, and nobody says goodbye."""
    from libp2p.network.connection.raw_connection import RawConnection

    _silence(network)
    for connection in network._connections.all():
        if connection.is_relayed:  # goes with the connection to the relay
            continue
        raw = connection.secured_conn
        while not isinstance(raw, RawConnection):
            raw = raw._connection
        raw.stream.stream.socket.shutdown(socket.SHUT_RDWR)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test with a ``world`` runs in memory and over real sockets, or in worlds that it names."""
    if "world" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "WORLDS", ("memory", "libp2p"))
        kinds = getattr(metafunc.function, "worlds", kinds)
        metafunc.parametrize("world", kinds, indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """One kind of network."""
    return World(request.param)
