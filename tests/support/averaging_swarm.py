"""A swarm of averaging peers on the in-memory network, in virtual time."""

import random
from contextlib import AsyncExitStack, asynccontextmanager

import numpy as np

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.round_driver import inline
from moshgrid.averaging.run_core import RunCore
from moshgrid.dht import DHTNode
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch


class Peer:
    def __init__(self, host, core, network, arrays):
        self.host, self.core, self.network, self.arrays = host, core, network, arrays
        self.id = host.peer_id
        self.events = []
        host.events.add_sink(self.events.append)

    def names(self):
        return [event["event"] for event in self.events]


class Swarm:
    def __init__(self, switch, stack, seed, config):
        self.switch, self._stack, self._seed, self._config = switch, stack, seed, config
        self.peers = []

    async def add(self, arrays):
        i = len(self.peers)
        identity = Identity.from_seed(bytes([i + 1, self._seed % 256]) * 16)
        network = self.switch.network(identity)
        bootstrap = tuple(self.peers[0].network.addrs) if self.peers else ()
        host = await self._stack.enter_async_context(
            open_host(
                network, identity, bootstrap=bootstrap, clock=VirtualClock(),
                rng=random.Random(self._seed * 1000 + i),
            )
        )
        core = RunCore(host, await DHTNode.of(host), run_config("run", arrays, **self._config), inline)
        await core.start()
        peer = Peer(host, core, network, arrays)
        self.peers.append(peer)
        return peer


@asynccontextmanager
async def swarm(count, seed=0, size=24, **config):
    config = {
        "group_size": 4, "min_group_size": 2, "compression": "none", "topology": "moshpit",
        "reducer": "mean", "deadline": None, **config,
    }
    rng = np.random.default_rng(seed)
    async with MemorySwitch(seed=seed) as switch, AsyncExitStack() as stack:
        group = Swarm(switch, stack, seed, config)
        for _ in range(count):
            await group.add([rng.normal(size=size).astype(np.float32), rng.normal(size=(3, 2)).astype(np.float32)])
        yield group
