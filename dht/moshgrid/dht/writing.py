"""Writing: bringing a record to the peers nearest to its key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.delivery import Delivery, Job
from moshgrid.dht.keys import prefixes_of
from moshgrid.dht.lookup import Lookup
from moshgrid.dht.placement import Placement
from moshgrid.dht.pushing import Pushing
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import batches
from moshgrid.p2p.errors import RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["ENOUGH", "PUSHERS", "PutReport", "Writing"]

ENOUGH = 5
_BULK_SECONDS = 60.0
"""Of many records together: whoever is waited for is busy with the others."""
PUSHERS = 3
"""How many of those that can do a thing for others do it, in case some cannot."""
_LOOKUPS = 16
_AT_ONCE = ENOUGH + 2
"""Storers of a single record that are asked at first; the others follow as these answer, or a moment
later. Of several records each goes to all its storers at once, as that makes the fewest messages."""


@dataclass(frozen=True, slots=True)
class PutReport:
    """Where a record is held, as far as was known when the put was done."""

    stored_at: tuple[PeerId, ...]
    refused: dict[PeerId, str]
    """Why the others do not hold it: a reject code, or what went wrong on the way."""
    pending: tuple[PeerId, ...] = ()
    """Who is still being asked to hold it, in the background."""


class Writing:
    """Puts records to storers."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        table: RoutingTable,
        watchers: Watchers,
        asker: Asker,
        shortlists: Shortlists,
        pushing: Pushing,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._table = table
        self._watchers = watchers
        self._asker = asker
        self._shortlists = shortlists
        self._pushing = pushing
        self._nursery = nursery
        self._delivery = Delivery(network, asker, shortlists, nursery)

    async def put(self, records: Sequence[SignedRecord], acks: int = ENOUGH) -> list[PutReport]:
        """Returns when ``acks`` storers hold each record, or all that there are answered or failed.

        What several records have to tell one storer goes in one message.
        """
        seeds = await self._find_seeds(records)
        jobs = [
            Job(self._placement(record, near, acks, alone=len(records) == 1))
            for record, near in zip(records, seeds, strict=True)
        ]
        self._nursery.start_soon(self._deliver, jobs)
        for job in jobs:
            await job.enough.wait()
        return [_report(job.placement) for job in jobs]

    async def _deliver(self, jobs: list[Job]) -> None:
        try:
            for job in jobs:
                self._tell_watchers(job.placement.record, job.placement.also())
            await self._delivery.run(jobs)
        finally:
            for job in jobs:
                job.enough.set()  # also when this node closes: nobody may wait for ever
        for job in jobs:
            self._cover_missed(job.placement)

    async def _find_seeds(self, records: Sequence[SignedRecord]) -> list[list[PeerId]]:
        seeds = [self._shortlists.guess(record.key) for record in records]
        at_once = trio.Semaphore(_LOOKUPS)
        one_by_one: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)

        async def find(at: int) -> None:
            async with at_once:
                seeds[at] = await self._shortlists.closest(records[at].key)

        async def find_unless_told(at: int, small: int) -> None:
            async with one_by_one[small]:
                if (guess := self._shortlists.guess(records[at].key)) is not None:
                    seeds[at] = guess
                else:
                    await find(at)

        async with trio.open_nursery() as nursery:
            for at, guess in enumerate(seeds):
                if guess is not None:
                    continue
                if (small := self._shortlists.small_range(records[at].key)) is not None:
                    nursery.start_soon(find_unless_told, at, small)
                else:
                    nursery.start_soon(find, at)
        return [near or [] for near in seeds]

    def _placement(self, record: SignedRecord, seeds: list[PeerId], acks: int, *, alone: bool) -> Placement:
        mine = self._shortlists.is_mine(record.key, seeds)
        lookup = Lookup(
            self._shortlists.point(record.key),
            seeds,
            own=self._table.own,
            need=self._table.k - mine,
            alpha=_AT_ONCE if alone else self._table.k,
            patience=1.0 if alone else _BULK_SECONDS,
            timeout=10.0 if alone else _BULK_SECONDS,
            thorough=False,
            placing=self._asker.placing,
        )
        lookup.allow(self._asker.pace.slack)
        return Placement(record, lookup, self._table.own, acks, mine=mine)

    def _tell_watchers(self, record: SignedRecord, also: bytes) -> None:
        for watcher in self._watchers.stored(record, also, self._host.clock.wall_ms()):
            self._pushing.kick(watcher)

    def _cover_missed(self, placement: Placement) -> None:
        """Who could not be reached from here may watch at a storer, which trusted us to tell it."""
        if not placement.missed():
            return
        reached = [peer for peer in placement.stored_at if peer != self._host.peer_id]
        for peer in reached[:PUSHERS]:
            self._nursery.start_soon(self.send_quietly, peer, [placement.record.raw], prefixes_of(reached))
        self._tell_watchers(placement.record, prefixes_of(reached))

    async def send_quietly(self, peer: PeerId, envelopes: list[bytes], also: bytes = b"") -> None:
        """Puts any number of envelopes; what comes of it is nobody's concern here."""
        try:
            for part in batches(envelopes):
                await self._delivery.put_at(peer, part, [also] * len(part) if also else [])
        except (Unreachable, RemoteProtocolError):
            pass


def _report(placement: Placement) -> PutReport:
    return PutReport(tuple(placement.stored_at), dict(placement.refused), tuple(sorted(placement.waiting)))
