"""Reading: the newest records of a key, from this store and the nearest peers, mending those that lag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from moshgrid.dht.asking import Asker, closer_of
from moshgrid.dht.disjoint_paths import DisjointLookup
from moshgrid.dht.keys import point_of_peer, prefixes_of
from moshgrid.dht.lookup import Ask, Done, Lookup
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import RecordReader, SignedRecord, supersedes
from moshgrid.dht.routing import RoutingTable
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

Heard = Callable[[PeerId, Answer], None]

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


class Reading:
    """Asks until three of the nearest peers answered."""

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

    async def get(self, key: bytes) -> Read:
        """Asks whoever was asked before only for what it stored since."""
        point = self._shortlists.point(key)
        seeds = self._shortlists.known(key) or self._table.candidates(point, self._table.k)
        known = prefixes_of(seeds)
        lookup = Lookup(
            point,
            seeds,
            own=self._table.own,
            need=_ANSWERS,
            alpha=_ANSWERS,
            thorough=False,
            placing=self._asker.placing,
        )
        answers: dict[PeerId, Found] = {}
        views: dict[PeerId, View] = {}

        def heard(peer: PeerId, answer: Answer) -> None:
            if isinstance(answer, Found):
                answers[peer] = answer
                views[peer] = self._view(key, peer, answer)

        def question(ask: Ask) -> GetRecords:
            since = self._views.of(key, ask.peer).stamp
            return GetRecords(self._network, key, known=known, since=since)

        done = await self._asker.look_up(lookup, question, heard)
        if self._doubtful(done.closest, views) or self._crowded(point, seeds, answers):
            done = await self._look_everywhere(key, [*seeds, *done.closest], heard)
        merged: Records = {}
        merge(merged, self._store.get(key, self._host.clock.wall_ms()))
        nearest = {peer: views[peer] for peer in done.closest if peer in views}
        for peer, view in nearest.items():
            if view.more:
                await self._read_on(key, peer, view, answers[peer])
            merge(merged, view.records.values())
        self._views.keep(key, nearest)
        self._mend(merged, nearest)
        return Read(merged, len(nearest), any(answers[peer].split for peer in nearest))

    async def _look_everywhere(self, key: bytes, seeds: list[PeerId], heard: Heard) -> Done:
        """Somebody hides, lags or lies, or nobody ever put it: the k nearest will tell."""
        point = self._shortlists.point(key)
        paths = DisjointLookup(
            point,
            list(dict.fromkeys(seeds)),
            own=self._table.own,
            need=self._table.k,
            placing=self._asker.placing,
        )

        def question(ask: Ask) -> GetRecords:
            return GetRecords(self._network, key, since=self._views.of(key, ask.peer).stamp)

        done = await self._asker.look_up(paths, question, heard)
        if not self._asker.density.is_abnormal(point, done.closest):
            return done
        region = await self._asker.find_region(point)
        everywhere = Lookup(point, region, own=self._table.own, need=len(region), alpha=10, thorough=False)
        query = GetRecords(self._network, key, closer=False)
        more = await self._asker.look_up(everywhere, lambda ask: query, heard)
        return Done(tuple(dict.fromkeys([*done.closest, *more.closest])), done.complete)

    def _crowded(self, point: int, seeds: list[PeerId], answers: dict[PeerId, Found]) -> bool:
        """True when those that were named lie too near the key: the three nearest may be of one mind."""
        named = {*seeds, *answers, *(peer for answer in answers.values() for peer in closer_of(answer))}
        nearest = sorted(named, key=lambda peer: point_of_peer(peer) ^ point)[: self._table.k]
        return self._asker.density.is_abnormal(point, nearest)

    def _doubtful(self, nearest: Sequence[PeerId], views: dict[PeerId, View]) -> bool:
        seqs = {
            peer: {subkey: record.seq for subkey, record in view.records.items()}
            for peer, view in views.items()
        }
        return doubtful([seqs.get(peer, {}) for peer in nearest], seqs.values())

    def _view(self, key: bytes, peer: PeerId, answer: Found) -> View:
        """What ``peer`` holds, by what it was seen to hold and what it stored since."""
        before = self._views.of(key, peer)
        if answer.stamp < before.stamp:  # it was started anew and stored little since: ask for all next time
            self._views.forget(key, peer)
            before = View()
        records = self._read(answer.records, key)
        view = before.extended(records, answer.stamp, self._host.clock.wall_ms())
        view.more = answer.more and bool(records)
        return view

    async def _read_on(self, key: bytes, peer: PeerId, view: View, answer: Found) -> None:
        """Adds the following pages."""
        since = self._views.of(key, peer).stamp
        page = self._read(answer.records, key)
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
                self._namespaces.check_read(record, now_ms)
            except RecordRejected:
                continue  # one bad record does not make the others bad
            records.append(record)
        return records

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
