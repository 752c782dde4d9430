"""Thousands of whole DHT nodes in virtual time, on a network that hands questions over as objects.

Every peer is a production ``DHTNode``: its tables, lookups, stores, joining, republishing and timers. Only
what is below the request seam is replaced: a question takes a random while and reaches the other node's
own handler, or fails as on a real network. Signatures are a keyed hash that everybody can check, and are
counted, unless ``real_signatures`` is asked for.

A *settled* peer begins with the table it would have after a while, and is built when it is first asked.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import trio

from moshgrid.dht import DHTConfig, DHTNode, Limits
from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.wire import KAD, Answer, Query
from moshgrid.p2p import envelope
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, Unreachable
from moshgrid.p2p.event_log import EventLog
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_public_key
from moshgrid.p2p.testing import run_virtual

FREE = Limits(puts_per_second=1e9, puts_at_once=1e9, signatures_per_second=1e9)
NETWORK_NAME = "simulated"
Result = TypeVar("Result")


def _fake_signature(public_key: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=public_key).digest()


class FakeIdentity(Identity):
    """Signs with a hash that anybody could make: fast, and as good where nobody forges."""

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key
        self.peer_id = peer_id_from_public_key(public_key)

    def sign(self, message: bytes) -> bytes:
        return _fake_signature(self.public_key, message)


@contextmanager
def fake_signatures() -> Iterator[list[int]]:
    """Envelopes hold fake signatures meanwhile; yields how many were checked."""
    checked, real = [0], envelope.verify

    def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
        checked[0] += 1
        return signature == _fake_signature(public_key, message)

    envelope.verify = verify
    try:
        yield checked
    finally:
        envelope.verify = real


def identity_of(number: int, real: bool = False) -> Identity:
    if real:
        return Identity.from_seed(number.to_bytes(32))
    return FakeIdentity(hashlib.sha256(b"simulated %d" % number).digest())


@dataclass(eq=False)
class Peer:
    """One simulated peer; ``lie`` answers in place of its node."""

    identity: Identity
    addr: str
    lie: Lie | None = None
    node: DHTNode | None = None
    alive: bool = True
    refuses: bool = True
    """When dead: refuses connections at once, as a computer does whose program ended. Else silence."""
    starting: bool = False
    side: int = 0

    @property
    def id(self) -> PeerId:
        return self.identity.peer_id


Lie = Callable[[Peer, PeerId, Query], Answer | None]
"""What a liar, asked by somebody, answers; None: nothing."""


class _Arrivals:
    """When questions arrive: in the steps of 10 ms that a clock of the whole world takes, as one alarm for
    all of a step costs far less than one for each."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, trio.lowlevel.Task]] = []
        self._gone: set[int] = set()
        self._number = 0
        self._alarm = trio.CancelScope()

    async def wait(self, steps: int) -> None:
        """Until the step after ``steps - 1`` whole ones."""
        self._number = number = self._number + 1
        due = math.ceil(trio.current_time() * 100 + 1e-6) + steps - 1
        heapq.heappush(self._due, (due, number, trio.lowlevel.current_task()))
        if self._due[0][1] == number:
            self._alarm.deadline = due / 100

        def give_up(_: Any) -> trio.lowlevel.Abort:
            self._gone.add(number)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)

    async def run(self) -> None:
        """Wakes who waits, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._due[0][0] / 100 if self._due else math.inf) as self._alarm:
                await trio.sleep_forever()
            now = round(trio.current_time() * 100)
            while self._due and self._due[0][0] <= now:
                _, number, task = heapq.heappop(self._due)
                if number in self._gone:
                    self._gone.remove(number)
                else:
                    trio.lowlevel.reschedule(task)


class World:
    """Everybody, and who cannot hear whom. Use ``run_world``."""

    def __init__(self, seed: int, nursery: trio.Nursery, real_signatures: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.nursery = nursery
        self.real = real_signatures
        self.peers: dict[PeerId, Peer] = {}
        self.asked = 0
        self.slowest = 10
        """Round trips take 10 ms to so many times 10 ms."""
        self.trace = hashlib.sha256()
        self.listener: Callable[[PeerId, PeerId, Query, Answer | None], None] = lambda *_: None
        """Hears of every question: who asked whom what, and the answer."""
        self._arrivals = _Arrivals()
        nursery.start_soon(self._arrivals.run)
        self._old: list[tuple[int, PeerId]] = []
        self._all: list[tuple[int, PeerId]] = []
        self._densities: list[tuple[int, list[PeerId]]] = []

    # Who there is

    def add(self, identity: Identity, addr: str | None = None, lie: Lie | None = None) -> Peer:
        """A peer that knows nobody and is known by nobody yet."""
        number = len(self.peers)
        addr = addr or f"/ip4/{30 + number // 7 // 200}.{number // 7 % 200}.{number % 250}.1/tcp/1"
        peer = Peer(identity, f"{addr}/p2p/{identity.peer_id}", lie)
        self.peers[peer.id] = peer
        return peer

    def add_many(self, count: int, first: int = 1) -> list[Peer]:
        return [self.add(identity_of(first + number, self.real)) for number in range(count)]

    def settle(self, late: Iterable[Peer] = ()) -> None:
        """Everybody knows some of all and all that are near, met in a random order, those in ``late``
        after all others."""
        later = {peer.id for peer in late}
        self._all = sorted((point_of_peer(peer), peer) for peer in self.peers)
        self._old = [each for each in self._all if each[1] not in later]
        for _ in range(24):
            point = self.rng.getrandbits(256)
            nearest = heapq.nsmallest(20, self._all, key=lambda each, at=point: each[0] ^ at)  # type: ignore[misc]
            self._densities.append((point, [peer for _, peer in nearest]))

    def node(self, peer: Peer) -> DHTNode:
        """The node of a settled peer, made when it is first needed."""
        if peer.node is None:
            node = peer.node = DHTNode(
                self._host(peer, ()), self.nursery, DHTConfig(limits=FREE, exempt_local=False)
            )
            self._fill(node)
        return peer.node

    def _fill(self, node: DHTNode) -> None:
        own = node.host.peer_id
        chance, now = random.Random(f"{self.seed}/{own}"), trio.current_time()
        for known in (self._old, self._all) if len(self._old) < len(self._all) else (self._all,):
            at = bisect.bisect(known, (node.table.own_point, own))
            met = dict.fromkeys(chance.sample(known, min(len(known), 300)))
            met |= dict.fromkeys(known[max(0, at - 30) : at + 31])
            order = list(met)
            chance.shuffle(order)
            for _, other in order:
                node.table.answered(other, 0.0)
                node.table.looked_at(point_of_peer(other), now)
        for point, closest in chance.sample(self._densities, 16):
            node._asker.density.saw(point, closest)

    async def start(self, peer: Peer, bootstrap: Sequence[Peer] = (), **options: Any) -> DHTNode:
        """Starts a whole node, with its timers, that joins through ``bootstrap``; settled if asked."""
        settled = options.pop("settled", False)
        host = self._host(peer, tuple(each.addr for each in bootstrap), options.pop("network", NETWORK_NAME))
        options = {"limits": FREE, "exempt_local": False} | options
        peer.alive, peer.node, peer.starting = True, None, True
        node: DHTNode = await self.nursery.start(self._run, peer, host, DHTConfig(**options))
        peer.node, peer.starting = node, False
        if settled:
            self._fill(node)
        return node

    async def _run(self, peer: Peer, host: Host, config: DHTConfig, *, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            object.__setattr__(host, "nursery", nursery)
            task_status.started(await DHTNode.of(host, config))
            await trio.sleep_forever()

    def crash(self, peers: Iterable[Peer], refuses: bool = True) -> None:
        for peer in peers:
            peer.alive, peer.refuses = False, refuses
            if peer.node is not None and peer.node.host.nursery is not self.nursery:
                peer.node.host.nursery.cancel_scope.cancel()

    @property
    def honest(self) -> list[Peer]:
        """The living that do not lie."""
        return [peer for peer in self.peers.values() if peer.alive and peer.lie is None]

    def nodes(self) -> list[DHTNode]:
        return [peer.node for peer in self.honest if peer.node is not None]

    def nearest(self, point: int, count: int = 20) -> list[Peer]:
        """The living and honest nearest to ``point``."""
        return heapq.nsmallest(count, self.honest, key=lambda peer: point_of_peer(peer.id) ^ point)

    # What happens between them

    async def ask(self, asker: Peer, peer: PeerId, query: Query, timeout: float) -> Answer:
        self.asked += 1
        other = self.peers.get(peer)
        await self._arrivals.wait(self.rng.randint(1, self.slowest))
        answer = await self._answer(asker, other, query) if other is not None else None
        self.trace.update(b"%d %s %s" % (self.asked, asker.id.encode(), peer.encode()))
        self.trace.update(msgspec.msgpack.encode((trio.current_time(), query, answer)))
        self.listener(asker.id, peer, query, answer)
        if answer is None:
            if other is not None and (other.alive or not other.refuses):
                await trio.sleep(timeout)
            raise Unreachable(peer, [("simulated", "no answer")])
        return answer

    async def _answer(self, asker: Peer, other: Peer, query: Query) -> Answer | None:
        if not other.alive or other.starting or not asker.alive or other.side != asker.side:
            return None
        if other.lie is not None:
            return other.lie(other, asker.id, query)
        if other.node is None and not self._all:
            return None  # not started yet
        try:
            return self.node(other)._answer(asker.id, query)
        except MoshgridError as error:
            raise RemoteProtocolError(other.id, str(error)) from error

    def _host(self, peer: Peer, bootstrap: tuple[str, ...], network: str = NETWORK_NAME) -> Host:
        clock = VirtualClock()
        seam: Any = _Seam(self, peer)
        return Host(
            network=seam, identity=peer.identity, requests=seam, nursery=self.nursery, clock=clock,
            rng=random.Random(f"{self.seed}/{peer.id}/{trio.current_time()}"),
            events=EventLog(peer.id, clock, ""), network_name=network, bootstrap=bootstrap,
        )  # fmt: skip


class _Seam:
    """The Network and the Requests of one simulated host."""

    def __init__(self, world: World, peer: Peer) -> None:
        self._world = world
        self._peer = peer
        self.peer_id = peer.id
        self.addrs = (peer.addr,)

    def serve(self, *_: Any) -> None:
        pass

    def on_lost(self, listener: Any) -> Callable[[], None]:
        return lambda: None

    def learn_addrs(self, peer: PeerId, addrs: Sequence[str], seq: int | None = None) -> None:
        pass

    def addrs_of(self, peer: PeerId) -> tuple[str, ...]:
        known = self._world.peers.get(peer)
        return (known.addr,) if known is not None else ()

    async def dial(self, addr: str) -> PeerId:
        peer = self._world.peers.get(PeerId(addr.rpartition("/p2p/")[2]))
        await trio.sleep(0.02)
        if peer is None or not peer.alive or peer.side != self._peer.side:
            raise Unreachable(addr, [(addr, "connection refused")])
        return peer.id

    async def ask(self, peer: PeerId, service: Any, query: Any, timeout: float | None = None) -> Any:
        if service is not KAD:
            raise RemoteProtocolError(peer, f"does not speak {service.protocol}")
        return await self._world.ask(self._peer, peer, query, timeout or KAD.deadline)


def run_world(
    main: Callable[[World], Awaitable[Result]], seed: int, real_signatures: bool = False
) -> tuple[Result, str]:
    """Runs ``main`` in a world of its own; its result, and the hash of everything asked and answered."""

    async def run() -> tuple[Result, str]:
        async with _opened(seed, real_signatures) as world:
            result = await main(world)
            return result, world.trace.hexdigest()

    return run_virtual(run, seed=seed)


@asynccontextmanager
async def _opened(seed: int, real_signatures: bool) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        world = World(seed, nursery, real_signatures)
        if real_signatures:
            yield world
        else:
            with fake_signatures():
                yield world
        nursery.cancel_scope.cancel()


async def each_at_once(jobs: Iterable[Callable[[], Awaitable[Any]]], at_once: int = 20) -> None:
    """Runs all jobs, some at a time."""
    waiting = list(jobs)[::-1]

    async def work() -> None:
        while waiting:
            await waiting.pop()()

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)
