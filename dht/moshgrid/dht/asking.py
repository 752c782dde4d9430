"""Asking peers: every question this node sends, and what its outcome means for the routing table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from moshgrid.dht.clock_comparison import ClockComparison
from moshgrid.dht.density import PER_POINT, Density
from moshgrid.dht.disjoint_paths import DisjointLookup, deal
from moshgrid.dht.diversity import Placing
from moshgrid.dht.keys import point_of_peer, prefixes_of
from moshgrid.dht.lookup import MAX_SKIP, Answered, Ask, Done, Effect, Event, Failed, Lookup
from moshgrid.dht.pace import Pace
from moshgrid.dht.peer_records import PeerRecords
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.wire import KAD, Answer, FindNode, Found, PeerEntry, Ping, Pong, Query, Refusal, Taken
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["Asker"]

ASK_TIMEOUT = 5.0
_AT_ONCE = 24  # per peer; a peer refuses more than 32
_REDIALS = (0.5, 2.0, 5.0, 15.0, 45.0)
_MAX_INTRODUCTIONS = 64

_STRANGERS = {b"WRONG_NETWORK": "belongs to another network", b"CLIENT": "only asks, and answers nothing"}

Listener = Callable[[PeerId], None]


class Asker:
    """Sends queries; keeps the table true to who answers; tells listeners who joined and who left it."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        table: RoutingTable,
        records: PeerRecords,
        nursery: trio.Nursery,
        *,
        placing: Placing,
        client: bool,
    ) -> None:
        self._host = host
        self._network = network
        self._table = table
        self._records = records
        self._client = client
        self.placing = placing
        """Where a peer is, for the caps on address blocks."""
        self.density = Density(table.k)
        self.clocks = ClockComparison()
        self.pace = Pace()
        self._nursery = nursery
        self._lanes: dict[PeerId, trio.Semaphore] = {}
        self._redialling: set[PeerId] = set()
        self._checking: set[PeerId] = set()
        self.introduced: dict[PeerId, None] = {}
        """Peers that asked us and were not heard to answer yet; given out, but not asked for records."""
        self.on_joined: list[Listener] = []
        self.on_left: list[Listener] = []
        self.answered = trio.Event()
        """Set when some other peer has answered, ever."""
        self._stop_listening = host.network.on_lost(self._lost)

    def close(self) -> None:
        """Stops listening to the network."""
        self._stop_listening()

    async def ask(self, peer: PeerId, query: Query, timeout: float = ASK_TIMEOUT) -> Answer:
        """The answer, whose closer peers' addresses are already known to the network.

        Raises Unreachable or RemoteProtocolError.
        """
        lane = self._lanes.get(peer) or self._lanes.setdefault(peer, trio.Semaphore(_AT_ONCE))
        try:
            began, is_free = trio.current_time(), lane.value > 0
            async with lane:
                if is_free:  # entering took one turn of the loop
                    self.pace.turned(trio.current_time() - began)
                answer = await self._host.requests.ask(peer, KAD, query, timeout + self.pace.slack)
        except (Unreachable, RemoteProtocolError):
            self._failed(peer)
            raise
        except MoshgridError as error:  # closed, or not admitted: no answer for whatever reason
            self._failed(peer)
            raise Unreachable(peer, [(KAD.protocol, str(error))]) from error
        finally:
            if lane.value == _AT_ONCE:
                self._lanes.pop(peer, None)
        if isinstance(answer, Refusal) and answer.code in _STRANGERS:
            self._table.remove(peer)
            raise RemoteProtocolError(peer, _STRANGERS[answer.code])
        self._answered(peer)
        self._learn(peer, answer)
        return answer

    async def ping(self, peer: PeerId) -> bool:
        """True when ``peer`` answered."""
        sent = self._host.clock.wall_ms()
        try:
            answer = await self.ask(peer, Ping(self._network, self._me()))
            if isinstance(answer, Pong) and answer.wall_ms:
                self.clocks.heard(peer, answer.wall_ms, sent, self._host.clock.wall_ms())
        except (Unreachable, RemoteProtocolError):
            return False
        return True

    async def find_node(self, peer: PeerId, point: int) -> list[PeerId]:
        """Whom ``peer`` knows near ``point``. Raises as ``ask`` does."""
        answer = await self.ask(peer, FindNode(self._network, self._me(), point.to_bytes(32)))
        return closer_of(answer)

    async def find_closest(
        self,
        point: int,
        seeds: Iterable[PeerId] = (),
        *,
        disjoint: bool = False,
        beside: tuple[int, int] | None = None,
    ) -> Done:
        """The ``k`` live peers nearest to ``point``, by an iterative lookup, over several paths if asked.

        Those nearer than ``beside[1]`` to the point ``beside[0]`` are passed over.
        """
        known = dict.fromkeys([*self._table.closest(point, self._table.k), *seeds])
        options: dict[str, Any] = {"own": self._table.own, "need": self._table.k, "placing": self.placing}
        if beside is not None:
            options["distance_point"] = partial(_point_beside, beside)
            known = dict.fromkeys(self._table.closest(point, len(self._table)))
        dealt = deal(list(known), self._table.live_peers(), self._host.rng)
        lookup = DisjointLookup(point, dealt, **options) if disjoint else Lookup(point, known, **options)
        me, target = self._me(), point.to_bytes(32)

        def question(ask: Ask) -> FindNode:
            if disjoint or ask.skip:
                return FindNode(self._network, me, target, prefixes_of(ask.skip, MAX_SKIP))
            return FindNode(self._network, me, target, known=prefixes_of(lookup.known()))

        done = await self.look_up(lookup, question)
        self._table.looked_at(point, self._host.clock.now())
        return done

    async def find_region(self, point: int) -> list[PeerId]:
        """Peers all over the region of ``point``, nearest first."""
        found: dict[PeerId, None] = {}
        crowd = self.density.crowd()
        for part in self.density.region(point):
            beside = (point, crowd) if part ^ point > crowd else None
            done = await self.find_closest(part, beside=beside)
            found.update(dict.fromkeys(done.closest[:PER_POINT]))
        return sorted(found, key=lambda peer: point_of_peer(peer) ^ point)

    async def look_up(
        self,
        lookup: Lookup | DisjointLookup,
        question: Callable[[Ask], Query],
        heard: Callable[[PeerId, Answer], None] = lambda peer, answer: None,
    ) -> Done:
        """Runs ``lookup``, asking ``question`` and handing answers to ``heard``, until it is done.

        Questions still open then go on in the background: their outcome is news for the table.
        """
        send, receive = trio.open_memory_channel[Event](self._table.k * 16)

        async def put_question(asked: Ask) -> None:
            peer = asked.peer
            try:
                answer = await self.ask(peer, question(asked))
            except (Unreachable, RemoteProtocolError):
                event: Event = Failed(peer)
            else:
                heard(peer, answer)
                event = Answered(peer, closer_of(answer))
            with suppress(trio.WouldBlock, trio.BrokenResourceError):  # the lookup may be over
                send.send_nowait(event)

        lookup.allow(self.pace.slack)
        effects: Iterable[Effect] = lookup.start(trio.current_time())
        with receive:
            while True:
                for effect in effects:
                    match effect:
                        case Ask():
                            self._nursery.start_soon(put_question, effect)
                        case Done():
                            return effect
                happened: Event | DeadlinePassed = DeadlinePassed()
                deadline = lookup.deadline
                with trio.move_on_at(float("inf") if deadline is None else deadline):
                    happened = await receive.receive()
                effects = lookup.handle(happened, trio.current_time())

    def introduce(self, entry: PeerEntry) -> None:
        """A peer asked us something: when the table has room for it, it is asked back."""
        peer = entry.peer
        self._learn_from(entry)
        if peer in self.introduced or len(self.introduced) >= _MAX_INTRODUCTIONS:
            return
        if not self._table.wants(peer):
            return
        self.introduced[peer] = None
        self._nursery.start_soon(self._ping_introduced, peer)

    async def _ping_introduced(self, peer: PeerId) -> None:
        try:
            await self.ping(peer)
        finally:
            self.introduced.pop(peer, None)

    def _me(self) -> PeerEntry | None:
        return None if self._client else self._records.me()

    def _learn(self, peer: PeerId, answer: Answer) -> None:
        match answer:
            case Pong(me=entry) if entry.peer == peer:
                self._learn_from(entry)
            case Found(closer=closer) | Taken(closer=closer):
                for entry in closer:
                    self._records.learn(entry)

    def _learn_from(self, entry: PeerEntry) -> None:
        """``entry`` came from the peer itself."""
        if not self._records.learn(entry) and entry.addrs:
            self._host.network.learn_addrs(entry.peer, entry.multiaddrs)

    def _answered(self, peer: PeerId) -> None:
        self.answered.set()
        change = self._table.answered(peer, self._host.clock.now())
        if change.ping is not None:
            self._check(change.ping)
        if change.removed is not None:
            self._tell(self.on_left, change.removed)
        if change.joined:
            self._tell(self.on_joined, peer)
            if not self._records.has(peer):
                self._check(peer)  # its answer brings its record

    def _check(self, peer: PeerId) -> None:
        """One ping at a time: many answers at once ask for the same one."""
        if peer not in self._checking:
            self._checking.add(peer)
            self._nursery.start_soon(self._ping_checked, peer)

    async def _ping_checked(self, peer: PeerId) -> None:
        try:
            await self.ping(peer)
        finally:
            self._checking.discard(peer)

    def _failed(self, peer: PeerId) -> None:
        was_live = self._table.is_live(peer) or self._table.is_waiting(peer)
        successor = self._table.failed(peer, self._host.clock.now())
        if was_live:
            self._tell(self.on_left, peer)
        if successor is not None:
            self._tell(self.on_joined, successor)
        if self._table.knows(peer) and peer not in self._redialling:
            self._redialling.add(peer)
            self._nursery.start_soon(self._redial, peer)

    def _lost(self, peer: PeerId) -> None:
        # Its open questions fail by themselves: their stream is reset with the connection.
        if self._table.is_live(peer) or self._table.is_waiting(peer):
            self._failed(peer)

    async def _redial(self, peer: PeerId) -> None:
        try:
            for delay in _REDIALS:
                await trio.sleep(delay * self._host.rng.uniform(0.8, 1.2))
                if not self._table.knows(peer) or self._table.is_live(peer) or await self.ping(peer):
                    return
        finally:
            self._redialling.discard(peer)

    @staticmethod
    def _tell(listeners: list[Listener], peer: PeerId) -> None:
        for listener in tuple(listeners):
            listener(peer)


def _point_beside(beside: tuple[int, int], peer: PeerId) -> int:
    point = point_of_peer(peer)
    if point ^ beside[0] < beside[1]:
        raise ValueError("passed over")
    return point


def closer_of(answer: Answer) -> list[PeerId]:
    """The closer peers that an answer names."""
    return [entry.peer for entry in answer.closer] if isinstance(answer, Found) else []
