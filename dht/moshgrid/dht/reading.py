"""Reading: the newest records of a key, from this store and the nearest peers, mending those that lag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from moshgrid.dht.asking import Asker, closer_of
from moshgrid.dht.disjoint_paths import DisjointLookup, deal
from moshgrid.dht.keys import point_of_peer, prefixes_of
from moshgrid.dht.lookup import Ask, Done, Lookup
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import RecordReader, SignedRecord, supersedes
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.seen_records import SeenRecords, witnesses
from moshgrid.dht.shards import MOST_RECORDS
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.views import Records, View, Views, doubtful, merge
from moshgrid.dht.wire import Answer, Found, GetRecords
from moshgrid.dht.writing import Writing
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Read", "Reading"]

_ANSWERS = 3
_MAX_PAGES = 8


@dataclass(frozen=True, slots=True)
class Read:
    """What was found under one key."""

    records: Records
    """Tombstones too."""
    answers: int
    """How many of the nearest peers answered."""
    split: bool
    """Whether one of them said that there may be records in the shards below the key."""


@dataclass(slots=True)
class _Heard:
    """What one reading of one key heard so far."""

    key: bytes
    point: int
    seeds: list[PeerId]
    before: dict[PeerId, View] = field(default_factory=dict)
    """What whoever was asked was known to hold when it was asked."""
    answers: dict[PeerId, Found] = field(default_factory=dict)
    views: dict[PeerId, View] = field(default_factory=dict)

    def named(self) -> set[PeerId]:
        """Everybody who was heard of."""
        closer = (peer for answer in self.answers.values() for peer in closer_of(answer))
        return {*self.seeds, *self.answers, *closer}


def _point_among(peers: frozenset[PeerId], peer: PeerId) -> int:
    if peer not in peers:
        raise ValueError("was not to be asked")
    return point_of_peer(peer)


class Reading:
    """Asks until three of the nearest peers answered, and two others of those that should know."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        table: RoutingTable,
        store: RecordStore,
        reader: RecordReader,
        namespaces: Namespaces,
        asker: Asker,
        shortlists: Shortlists,
        writing: Writing,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._network = network
        self._table = table
        self._store = store
        self._reader = reader
        self._namespaces = namespaces
        self._asker = asker
        self._shortlists = shortlists
        self._writing = writing
        self._nursery = nursery
        self._views = Views()
        self._seen = SeenRecords()

    def forget(self) -> None:
        """The rules changed: what was read by the earlier ones is read anew."""
        self._views, self._seen = Views(), SeenRecords()

    async def get(self, key: bytes) -> Read:
        """Asks whoever was asked before only for what it stored since."""
        point = self._shortlists.point(key)
        seeds = self._shortlists.known(key) or self._table.candidates(point, self._table.k)
        heard = _Heard(key, point, seeds)
        done = await self._ask_some(heard)
        seen = self._seen.of(key, self._host.clock.wall_ms())
        if self._doubtful(done.closest, heard, seen) or self._crowded(heard):
            done = await self._look_everywhere(heard, done)
        now_ms = self._host.clock.wall_ms()
        merged: Records = {}
        merge(merged, (record for record in self._store.get(key, now_ms) if self._passes(record, now_ms)))
        merge(merged, self._seen.of(key, now_ms))
        nearest = {peer: heard.views[peer] for peer in done.closest if peer in heard.views}
        others = {peer: view for peer, view in heard.views.items() if peer not in nearest}
        for peer, view in nearest.items():
            if view.more:
                await self._read_on(key, peer, view, heard)
        for view in (*nearest.values(), *others.values()):
            merge(merged, view.records.values())
        self._views.keep(key, nearest | {peer: view for peer, view in others.items() if not view.more})
        self._seen.saw(key, merged.values(), now_ms)
        self._mend(merged, nearest)
        return Read(merged, len(nearest), any(heard.answers[peer].split for peer in nearest))

    async def _ask_some(self, heard: _Heard) -> Done:
        """The nearest, and two witnesses: these at the same time when enough of the storers are known."""
        lookup = Lookup(
            heard.point,
            heard.seeds,
            own=self._table.own,
            need=_ANSWERS,
            alpha=_ANSWERS,
            thorough=False,
            placing=self._asker.placing,
        )
        storers = self._shortlists.probable(heard.key, heard.seeds)
        async with trio.open_nursery() as nursery:
            if storers:
                nursery.start_soon(self._ask_witnesses, heard, storers, heard.seeds[:_ANSWERS])
            known = prefixes_of(heard.seeds)
            done = await self._look_up(lookup, heard, known=known)
        if not storers and not self._doubtful(done.closest, heard):
            await self._ask_witnesses(heard, heard.named() - {self._table.own}, heard.answers)
        return done

    async def _ask_witnesses(self, heard: _Heard, of: Iterable[PeerId], asked: Iterable[PeerId]) -> None:
        """The nearest may be one. Asks two more of those that should know, by chance."""
        chosen = witnesses(heard.point, of, frozenset(asked), self._table.k, self._host.rng)
        if chosen:
            await self._ask_only(chosen, heard)

    async def _ask_only(self, peers: list[PeerId], heard: _Heard) -> Done:
        """Asks all of ``peers`` and nobody whom they name."""
        lookup = Lookup(
            heard.point,
            peers,
            own=self._table.own,
            need=len(peers),
            alpha=10,
            thorough=False,
            distance_point=partial(_point_among, frozenset(peers)),
        )
        return await self._look_up(lookup, heard, closer=False)

    async def _look_everywhere(self, heard: _Heard, done: Done) -> Done:
        """Somebody hides, lags or lies, or nobody ever put it: the k nearest will tell."""
        paths = DisjointLookup(
            heard.point,
            deal([*heard.seeds, *done.closest], self._table.live_peers(), self._host.rng),
            own=self._table.own,
            need=self._table.k,
            placing=self._asker.placing,
        )
        done = await self._look_up(paths, heard)
        if not self._asker.density.is_abnormal(heard.point, done.closest):
            return done
        region = await self._asker.find_region(heard.point)
        more = await self._ask_only(region, heard)
        return Done(tuple(dict.fromkeys([*done.closest, *more.closest])), done.complete)

    async def _look_up(
        self, lookup: Lookup | DisjointLookup, heard: _Heard, *, known: bytes = b"", closer: bool = True
    ) -> Done:
        def question(ask: Ask) -> GetRecords:
            view = heard.before[ask.peer] = self._views.of(heard.key, ask.peer)
            return GetRecords(self._network, heard.key, known=known, closer=closer, since=view.stamp)

        def listen(peer: PeerId, answer: Answer) -> None:
            if isinstance(answer, Found):
                heard.answers[peer] = answer
                heard.views[peer] = self._view(peer, answer, heard)

        return await self._asker.look_up(lookup, question, listen)

    def _crowded(self, heard: _Heard) -> bool:
        """True when those that were named lie too near the key: the three nearest may be of one mind."""
        nearest = sorted(heard.named(), key=lambda peer: point_of_peer(peer) ^ heard.point)[: self._table.k]
        return self._asker.density.is_abnormal(heard.point, nearest)

    def _doubtful(self, nearest: Sequence[PeerId], heard: _Heard, seen: Iterable[SignedRecord] = ()) -> bool:
        seqs = {
            peer: {subkey: record.seq for subkey, record in view.records.items()}
            for peer, view in heard.views.items()
        }
        most = [seqs.get(peer, {}) for peer in nearest]
        full = any(len(each) >= MOST_RECORDS for each in most)
        floor = {r.subkey: r.seq for r in seen if not full or any(r.subkey in each for each in most)}
        return doubtful(most, [*seqs.values(), floor])

    def _view(self, peer: PeerId, answer: Found, heard: _Heard) -> View:
        """What ``peer`` holds, by what it was seen to hold and what it stored since."""
        key, before = heard.key, heard.before[peer]
        if answer.stamp < before.stamp:  # it was started anew and stored little since: ask for all next time
            self._views.forget(key, peer)
            before = View()
        records = self._read(answer.records, key)
        view = before.extended(records, answer.stamp, self._host.clock.wall_ms())
        view.more = answer.more and bool(records)
        return view

    async def _read_on(self, key: bytes, peer: PeerId, view: View, heard: _Heard) -> None:
        """Adds the following pages."""
        since = heard.before[peer].stamp
        page = self._read(heard.answers[peer].records, key)
        for _ in range(_MAX_PAGES):
            after = max(record.subkey for record in page)
            query = GetRecords(self._network, key, after=after, closer=False, since=since)
            try:
                following = await self._asker.ask(peer, query)
            except (Unreachable, RemoteProtocolError):
                break
            if not isinstance(following, Found):
                break
            page = self._read(following.records, key)
            merge(view.records, page)
            if not following.more or not page:
                view.more = False
                return
        view.stamp = since  # it may have told less than all

    def _read(self, envelopes: list[bytes], key: bytes) -> list[SignedRecord]:
        now_ms = self._host.clock.wall_ms()
        records = []
        for raw in envelopes:
            try:
                record = self._reader.read(raw, key)
            except RecordRejected:
                continue  # one bad record does not make the others bad
            if self._passes(record, now_ms):
                records.append(record)
        return records

    def _passes(self, record: SignedRecord, now_ms: int) -> bool:
        """By this reader's own validators, whoever held it."""
        try:
            self._namespaces.check_read(record, now_ms)
        except RecordRejected:
            return False
        return True

    def _mend(self, merged: Records, theirs: dict[PeerId, View]) -> None:
        for peer, view in theirs.items():
            if len(view.records) >= MOST_RECORDS:
                continue  # it is full
            lacking = [
                record.raw
                for subkey, record in merged.items()
                if (old := view.records.get(subkey)) is None or supersedes(record, old)
            ]
            if lacking:
                self._nursery.start_soon(self._writing.send_quietly, peer, lacking)
