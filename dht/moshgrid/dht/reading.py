"""Reading: the newest records of a key, from this store and the nearest peers, mending those that lag."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import trio

from moshgrid.dht.asking import Asker, closer_of
from moshgrid.dht.disjoint_paths import DisjointLookup
from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.lookup import Done, Lookup
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import RecordReader, SignedRecord, supersedes
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.seen_records import SeenRecords, witnesses
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.wire import Answer, Found, GetRecords
from moshgrid.dht.writing import Writing
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Reading", "merge"]

_ANSWERS = 3
_MAX_PAGES = 8


_Records = dict[bytes, SignedRecord]


def merge(into: _Records, records: Iterable[SignedRecord]) -> None:
    """Adds records of one key by subkey, keeping the one that supersedes."""
    for record in records:
        held = into.get(record.subkey)
        if held is None or supersedes(record, held):
            into[record.subkey] = record


def _point_among(peers: frozenset[PeerId], peer: PeerId) -> int:
    if peer not in peers:
        raise ValueError("was not to be asked")
    return point_of_peer(peer)


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
        self._seen = SeenRecords()

    async def get(self, key: bytes) -> tuple[dict[bytes, SignedRecord], int]:
        """The merged records by subkey, tombstones too, and how many peers answered."""
        known = self._shortlists.known(key)
        point = self._shortlists.point(key)
        seeds = known if known is not None else self._table.closest(point, self._table.k)
        lookup = Lookup(
            point,
            seeds,
            own=self._table.own,
            need=_ANSWERS,
            alpha=_ANSWERS,
            thorough=False,
            placing=self._asker.placing,
        )
        query = GetRecords(self._network, key, closer=known is None)
        answers: dict[PeerId, Found] = {}

        def heard(peer: PeerId, answer: Answer) -> None:
            if isinstance(answer, Found):
                answers[peer] = answer

        done = await self._asker.look_up(lookup, lambda ask: query, heard)
        seen = self._seen.of(key, self._host.clock.wall_ms())
        if not self._doubtful(answers, key):
            done = await self._ask_witnesses(point, query, seeds, done, answers, heard)
        if self._doubtful(answers, key, seen) or self._crowded(point, answers):
            # Somebody hides, lags or lies, or nobody ever put it: the k nearest will tell.
            paths = DisjointLookup(
                point,
                list(dict.fromkeys([*seeds, *done.closest])),
                own=self._table.own,
                need=self._table.k,
                placing=self._asker.placing,
            )
            query = GetRecords(self._network, key)
            done = await self._asker.look_up(paths, lambda ask: query, heard)
            if self._asker.density.is_abnormal(point, done.closest):
                region = await self._asker.find_region(point)
                everywhere = Lookup(
                    point,
                    region,
                    own=self._table.own,
                    need=len(region),
                    alpha=10,
                    thorough=False,
                    distance_point=partial(_point_among, frozenset(region)),
                )
                query = GetRecords(self._network, key, closer=False)
                more = await self._asker.look_up(everywhere, lambda ask: query, heard)
                done = Done(tuple(dict.fromkeys([*done.closest, *more.closest])), done.complete)
        merged: dict[bytes, SignedRecord] = {}
        merge(merged, [*self._store.get(key, self._host.clock.wall_ms()), *seen])
        theirs: dict[PeerId, dict[bytes, SignedRecord]] = {}
        for peer in done.closest:
            if (answer := answers.get(peer)) is not None:
                theirs[peer] = await self._all_pages(peer, key, answer)
                merge(merged, list(theirs[peer].values()))
        self._seen.saw(key, merged.values(), self._host.clock.wall_ms())
        self._mend(merged, theirs)
        return merged, len(theirs)

    def _crowded(self, point: int, answers: dict[PeerId, Found]) -> bool:
        """True when those that were named lie too near the key: the three nearest may be of one mind."""
        named = {*answers, *(peer for answer in answers.values() for peer in closer_of(answer))}
        nearest = sorted(named, key=lambda peer: point_of_peer(peer) ^ point)[: self._table.k]
        return self._asker.density.is_abnormal(point, nearest)

    async def _ask_witnesses(
        self,
        point: int,
        query: GetRecords,
        seeds: list[PeerId],
        done: Done,
        answers: dict[PeerId, Found],
        heard: Callable[[PeerId, Answer], None],
    ) -> Done:
        """The nearest agree; they may be one. Asks two more of those that should know, by chance."""
        named = {*seeds, *answers, *(peer for answer in answers.values() for peer in closer_of(answer))}
        named.discard(self._table.own)
        chosen = witnesses(point, named, answers, self._table.k, self._host.rng)
        if not chosen:
            return done
        lookup = Lookup(
            point,
            chosen,
            own=self._table.own,
            need=len(chosen),
            thorough=False,
            distance_point=partial(_point_among, frozenset(chosen)),
        )
        more = await self._asker.look_up(lookup, lambda ask: query, heard)
        return Done((*done.closest, *more.closest), done.complete)

    def _doubtful(self, answers: dict[PeerId, Found], key: bytes, seen: Iterable[SignedRecord] = ()) -> bool:
        """True when the nearest do not say the same, say that there is nothing, or less than was seen."""
        views = {
            frozenset((record.subkey, record.seq) for record in self._read(answer.records, key))
            for answer in answers.values()
        }
        newest = dict(pair for view in views for pair in view)
        behind = any(newest.get(record.subkey, 0) < record.seq for record in seen)
        return behind or len(views) > 1 or views == {frozenset()}

    async def _all_pages(self, peer: PeerId, key: bytes, answer: Found) -> dict[bytes, SignedRecord]:
        records: dict[bytes, SignedRecord] = {}
        for _ in range(_MAX_PAGES):
            page = self._read(answer.records, key)
            merge(records, page)
            if not answer.more or not page:
                break
            query = GetRecords(self._network, key, after=max(r.subkey for r in page), closer=False)
            try:
                following = await self._asker.ask(peer, query)
            except (Unreachable, RemoteProtocolError):
                break
            if not isinstance(following, Found):
                break
            answer = following
        return records

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

    def _mend(self, merged: _Records, theirs: dict[PeerId, _Records]) -> None:
        for peer, held in theirs.items():
            lacking = [
                record.raw
                for subkey, record in merged.items()
                if (old := held.get(subkey)) is None or supersedes(record, old)
            ]
            if lacking:
                self._nursery.start_soon(self._writing.send_quietly, peer, lacking)
