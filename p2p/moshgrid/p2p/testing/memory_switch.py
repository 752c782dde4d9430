"""What connects the peers of an in-memory network: delays, rates, crashes, freezes and partitions.

Everything happens in the event loop's time, so under ``run_virtual`` minutes of network time pass in
milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from types import TracebackType

import trio

from moshgrid.p2p.errors import ConfigurationError, LocalProtocolError
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.testing.memory_network import MemoryNetwork
from moshgrid.p2p.testing.reachability import Reachability

__all__ = ["MemorySwitch"]

_RETRANSMISSION = 0.2
_SILENCE_SECONDS = 14.0
"""How long the others wait for a frozen peer, as the real network does."""


class MemorySwitch:
    """What connects the peers, and what breaks them.

    ``latency`` and ``jitter`` are seconds one way, ``rate`` bytes per second into and out of a peer,
    ``loss`` the chance that a segment comes later by a retransmission, ``reachability`` who sits behind
    which router (everybody is open without it). Equal seeds give equal runs
    where the event loop's own order is fixed too (``run_virtual``). Use it as
    ``async with MemorySwitch(seed=1) as switch``; leaving ends every peer's handlers.
    """

    def __init__(
        self,
        seed: int = 0,
        latency: float = 0.001,
        rate: float | None = None,
        jitter: float = 0.0,
        loss: float = 0.0,
        reachability: Reachability | None = None,
    ) -> None:
        self.reachability = reachability or Reachability()
        self.relayed_bytes = 0
        """What all relayed connections carried so far."""
        self._running = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self.latency = latency
        self.jitter = jitter
        self.rate = rate
        self.loss = loss
        self._rng = random.Random(seed)
        self._networks: dict[PeerId, MemoryNetwork] = {}
        self._numbers: dict[PeerId, int] = {}
        self._at: dict[int, MemoryNetwork] = {}
        self._cuts: list[tuple[frozenset[PeerId], frozenset[PeerId]]] = []

    async def __aenter__(self) -> MemorySwitch:
        self._nursery = await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.nursery.cancel_scope.cancel()
        await self._running.__aexit__(kind, error, trace)

    @property
    def nursery(self) -> trio.Nursery:
        """Runs the peers' handlers."""
        if self._nursery is None:
            raise LocalProtocolError("enter the switch first: async with MemorySwitch() as switch")
        return self._nursery

    def network(
        self, identity: Identity, *, rate: float | None = None, dialable: bool = True
    ) -> MemoryNetwork:
        """A new peer; one that crashed or closed may come back, at its old address.

        ``rate`` overrides the switch's; a peer that is not ``dialable`` has no addresses.
        """
        peer = identity.peer_id
        if peer in self._networks and not self._networks[peer].closed:
            raise ConfigurationError(f"{peer} is on this switch already; identities must differ")
        number = self._numbers.setdefault(peer, len(self._numbers) + 1)
        network = MemoryNetwork(self, peer, number, rate if rate is not None else self.rate, dialable)
        self._networks[peer] = self._at[number] = network
        return network

    def crash(self, peer: PeerId) -> None:
        """Ends a peer as SIGKILL would: its streams break, others lose it, dials to it are refused."""
        network = self._networks[peer]
        if network.closed:
            return
        links = network.shut()
        for other in links:
            self.nursery.start_soon(self._tell_lost, other, network)

    def disconnect(self, a: PeerId, b: PeerId) -> None:
        """Breaks the connection of two peers; each may dial the other again."""
        one, other = self._networks[a], self._networks[b]
        self.nursery.start_soon(self._tell_lost, one, other)
        self.nursery.start_soon(self._tell_lost, other, one)

    async def _tell_lost(self, network: MemoryNetwork, lost: MemoryNetwork) -> None:
        await trio.sleep(self.delay())
        while not self.linked(lost.peer_id, network.peer_id):
            await network.wait_link()
        network.unlink(lost)

    def freeze(self, peer: PeerId) -> None:
        """Stops a peer as SIGSTOP would: nothing it does completes.

        Nobody is told; those connected to it give it up when it has been silent for 14 s.
        """
        network = self._networks[peer]
        if not network.frozen:
            network.freeze()
            self.nursery.start_soon(self._give_up, network)

    async def _give_up(self, network: MemoryNetwork) -> None:
        freeze = network.frozen
        with trio.move_on_after(_SILENCE_SECONDS):
            while network.frozen is freeze:
                await network.wait_link()
        if network.frozen is freeze:
            network.lose_all()

    def thaw(self, peer: PeerId) -> None:
        """Lets a frozen peer go on."""
        self._networks[peer].thaw()
        self._wake_all()

    def partition(self, a: Collection[PeerId], b: Collection[PeerId]) -> None:
        """Holds back everything between the two sets until ``heal``."""
        self._cuts.append((frozenset(a), frozenset(b)))

    def heal(self) -> None:
        """Ends every partition; what was held back arrives now."""
        self._cuts.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        for network in self._networks.values():
            network.wake()

    def cut(self, a: PeerId, b: PeerId) -> bool:
        """True when a partition lies between the two."""
        return any((a in one and b in two) or (b in one and a in two) for one, two in self._cuts)

    def linked(self, source: PeerId, target: PeerId) -> bool:
        """True when what ``source`` sent can be taken by ``target`` now."""
        return not self._networks[target].frozen and not self.cut(source, target)

    def delay(self) -> float:
        """One way's seconds for a packet of no length."""
        return self.latency + (self._rng.uniform(0, self.jitter) if self.jitter else 0.0)

    def arrival(self, source: MemoryNetwork, target: MemoryNetwork, size: int) -> float:
        """When a segment sent now arrives, after what is queued at both ends."""
        sent = source.occupy_uplink(trio.current_time(), size)
        delay = self.delay()
        if self.loss and self._rng.random() < self.loss:
            delay += max(_RETRANSMISSION, 2 * self.latency)
        return target.occupy_downlink(sent + delay, size)

    def at(self, number: int) -> MemoryNetwork | None:
        """The living peer at ``/memory/<number>``."""
        network = self._at.get(number)
        return None if network is None or network.closed or not network.dialable else network
