"""A thousand peers without an event loop: production tables, stores, responders and lookups.

A question is answered at once, by the other peer's own Responder; a dead or cut-off one fails it. What a
node does to get and put is written down here as it is in reading.py and writing.py, over the same
machines. One reader checks the (real) signatures for all, so that each costs once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from moshgrid.dht.density import PER_POINT, Density
from moshgrid.dht.disjoint_paths import DisjointLookup
from moshgrid.dht.diversity import Place
from moshgrid.dht.keys import peer_bytes, point_of_key, point_of_peer, prefixes_of
from moshgrid.dht.limits import Limits
from moshgrid.dht.lookup import MAX_SKIP, Answered, Ask, Done, Event, Failed, Lookup
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.rates import Rates
from moshgrid.dht.record import Author, RecordReader, SignedRecord
from moshgrid.dht.responder import Responder
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.store import RecordStore
from moshgrid.dht.views import doubtful, merge
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import Answer, FindNode, Found, GetRecords, PeerEntry, PutRecords, Query, Taken
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, PeerId

START_MS = 1_700_000_000_000
FREE = Limits(puts_per_second=1e9, puts_at_once=1e9, signatures_per_second=1e9)

Lie = Callable[["Peer", Query], Answer | None]


@dataclass(eq=False)
class Peer:
    """One simulated peer; ``lie`` answers in place of its responder."""

    id: PeerId
    table: RoutingTable
    store: RecordStore
    responder: Responder
    lie: Lie | None = None


@dataclass
class DHTSimulation:
    """Everybody, the time, and who cannot hear whom."""

    seed: int
    network: bytes = bytes(16)
    limits: Limits = FREE
    now: float = 0.0
    peers: dict[PeerId, Peer] = field(default_factory=dict)
    places: dict[PeerId, Place] = field(default_factory=dict)
    side: dict[PeerId, int] = field(default_factory=dict)
    asked: int = 0
    hops: int = 0
    """Of the last lookup: how many peers in turn had to be asked to hear of the nearest and reach it."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.reader = RecordReader(self.network, remember=1_000_000)
        self.density = Density()
        self.trace = hashlib.sha256()

    @property
    def now_ms(self) -> int:
        return START_MS + round(self.now * 1000)

    def add(self, peer: PeerId, place: Place | None = None, lie: Lie | None = None) -> Peer:
        """A peer that knows nobody yet."""
        if place is not None:
            self.places[peer] = place
        table = RoutingTable(peer, placing=self.places.get)
        store = RecordStore(peer, self.limits, secret=peer_bytes(peer)[-16:])
        watchers = Watchers(self.limits)
        responder = Responder(
            self.network, self.reader, Namespaces(), store, table, watchers,
            lambda other: PeerEntry(peer_bytes(other)), (), lambda key: False,
            Rates(self.limits), self.density,
        )  # fmt: skip
        made = self.peers[peer] = Peer(peer, table, store, responder, lie)
        return made

    def introduce_all(self) -> None:
        """Fills the tables as they are after a while: whoever was heard of first, and the neighbours."""
        ids = list(self.peers)
        by_point = sorted(ids, key=point_of_peer)
        rank = {peer: at for at, peer in enumerate(by_point)}
        for own in self.peers.values():
            near = by_point[max(0, rank[own.id] - 30) : rank[own.id] + 31]
            for peer in [*self.rng.sample(ids, min(len(ids), 300)), *near]:
                if peer != own.id:
                    own.table.answered(peer, self.now)

    def measure_density(self, who: Peer, times: int = 9) -> None:
        """What bucket refreshes teach about how dense the network is."""
        for _ in range(times):
            point = self.rng.getrandbits(256)
            self.density.saw(point, self.find(who, point).closest)

    def crash(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            del self.peers[peer]

    def ask(self, who: Peer, peer: PeerId, query: Query) -> Answer | None:
        """The answer; None when there is none. The asker's table learns from it either way."""
        self.asked += 1
        other = self.peers.get(peer)
        answer: Answer | None = None
        if other is not None and self.side.get(peer) == self.side.get(who.id):
            if other.lie is not None:
                answer = other.lie(other, query)
            else:
                answer = other.responder.answer(query, who.id, self.now_ms).answer
        self.trace.update(f"{self.now} {who.id} {peer} {type(query).__name__} {answer is None}\n".encode())
        if answer is None:
            who.table.failed(peer, self.now)
        else:
            who.table.answered(peer, self.now)
        return answer

    def run(
        self, who: Peer, lookup: Lookup | DisjointLookup, question: Callable[[Ask], Query]
    ) -> tuple[Done, dict[PeerId, Found]]:
        """One lookup to its end."""
        answers: dict[PeerId, Found] = {}
        hop: dict[PeerId, int] = {}
        effects = list(lookup.start(self.now))
        while True:
            effect = effects.pop(0)
            if isinstance(effect, Done):
                self.hops = hop.get(effect.closest[0], 1) if effect.closest else 0
                return effect, answers
            answer = self.ask(who, effect.peer, question(effect))
            event: Event = Failed(effect.peer)
            if isinstance(answer, Found):
                answers[effect.peer] = answer
                for entry in answer.closer:
                    hop.setdefault(entry.peer, hop.get(effect.peer, 1) + 1)
                event = Answered(effect.peer, [entry.peer for entry in answer.closer])
            effects += lookup.handle(event, self.now)

    def find(self, who: Peer, point: int) -> Done:
        """The nearest to ``point``, as Asker.find_closest does."""
        lookup = Lookup(point, who.table.closest(point, 20), own=who.id, placing=self.places.get)
        target = point.to_bytes(32)
        done, _ = self.run(
            who, lookup, lambda ask: FindNode(self.network, None, target, prefixes_of(ask.skip, MAX_SKIP))
        )
        return done

    def region(self, who: Peer, point: int) -> list[PeerId]:
        """As Asker.find_region does."""
        parts = (self.find(who, part).closest[:PER_POINT] for part in self.density.region(point))
        found = dict.fromkeys(peer for part in parts for peer in part)
        return sorted(found, key=lambda peer: point_of_peer(peer) ^ point)

    def storers(self, who: Peer, key: bytes) -> list[PeerId]:
        """As Shortlists.closest does."""
        point = point_of_key(self.network, key)
        closest = list(self.find(who, point).closest)
        if self.density.is_abnormal(point, closest):
            closest += [peer for peer in self.region(who, point) if peer not in closest]
        return closest

    def put(self, who: Peer, raw: bytes) -> list[PeerId]:
        """Stores a signed record at its storers; returns who says that they hold it."""
        record = self.reader.read(raw)
        held = []
        for peer in self.storers(who, record.key):
            answer = self.ask(who, peer, PutRecords(self.network, [raw]))
            if isinstance(answer, Taken) and answer.codes == [b""]:
                held.append(peer)
        return held

    def get(self, who: Peer, key: bytes) -> dict[bytes, SignedRecord]:
        """As Reading.get does."""
        point = point_of_key(self.network, key)
        seeds = who.table.closest(point, 20)
        query = GetRecords(self.network, key)
        merged: dict[bytes, SignedRecord] = {
            record.subkey: record for record in who.store.get(key, self.now_ms)
        }
        options = {"own": who.id, "placing": self.places.get}
        done, answers = self.run(
            who,
            Lookup(point, seeds, need=3, alpha=3, thorough=False, **options),  # type: ignore[arg-type]
            lambda ask: query,
        )
        views = {peer: {r.subkey: r.seq for r in self.good(answer, key)} for peer, answer in answers.items()}
        named = {*answers, *(entry.peer for answer in answers.values() for entry in answer.closer)}
        nearest = sorted(named, key=lambda peer: point_of_peer(peer) ^ point)[:20]
        crowded = self.density.is_abnormal(point, nearest)
        if crowded or doubtful([views[peer] for peer in done.closest], views.values()):
            seeds = list(dict.fromkeys([*seeds, *done.closest]))
            done, more = self.run(who, DisjointLookup(point, seeds, **options), lambda ask: query)  # type: ignore[arg-type]
            answers |= more
            if self.density.is_abnormal(point, done.closest):
                region = self.region(who, point)
                lookup = Lookup(point, region, own=who.id, need=len(region), alpha=10, thorough=False)
                _, more = self.run(who, lookup, lambda ask: GetRecords(self.network, key, closer=False))
                answers |= more
        for answer in answers.values():
            merge(merged, self.good(answer, key))
        return merged

    def good(self, answer: Found, key: bytes) -> list[SignedRecord]:
        records = []
        for raw in answer.records:
            try:
                record = self.reader.read(raw, key)
            except RecordRejected:
                continue
            if record.expires > self.now_ms:
                records.append(record)
        return records

    def sign(self, identity: Identity, key: bytes, value: bytes = b"\x01", ttl: float = 3_600.0) -> bytes:
        return Author(identity, self.network).sign(key, value, round(ttl * 1000), self.now_ms)


def identity_of(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32))


def open_dht(size: int, seed: int, place: Callable[[int], Place] | None = None) -> DHTSimulation:
    """A network of ``size`` honest peers that know each other as they do after a while."""
    net = DHTSimulation(seed)
    for number in range(size):
        net.add(identity_of(1 + number).peer_id, place(number) if place is not None else None)
    net.introduce_all()
    return net
