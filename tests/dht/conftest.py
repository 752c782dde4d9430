"""What the DHT tests share: identities by number, signed records, and swarms in virtual time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from moshgrid.dht import DHTNode
from moshgrid.dht.record import Author, RecordReader, SignedRecord
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import network_id, open_host
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.testing import MemorySwitch

NETWORK = network_id("test")


def identity_of(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32))


@pytest.fixture(scope="session")
def identity() -> Callable[[int], Identity]:
    return identity_of


@dataclass
class Signer:
    """Signs records of many authors with chosen times."""

    reader: RecordReader = field(default_factory=lambda: RecordReader(NETWORK, remember=100_000))

    def __call__(
        self,
        author: int = 1,
        key: str = "k",
        value: bytes = b"\x01",
        *,
        seq: int = 1_700_000_000_000,
        ttl: int = 600_000,
        suffix: str = "",
        deleted: bool = False,
    ) -> SignedRecord:
        signer = Author(identity_of(author), NETWORK)
        return self.reader.read(
            signer.sign(key.encode(), b"" if deleted else value, ttl, seq, suffix, deleted)
        )


@pytest.fixture(scope="session")
def sign() -> Signer:
    return Signer()


@dataclass
class Swarm:
    """Nodes on one switch; the first is everybody's bootstrap."""

    switch: MemorySwitch
    nursery: trio.Nursery
    seed: int
    nodes: list[DHTNode] = field(default_factory=list)
    bootstrap: tuple[str, ...] = ()
    finished: bool = False

    async def add(self, number: int | None = None, network: str = "public") -> DHTNode:
        number = len(self.nodes) if number is None else number
        identity = identity_of(number + 1)
        memory = self.switch.network(identity)
        opening = open_host(
            memory,
            identity,
            network_name=network,
            bootstrap=tuple(addr for addr in self.bootstrap if identity.peer_id not in addr),
            clock=VirtualClock(),
            rng=random.Random(f"{self.seed}/{number}"),
        )
        if not self.bootstrap:
            self.bootstrap = memory.addrs
        node: DHTNode = await self.nursery.start(self._run, opening)
        self.nodes.append(node)
        return node

    async def _run(self, opening: Any, *, task_status: Any) -> None:
        # A task of its own: a crash cancels the host's nursery and with it whatever runs inside.
        async with opening as host:
            task_status.started(await DHTNode.of(host))
            await trio.sleep_forever()

    def crash(self, node: DHTNode) -> PeerId:
        self.nodes.remove(node)
        self.switch.crash(node.host.peer_id)
        node.host.nursery.cancel_scope.cancel()
        return node.host.peer_id


@asynccontextmanager
async def open_swarm(size: int, seed: int = 0, latency: float = 0.001) -> AsyncIterator[Swarm]:
    async with MemorySwitch(seed=seed, latency=latency) as switch, trio.open_nursery() as nursery:
        swarm = Swarm(switch, nursery, seed)
        for _ in range(size):
            await swarm.add()
        for node in swarm.nodes:
            assert await node.joined(10)
        yield swarm
        # Not reached when the test's body was cancelled: then nobody would see that it ended early.
        swarm.finished = True
        nursery.cancel_scope.cancel()
    assert swarm.finished


@pytest.fixture(scope="session")
def swarm() -> Callable[..., AbstractAsyncContextManager[Swarm]]:
    return open_swarm
