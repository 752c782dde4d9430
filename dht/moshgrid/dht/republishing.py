"""Republishing: holders see to it that a record outlives the peers that hold it.

Rules (Maymounkov & Mazières 2002, §2.5; BEP 44): every ten minutes a holder that is among the ``k``
nearest asks the eight nearest others what they hold; when all of them have the record there is nothing
to do. Whoever put a record here within ten minutes put it to the others too, and to whom an author says
that it brings a record itself is asked in a quarter of the cases only. Of the holders the five nearest
see to it, and each other one in a quarter of the cases, as the nearest may be liars. Records that end
within ten minutes are left to their authors. Envelopes go verbatim.
"""

from __future__ import annotations

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.keys import names, prefixes_of
from moshgrid.dht.record import RecordReader, SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.wire import Found, GetRecords
from moshgrid.dht.writing import Writing
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Republishing"]

_EVERY_SECONDS = 600.0
_LEAST_LEFT_MS = 600_000
_WITNESSES = 8
_NEAREST = 5
_CHANCE = 0.25


class Republishing:
    """Runs as long as the node; a client has nothing to republish."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        table: RoutingTable,
        store: RecordStore,
        reader: RecordReader,
        asker: Asker,
        shortlists: Shortlists,
        writing: Writing,
    ) -> None:
        self._host = host
        self._network = network
        self._table = table
        self._store = store
        self._reader = reader
        self._asker = asker
        self._shortlists = shortlists
        self._writing = writing

    async def run(self) -> None:
        """Every ten minutes, until cancelled."""
        while True:
            await trio.sleep(_EVERY_SECONDS * self._host.rng.uniform(0.7, 1.3))
            for key in self._store.all_keys():
                await self.republish(key)

    async def republish(self, key: bytes) -> None:
        """Brings what is held under ``key`` to those of its storers that lack it."""
        now = self._host.clock.wall_ms()
        soon, lately = now + _LEAST_LEFT_MS, now - round(_EVERY_SECONDS * 1000)
        held = [
            record
            for record in self._store.get(key, now)
            if record.expires > soon and self._store.put_at(record) < lately
        ]
        point = self._shortlists.point(key)
        nearer = self._table.nearer_than_own(point)
        others = self._table.closest(point, self._table.k)  # near this peer it knows everybody
        if not held or not self._shortlists.is_mine(key, others):
            return
        if nearer >= _NEAREST and self._host.rng.random() >= _CHANCE:
            return
        chance = self._host.rng
        witnesses = [
            peer
            for peer in others[:_WITNESSES]
            if not all(self._is_promised(record, peer) for record in held) or chance.random() < _CHANCE
        ]
        lacking: dict[PeerId, list[SignedRecord]] = {}

        async def ask(peer: PeerId) -> None:
            lacking[peer] = await self._lacking(peer, key, held)

        async with trio.open_nursery() as nursery:
            for peer in witnesses:
                nursery.start_soon(ask, peer)
        if not any(lacking.values()):
            return
        targets = others[: self._table.k - 1]
        async with trio.open_nursery() as nursery:
            for peer in targets:
                records = lacking.get(peer, held)
                if records:
                    envelopes = [record.raw for record in records]
                    nursery.start_soon(self._writing.send_quietly, peer, envelopes, prefixes_of(targets))

    def _is_promised(self, record: SignedRecord, peer: PeerId) -> bool:
        return names(self._store.promised(record), prefixes_of([peer]))

    async def _lacking(self, peer: PeerId, key: bytes, held: list[SignedRecord]) -> list[SignedRecord]:
        try:
            answer = await self._asker.ask(peer, GetRecords(self._network, key, closer=False))
        except (Unreachable, RemoteProtocolError):
            return []  # gone: the shortlist will tell
        if not isinstance(answer, Found) or answer.more:
            return []  # too many to compare; its reader mends them
        theirs: dict[bytes, int] = {}
        for raw in answer.records:
            try:
                record = self._reader.read(raw, key)
            except RecordRejected:
                continue
            theirs[record.subkey] = record.seq
        return [record for record in held if theirs.get(record.subkey, 0) < record.seq]
