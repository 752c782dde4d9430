"""A swarm of averaging peers on the in-memory network, in virtual time."""

import random
from contextlib import asynccontextmanager

import numpy as np
import trio

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.part_work import inline
from moshgrid.averaging.run_core import RunCore
from moshgrid.dht import DHTNode
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch


class Peer:
    def __init__(self, host, core, network, arrays, scope):
        self.host, self.core, self.network, self.arrays = host, core, network, arrays
        self.id = host.peer_id
        self.scope = scope
        self.events = []
        host.events.add_sink(self.events.append)

    def names(self):
        return [event["event"] for event in self.events]


class Swarm:
    def __init__(self, switch, nursery, seed, config, nat=()):
        self.switch = switch
        self._switch, self._nursery, self._seed, self._config = switch, nursery, seed, config
        self._nat = nat
        self.peers = []

    async def add(self, arrays, ip=None, identity=None, **config):
        """A new peer, or with the ``identity`` of one that crashed that one again.

        ``ip``: what others see as its address. ``config``: where it differs from the others'.
        """
        peer = await self._nursery.start(self._live, arrays, ip, identity, {**self._config, **config})
        self.peers.append(peer)
        return peer

    def crash(self, peer):
        """Ends a peer as SIGKILL would: nothing of it runs any more, its connections are gone."""
        self._switch.crash(peer.id)
        peer.scope.cancel()

    async def _live(self, arrays, ip, identity, config, *, task_status):
        i = len(self.peers)
        identity = identity or Identity.from_seed(bytes([(i + 1) % 256, (self._seed + i // 255) % 256]) * 16)
        if i < len(self._nat):
            self._switch.reachability.nat[identity.peer_id] = self._nat[i]
        network = self._switch.network(identity)
        network.ip = ip
        alive = [peer for peer in self.peers if not peer.network.closed]
        bootstrap = tuple(alive[0].network.addrs) if alive else ()
        rng = random.Random(self._seed * 1000 + i)
        with trio.CancelScope() as scope:
            async with open_host(
                network, identity, bootstrap=bootstrap, clock=VirtualClock(), rng=rng
            ) as host:
                core = RunCore(host, await DHTNode.of(host), run_config("run", arrays, **config), inline)
                await core.start()
                task_status.started(Peer(host, core, network, arrays, scope))
                await trio.sleep_forever()


@asynccontextmanager
async def swarm(count, seed=0, size=24, nat=(), **config):
    """``nat``: the type of each peer's router, in the order in which they are made; open beyond."""
    config = {
        "group_size": 4, "min_group_size": 2, "compression": "none", "topology": "moshpit",
        "reducer": "mean", "deadline": None, **config,
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    async with MemorySwitch(seed=seed) as switch, trio.open_nursery() as nursery:
        group = Swarm(switch, nursery, seed, config, nat)
        for _ in range(count):
            shapes = (size, (3, 2))
            await group.add([rng.normal(size=shape).astype(np.float32) for shape in shapes])
        yield group
        nursery.cancel_scope.cancel()


async def step_all(peers, patience=120.0):
    """Everybody steps once, at the same moment; their reports by peer id."""
    reports = {}

    async def one(peer):
        reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)

    with trio.fail_after(patience):
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(one, peer)
    return reports


def flat(peer):
    """The peer's values as one vector of float64."""
    return np.concatenate([array.reshape(-1) for array in peer.arrays]).astype(np.float64)
