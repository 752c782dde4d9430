"""Inspecting: a lookup of one key with everything it saw on the way, for people who want to know why."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from moshgrid.dht.asking import Asker, closer_of
from moshgrid.dht.lookup import Ask, Lookup
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import RecordReader, SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.wire import Answer, Found, GetRecords
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["AskedPeer", "HeldRecord", "Inspecting", "Inspection"]


@dataclass(frozen=True, slots=True)
class AskedPeer:
    """One peer that was asked about the key."""

    peer: PeerId
    hop: int
    """1 when this node knew it, 2 when one of those named it, and so on."""
    seconds: float | None
    """Until its answer; None when none came in time."""
    records: int
    """How many good records it sent; more may follow on request."""
    bad_records: int
    """How many that broke a rule."""


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """One record under the key, and who holds it."""

    author: PeerId
    suffix: str
    seq: int
    expires_in: float
    deleted: bool
    holders: tuple[PeerId, ...]
    """Nearest to the key first; this node too, when it holds it."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a lookup of ``key`` found."""

    key: str
    asked: tuple[AskedPeer, ...]
    """In the order of asking."""
    hops: int
    """The longest way to a peer that answered."""
    seconds: float
    complete: bool
    """False when time or the bound on questions ended it."""
    records: tuple[HeldRecord, ...]


class Inspecting:
    """Asks the ``k`` nearest of a key, whatever is remembered about it."""

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
    ) -> None:
        self._host = host
        self._network = network
        self._table = table
        self._store = store
        self._reader = reader
        self._namespaces = namespaces
        self._asker = asker
        self._shortlists = shortlists

    async def inspect(self, key: bytes) -> Inspection:
        """One thorough lookup."""
        point = self._shortlists.point(key)
        seeds = self._table.closest(point, self._table.k)
        lookup = Lookup(point, seeds, own=self._table.own, need=self._table.k, placing=self._asker.placing)
        query = GetRecords(self._network, key)
        hops = dict.fromkeys(seeds, 1)
        asked_at: dict[PeerId, float] = {}
        answers: dict[PeerId, tuple[float, Found]] = {}

        def question(ask: Ask) -> GetRecords:
            asked_at.setdefault(ask.peer, trio.current_time())
            return query

        def heard(peer: PeerId, answer: Answer) -> None:
            if isinstance(answer, Found):
                answers.setdefault(peer, (trio.current_time() - asked_at[peer], answer))
            for closer in closer_of(answer):
                hops.setdefault(closer, hops[peer] + 1)

        began = trio.current_time()
        done = await self._asker.look_up(lookup, question, heard)
        taken = trio.current_time() - began
        held: dict[SignedRecord, list[PeerId]] = {}
        good = {peer: self._good(found, key) for peer, (_, found) in answers.items()}
        now_ms = self._host.clock.wall_ms()
        for record in self._store.get(key, now_ms):
            held.setdefault(record, []).append(self._table.own)
        for peer in done.closest:
            for record in good.get(peer, ()):
                held.setdefault(record, []).append(peer)
        return Inspection(
            key=key.decode(),
            asked=tuple(
                AskedPeer(
                    peer,
                    hops[peer],
                    answers[peer][0] if peer in answers else None,
                    len(good.get(peer, ())),
                    len(answers[peer][1].records) - len(good[peer]) if peer in answers else 0,
                )
                for peer in asked_at
            ),
            hops=max((hops[peer] for peer in answers), default=0),
            seconds=taken,
            complete=done.complete,
            records=tuple(
                HeldRecord(
                    record.author,
                    record.suffix,
                    record.seq,
                    (record.expires - now_ms) / 1000,
                    record.deleted,
                    tuple(holders),
                )
                for record, holders in sorted(held.items(), key=lambda item: (item[0].subkey, item[0].seq))
            ),
        )

    def _good(self, found: Found, key: bytes) -> list[SignedRecord]:
        good = []
        for raw in found.records:
            try:
                record = self._reader.read(raw, key)
                self._namespaces.check_read(record, self._host.clock.wall_ms())
            except RecordRejected:
                continue
            good.append(record)
        return good
