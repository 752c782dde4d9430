"""Answering kad queries: a pure function of the query, who sent it, the time, and what is held here."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from moshgrid.dht.density import Density
from moshgrid.dht.diversity import Place, Placing
from moshgrid.dht.keys import (
    BITS,
    PREFIX_BITS,
    names,
    point_of_key,
    point_of_peer,
    point_prefix,
    prefix_numbers,
)
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.rates import Rates
from moshgrid.dht.record import RecordReader, SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shards import Splits, belongs
from moshgrid.dht.store import RecordStore
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import (
    MAX_CLOSER,
    Answer,
    FindNode,
    Found,
    GetRecords,
    PeerEntry,
    Ping,
    Pong,
    Push,
    PutRecords,
    Query,
    Received,
    Refusal,
    Taken,
    Watch,
    fitting,
    refused_as,
)
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PeerId

__all__ = ["Equivocated", "Introduced", "Reply", "Responder", "Saw", "SawSplit", "TellWatcher"]


@dataclass(frozen=True, slots=True)
class Saw:
    """A verified, timely record came in: local watches of its key want it."""

    record: SignedRecord


@dataclass(frozen=True, slots=True)
class TellWatcher:
    """Records wait for ``peer`` among the watchers."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Introduced:
    """The sender said where it listens."""

    entry: PeerEntry


@dataclass(frozen=True, slots=True)
class SawSplit:
    """``peer`` says that there are records in the shards below ``key``."""

    peer: PeerId
    key: bytes


@dataclass(frozen=True, slots=True)
class Equivocated:
    """An author signed two payloads under one seq: ``held`` was here, ``came`` came."""

    held: SignedRecord
    came: SignedRecord


