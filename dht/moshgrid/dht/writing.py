"""Writing: bringing a record to the peers nearest to its key, and to new ones that come nearer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.keys import point_of_peer, prefixes_of
from moshgrid.dht.pushing import Pushing
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import PutRecords, Taken, batches
from moshgrid.p2p.errors import RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["PutReport", "Writing"]

_ENOUGH = 5
_PUSHERS = 3
_HAND_OVER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PutReport:
    """Where a record is held, as far as was known when the put was done."""

    stored_at: tuple[PeerId, ...]
    refused: dict[PeerId, str]
    """Why the others do not hold it: a reject code, or what went wrong on the way."""


@dataclass(slots=True)
class _Progress:
    needed: int
    waiting: int
    stored_at: list[PeerId]
    refused: dict[PeerId, str] = field(default_factory=dict)
    failed: list[PeerId] = field(default_factory=list)
    enough: trio.Event = field(default_factory=trio.Event)
    finished: trio.Event = field(default_factory=trio.Event)

    def check(self) -> None:
        if not self.waiting:
            self.finished.set()
        if not self.waiting or len(self.stored_at) >= self.needed:
            self.enough.set()


class Writing:
    """Puts records to storers, and hands records over to peers that join nearer to them."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        table: RoutingTable,
        store: RecordStore,
        watchers: Watchers,
        asker: Asker,
        shortlists: Shortlists,
        pushing: Pushing,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._network = network
        self._table = table
        self._store = store
        self._watchers = watchers
        self._asker = asker
        self._shortlists = shortlists
        self._pushing = pushing
        self._nursery = nursery
        self._handing_over = trio.Semaphore(2)
        asker.on_joined.append(lambda peer: nursery.start_soon(self._hand_over, peer))

    async def put(self, record: SignedRecord) -> PutReport:
        """Returns when five storers hold ``record``, or all that there are answered or failed."""
        others = await self._shortlists.closest(record.key)
        progress = await self._put_to_nearest(record, others)
        if len(progress.stored_at) < progress.needed and progress.failed:
            # Some of those that were near are gone: look who is near now, once.
            self._shortlists.forget(record.key)
            others = await self._shortlists.closest(record.key)
            progress = await self._put_to_nearest(record, others, progress)
        return PutReport(tuple(progress.stored_at), dict(progress.refused))

    async def _put_to_nearest(
        self, record: SignedRecord, others: list[PeerId], before: _Progress | None = None
    ) -> _Progress:
        mine = self._shortlists.is_mine(record.key, others)
        targets = others[: self._table.k - mine]
        held = before.stored_at if before is not None else [self._host.peer_id] * mine
        refused = before.refused if before is not None else {}
        targets = [peer for peer in targets if peer not in held and peer not in refused]
        also = prefixes_of(targets)
        progress = _Progress(min(_ENOUGH, len(targets) + len(held)), len(targets), list(held), dict(refused))
        for watcher in self._watchers.stored(record, also, self._host.clock.wall_ms()):
            self._pushing.kick(watcher)
        for peer in targets:
            self._nursery.start_soon(self._put_to, peer, record, also, progress)
        if targets:
            self._nursery.start_soon(self._cover_failures, record, targets, progress)
        progress.check()
        await progress.enough.wait()
        return progress

    async def _put_to(self, peer: PeerId, record: SignedRecord, also: bytes, progress: _Progress) -> None:
        try:
            code = (await self.send(peer, [record.raw], also))[0]
            if code:
                progress.refused[peer] = code
            else:
                progress.stored_at.append(peer)
        except (Unreachable, RemoteProtocolError) as error:
            progress.refused[peer] = str(error)
            progress.failed.append(peer)
        finally:
            progress.waiting -= 1
            progress.check()

    async def _cover_failures(
        self, record: SignedRecord, targets: Sequence[PeerId], progress: _Progress
    ) -> None:
        """Who could not be reached from here may watch at a storer, which trusted us to tell it."""
        await progress.finished.wait()
        if not progress.failed:
            return
        reached = [peer for peer in targets if peer not in progress.failed]
        for peer in reached[:_PUSHERS]:
            self._nursery.start_soon(self.send_quietly, peer, [record.raw], prefixes_of(reached))
        for watcher in self._watchers.stored(record, prefixes_of(reached), self._host.clock.wall_ms()):
            self._pushing.kick(watcher)

    async def send(self, peer: PeerId, envelopes: list[bytes], also: bytes = b"") -> list[str]:
        """Puts what fits into one message; the reject codes, in order. Raises as ``ask`` does."""
        answer = await self._asker.ask(peer, PutRecords(self._network, envelopes, also))
        if not isinstance(answer, Taken) or len(answer.codes) != len(envelopes):
            raise RemoteProtocolError(peer, f"answered a put with {type(answer).__name__}")
        return [code.decode("ascii", "replace") for code in answer.codes]

    async def send_quietly(self, peer: PeerId, envelopes: list[bytes], also: bytes = b"") -> None:
        """Puts any number of records where it is nobody's loss when that fails."""
        try:
            for part in batches(envelopes):
                await self.send(peer, part, also)
        except (Unreachable, RemoteProtocolError):
            pass

    async def _hand_over(self, peer: PeerId) -> None:
        """Gives a peer that joined what it should hold: own records, and those we are nearest to."""
        async with self._handing_over:
            now_ms = self._host.clock.wall_ms()
            envelopes: list[bytes] = []
            for key in self._store.all_keys():
                held = self._store.get(key, now_ms)
                point = self._shortlists.point(key)
                nearest = self._table.closest(point, self._table.k)
                if not held or peer not in nearest:
                    continue
                own = self._table.own_point ^ point
                nearer = sum(1 for other in nearest if other != peer and point_of_peer(other) ^ point < own)
                mine = self._host.peer_id
                envelopes += [r.raw for r in held if nearer < _PUSHERS or r.author == mine]
                if sum(map(len, envelopes)) > _HAND_OVER_BYTES:
                    break
                await trio.lowlevel.checkpoint()
            await self.send_quietly(peer, envelopes)
