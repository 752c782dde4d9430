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

__all__ = ["ENOUGH", "PutReport", "Writing"]

ENOUGH = 5
_LOOKUPS = 16
_PUSHERS = 3
_HAND_OVER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PutReport:
    """Where a record is held, as far as was known when the put was done."""

    stored_at: tuple[PeerId, ...]
    refused: dict[PeerId, str]
    """Why the others do not hold it: a reject code, or what went wrong on the way."""
    pending: tuple[PeerId, ...] = ()
    """Who is still being asked to hold it, in the background."""


@dataclass(eq=False, slots=True)
class _Progress:
    record: SignedRecord
    acks: int
    others: list[PeerId] = field(default_factory=list)
    """The shortlist."""
    targets: list[PeerId] = field(default_factory=list)
    needed: int = 0
    stored_at: list[PeerId] = field(default_factory=list)
    refused: dict[PeerId, str] = field(default_factory=dict)
    failed: list[PeerId] = field(default_factory=list)
    waiting: set[PeerId] = field(default_factory=set)
    enough: trio.Event = field(default_factory=trio.Event)
    finished: trio.Event = field(default_factory=trio.Event)

    def aim(self, targets: list[PeerId]) -> None:
        """Asks ``targets`` next, beside those that hold the record already."""
        self.targets, self.waiting = targets, set(targets)
        self.needed = min(self.acks, len(targets) + len(self.stored_at))
        self.enough, self.finished = trio.Event(), trio.Event()
        self.check()

    def settle(self, peer: PeerId, refusal: str, *, failed: bool = False) -> None:
        """``peer`` holds it when ``refusal`` is empty."""
        self.waiting.discard(peer)
        if refusal:
            self.refused[peer] = refusal
        else:
            self.stored_at.append(peer)
        if failed:
            self.failed.append(peer)
        self.check()

    def check(self) -> None:
        if not self.waiting:
            self.finished.set()
        if not self.waiting or len(self.stored_at) >= self.needed:
            self.enough.set()

    def report(self) -> PutReport:
        return PutReport(tuple(self.stored_at), dict(self.refused), tuple(sorted(self.waiting)))


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

    async def put(self, records: Sequence[SignedRecord], acks: int = ENOUGH) -> list[PutReport]:
        """Returns when ``acks`` storers hold each record, or all that there are answered or failed.

        What several records have to tell one storer goes in one message.
        """
        rounds = [_Progress(record, acks) for record in records]
        await self._put_to_nearest(rounds)
        lacking = [each for each in rounds if len(each.stored_at) < each.needed and each.failed]
        if lacking:
            # Some of those that were near are gone: look who is near now, once.
            for each in lacking:
                self._shortlists.forget(each.record.key)
            await self._put_to_nearest(lacking, again=True)
        return [each.report() for each in rounds]

    async def _put_to_nearest(self, rounds: list[_Progress], again: bool = False) -> None:
        await self._find_storers(rounds)
        for each in rounds:
            self._aim(each, again)
        for peer in dict.fromkeys(peer for each in rounds for peer in each.targets):
            theirs = [each for each in rounds if peer in each.waiting]
            self._nursery.start_soon(self._put_to, peer, theirs)
        for each in rounds:
            if each.targets:
                self._nursery.start_soon(self._cover_failures, each)
        for each in rounds:
            await each.enough.wait()

    async def _find_storers(self, rounds: list[_Progress]) -> None:
        at_once = trio.Semaphore(_LOOKUPS)

        async def find(each: _Progress) -> None:
            async with at_once:
                each.others = await self._shortlists.closest(each.record.key)

        if len(rounds) == 1:
            await find(rounds[0])
            return
        async with trio.open_nursery() as nursery:
            for each in rounds:
                nursery.start_soon(find, each)

    def _aim(self, each: _Progress, again: bool) -> None:
        mine = self._shortlists.is_mine(each.record.key, each.others)
        if mine and not again:
            each.stored_at.append(self._host.peer_id)
        done = {*each.stored_at, *each.refused}
        storers = max(self._table.k, len(each.others)) - mine  # more than k only in a region
        each.aim([peer for peer in each.others[:storers] if peer not in done])
        for watcher in self._watchers.stored(
            each.record, prefixes_of(each.targets), self._host.clock.wall_ms()
        ):
            self._pushing.kick(watcher)

    async def _put_to(self, peer: PeerId, rounds: list[_Progress]) -> None:
        while rounds:
            part = rounds[: len(batches(each.record.raw for each in rounds)[0])]
            rounds = rounds[len(part) :]
            also = [each for each in part[0].targets if all(each in other.targets for other in part)]
            try:
                codes = await self.send(peer, [each.record.raw for each in part], prefixes_of(also))
            except (Unreachable, RemoteProtocolError) as error:
                for each in [*part, *rounds]:
                    each.settle(peer, str(error), failed=True)
                return
            for each, code in zip(part, codes, strict=True):
                each.settle(peer, code)

    async def _cover_failures(self, each: _Progress) -> None:
        """Who could not be reached from here may watch at a storer, which trusted us to tell it."""
        targets, record = each.targets, each.record
        await each.finished.wait()
        if not each.failed:
            return
        reached = [peer for peer in targets if peer not in each.failed]
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