Effect = Saw | SawSplit | TellWatcher | Introduced | Equivocated


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, and what else is to be done."""

    answer: Answer
    effects: Sequence[Effect] = ()


class Responder:
    """``answer`` reads and changes only what it was built with. Times are wall-clock milliseconds."""

    def __init__(
        self,
        network: bytes,
        reader: RecordReader,
        namespaces: Namespaces,
        store: RecordStore,
        table: RoutingTable,
        watchers: Watchers,
        entry: Callable[[PeerId], PeerEntry],
        introduced: Iterable[PeerId],
        watched: Callable[[bytes], bool],
        rates: Rates,
        density: Density | None = None,
        client: bool = False,
        placing: Placing = lambda peer: None,
    ) -> None:
        self._network = network
        self._reader = reader
        self._namespaces = namespaces
        self._store = store
        self._table = table
        self._watchers = watchers
        self._entry = entry
        self._introduced = introduced
        self._watched = watched
        self._rates = rates
        self._density = density or Density(table.k)
        self._client = client
        self._placing = placing
        self._splits = Splits()

    def answer(self, query: Query, sender: PeerId, now_ms: int) -> Reply:
        """Answers one query."""
        if query.network != self._network:
            return Reply(Refusal(b"WRONG_NETWORK"))
        if self._client and not isinstance(query, Push):
            return Reply(Refusal(b"CLIENT"))
        if isinstance(query, PutRecords | Push) and not self._rates.may_put(sender, now_ms / 1000):
            return Reply(Refusal(b"QUOTA"))
        match query:
            case Ping(me=me):
                return Reply(Pong(self._entry(self._table.own), now_ms), self._introduce(me, sender))
            case FindNode(me=me, target=target):
                point = int.from_bytes(target)
                closer = self._near(point, query.known, sender, query.skip)
                return Reply(Found(closer=closer), self._introduce(me, sender))
            case GetRecords():
                return Reply(self._get(query, sender, now_ms))
            case PutRecords():
                return self._put(query, sender, now_ms)
            case Watch():
                return self._watch(query, sender, now_ms)
            case Push():
                return self._receive(query, sender, now_ms)

    def put(
        self, record: SignedRecord, also: bytes, now_ms: int, place: Place | None = None
    ) -> tuple[bytes, list[Effect]]:
        """Stores one verified record that came from ``place``.

        Returns the reject code, empty when it is held, and effects.
        """
        try:
            if not belongs(record.key, record.author):
                raise RecordRejected("WRONG_KEY", "the author's records are for another shard")
            self._namespaces.check(record, now_ms)
        except RecordRejected as error:
            return refused_as(error), []
        code = b""
        effects: list[Effect] = []
        held = self._store.find(record.key, record.subkey, now_ms)
        if held is not None and held.seq == record.seq and held.payload_hash != record.payload_hash:
            effects.append(Equivocated(held, record))
        try:
            self._check_near(record)
            self._store.put(record, now_ms, place)
        except RecordRejected as error:
            code = refused_as(error)
            if error.code not in ("QUOTA", "FULL"):
                return code, effects
        effects.append(Saw(record))
        if code == b"FULL" and self._splits.note(record.key, now_ms):
            effects += map(TellWatcher, self._watchers.split(record.key))
        if not code:
            effects += map(TellWatcher, self._watchers.stored(record, also, now_ms))
        return code, effects

    def _check_near(self, record: SignedRecord) -> None:
        """A record is stored where readers look for it; three times k leaves room for other views."""
        if record.author == self._table.own:
            return
        reach, point = 3 * self._table.k, point_of_key(self._network, record.key)
        if self._table.nearer_than_own(point) < reach:
            return
        usual = self._density.reach(2 * reach)
        if usual is None or self._table.own_point ^ point > usual:  # else somebody crowds in on this key
            raise RecordRejected("QUOTA", f"{reach} peers are nearer to the key")

    def _read(self, raw: bytes, sender: PeerId, now_ms: int) -> SignedRecord:
        """``RecordReader.read`` within the budget for checking strangers' signatures."""
        if not self._reader.remembers(raw) and not self._rates.may_verify(now_ms / 1000):
            raise RecordRejected("QUOTA", "more signatures came in than this storer checks")
        try:
            return self._reader.read(raw)
        except RecordRejected as error:
            if error.code == "BAD_SIG":
                self._rates.bad_signature(sender, now_ms / 1000)
            raise

    def _introduce(self, me: PeerEntry | None, sender: PeerId) -> list[Effect]:
        return [Introduced(me)] if me is not None and me.peer == sender else []

    def _near(self, point: int, known: bytes, sender: PeerId, skip: bytes = b"") -> list[PeerEntry]:
        if known:
            return [self._entry(peer) for peer in self._missing(point, known, sender)]
        return self._closer(point, sender, skip)

    def _closer(self, point: int, sender: PeerId, skip: bytes = b"") -> list[PeerEntry]:
        # Those that introduced themselves a moment ago too: of peers that join at once, the later
        # must hear of the earlier. Whoever is told finds out for itself whether they answer.
        count = MAX_CLOSER + 1 + len(skip) // 4
        known = {*self._table.closest(point, count), *self._introduced} - {sender}
        if skip:
            known = {peer for peer in known if not names(skip, point_prefix(point_of_peer(peer)))}
        peers = heapq.nsmallest(MAX_CLOSER, known, key=lambda peer: (point_of_peer(peer) ^ point, peer))
        return [self._entry(peer) for peer in peers]

    def _get(self, query: GetRecords, sender: PeerId, now_ms: int) -> Found:
        news, stamp = self._store.changes(query.key, query.since, now_ms)
        held = [record.raw for record in news if record.subkey > query.after]
        records = fitting(held)
        split = self._splits.has(query.key, now_ms)
        closer: list[PeerEntry] = []
        if query.closer:
            closer = self._near(point_of_key(self._network, query.key), query.known, sender)
        return Found(records, closer, more=len(records) < len(held), split=split, stamp=stamp)

    def _missing(self, point: int, known: bytes, sender: PeerId) -> list[PeerId]:
        """Peers as near to ``point`` as those of which the sender named the prefixes, without those."""
        named = prefix_numbers(known)
        near, reach = point >> (BITS - PREFIX_BITS), 1 << PREFIX_BITS
        if len(named) >= self._table.k:
            reach = max(map(near.__xor__, named))
        others = self._table.unnamed(point, named, reach)
        for peer in self._introduced:
            at = point_of_peer(peer) >> (BITS - PREFIX_BITS)
            if at not in named and at ^ near <= reach:
                others.append(peer)
        return [peer for peer in others if peer != sender][:MAX_CLOSER]

    def _put(self, query: PutRecords, sender: PeerId, now_ms: int) -> Reply:
        codes, effects, place = [], list[Effect](), self._placing(sender)
        missing: dict[PeerId, None] = {}
        for at, raw in enumerate(query.records):
            try:
                record = self._read(raw, sender, now_ms)
            except RecordRejected as error:
                codes.append(refused_as(error))
                continue
            also = query.also[at] if query.also else b""
            code, more = self.put(record, also, now_ms, place)
            codes.append(code)
            effects += more
            if also and not code and sender == record.author:
                self._store.promise(record, also)
            if also:
                point = point_of_key(self._network, record.key)
                missing.update(dict.fromkeys(self._missing(point, also, sender)))
        return Reply(Taken(codes, [self._entry(peer) for peer in list(missing)[:MAX_CLOSER]]), effects)

    def _watch(self, query: Watch, sender: PeerId, now_ms: int) -> Reply:
        held = self._store.get(query.key, now_ms)
        try:
            news = self._watchers.subscribe(sender, query.key, held, query.fresh, now_ms)
        except RecordRejected as error:
            return Reply(Refusal(refused_as(error)))
        now = fitting([record.raw for record in news])
        later = news[len(now) :]
        self._watchers.queue(sender, later)
        split = self._splits.has(query.key, now_ms)
        return Reply(Found(now, split=split), [TellWatcher(sender)] if later else [])

    def _receive(self, push: Push, sender: PeerId, now_ms: int) -> Reply:
        unwatched: dict[bytes, None] = {}
        effects: list[Effect] = [SawSplit(sender, key) for key in push.split]
        for raw in push.records:
            try:
                record = self._read(raw, sender, now_ms)
                self._namespaces.check_read(record, now_ms)
            except RecordRejected:
                continue  # the pusher cannot mend it, and the next one may be good
            if self._watched(record.key):
                effects.append(Saw(record))
            else:
                unwatched[record.key] = None
        return Reply(Received(list(unwatched)), effects)
