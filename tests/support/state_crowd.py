"""A crowd over the in-memory network: donors of a run's state, and newcomers that download it."""

import random
from collections import Counter
from contextlib import asynccontextmanager

import numpy as np
import trio

from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.part_work import inline
from moshgrid.averaging.state_service import DonatedRun, StateServer
from moshgrid.averaging.state_transfer import StateClient
from moshgrid.averaging.vouching import Trust
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch

RUN = bytes(16)
SCHEMA = bytes(32)


def state(round_number, seed=0, megabytes=8):
    values = np.random.default_rng(seed).standard_normal(megabytes * 2**18).astype(np.float32)
    return NamedState(round_number, {"weight": values}, {"epoch": round_number})


class Peer:
    def __init__(self, host, network, scope, crowd):
        self.host, self.network, self.scope = host, network, scope
        self.id = host.peer_id
        self.donated = DonatedRun(SCHEMA, offload=inline)
        self.chunks = Counter()
        self.client = StateClient(host, RUN, crowd.trust, SCHEMA, lambda: [peer.id for peer in crowd.peers])
        server = StateServer.of(host)
        server.attach(RUN, self.donated)

    def serve(self, kept):
        self.donated.give_on(kept)
        return self


class Crowd:
    def __init__(self, switch, nursery, trust):
        self.switch, self.nursery, self.trust, self.peers = switch, nursery, trust, []

    async def add(self, kept=None, ip=None, admission=b""):
        peer = await self.nursery.start(self._live, ip)
        peer.donated.admission = admission
        self.peers.append(peer)
        return peer if kept is None else peer.serve(kept)

    def crash(self, peer):
        self.switch.crash(peer.id)
        peer.scope.cancel()

    async def _live(self, ip, *, task_status):
        i = len(self.peers)
        identity = Identity.from_seed(i.to_bytes(32, "big"))
        network = self.switch.network(identity)
        network.ip = ip
        for other in self.peers:
            network.learn_addrs(other.id, other.network.addrs)
            other.network.learn_addrs(identity.peer_id, network.addrs)
        with trio.CancelScope() as scope:
            async with open_host(network, identity, clock=VirtualClock(), rng=random.Random(i)) as host:
                task_status.started(Peer(host, network, scope, self))
                await trio.sleep_forever()


@asynccontextmanager
async def crowd(trust=None, **network):
    async with MemorySwitch(**network) as switch, trio.open_nursery() as nursery:
        yield Crowd(switch, nursery, trust or Trust("public"))
        nursery.cancel_scope.cancel()


def sent_by(peers):
    """Counts the bytes that each peer gives of states, from now on."""
    sent = Counter()
    for peer in peers:

        def find(state_id, now, peer=peer, inner=peer.donated.find):
            kept = inner(state_id, now)
            if kept is None or isinstance(kept, _Counting):  # a leased one has been here before
                return kept
            return _Counting(kept, peer.id, sent)

        peer.donated.find = find
    return sent


class _Counting:
    def __init__(self, kept, peer, sent):
        self.description, self._kept, self._peer, self._sent = kept.description, kept, peer, sent

    def chunk(self, part):
        chunk = self._kept.chunk(part)
        self._sent[self._peer] += len(chunk.data)
        return chunk
