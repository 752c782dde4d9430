"""The DHT node inside the event loop: one per host, serving others and asking them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.config import DHTConfig
from moshgrid.dht.diversity import placing_by
from moshgrid.dht.finding import Finding
from moshgrid.dht.handing_over import HandingOver
from moshgrid.dht.inspecting import Inspecting, Inspection
from moshgrid.dht.joining import Joining
from moshgrid.dht.keeping import Keep
from moshgrid.dht.namespaces import Namespaces, Validator
from moshgrid.dht.peer_records import PeerRecords
from moshgrid.dht.publishing import Draft, Publishing, draft
from moshgrid.dht.pushing import Pushing
from moshgrid.dht.rates import Rates
from moshgrid.dht.reading import Reading
from moshgrid.dht.record import Author, RecordReader
from moshgrid.dht.relays import Relays
from moshgrid.dht.republishing import Republishing
from moshgrid.dht.responder import Effect, Equivocated, Introduced, Responder, Saw, SawSplit, TellWatcher
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import Record, encode_key
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.watching import OpenWatch, Watching
from moshgrid.dht.wire import KAD, Answer, Query
from moshgrid.dht.writing import ENOUGH, PutReport, Writing
from moshgrid.p2p.errors import Closed, ConfigurationError
from moshgrid.p2p.host import Host, network_id
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relaying import LAYER, Relaying

__all__ = ["DHTNode"]

_LAYER = "dht"
_JOIN_SECONDS = 10.0


class DHTNode:
    """Signed, expiring records under group keys, held by the peers nearest to each key."""

    def __init__(self, host: Host, nursery: trio.Nursery, config: DHTConfig | None = None) -> None:
        """Use ``DHTNode.of``."""
        config = config or DHTConfig()
        limits = config.limits
        network = network_id(host.network_name)
        self.host = host
        placing = placing_by(host.network.addrs_of, config.exempt_local)
        self.table = RoutingTable(host.peer_id, placing=placing)
        records = PeerRecords(host)
        self.store = RecordStore(host.peer_id, limits, secret=host.rng.randbytes(16))
        self._nursery = nursery
        self._author = Author(host.identity, network)
        self._namespaces = namespaces = Namespaces()
        reader = RecordReader(network)
        self._asker = Asker(
            host, network, self.table, records, nursery, placing=placing, client=config.client
        )
        self._joining = Joining(host, self.table, self._asker, config.peers_file)
        self._shortlists = Shortlists(network, self.table, self._asker, self._joining, config.client)
        watchers = Watchers(limits)
        self._pushing = Pushing(host, network, watchers, self._asker, nursery)
        self._writing = Writing(
            host, network, self.table, watchers, self._asker, self._shortlists, self._pushing, nursery
        )
        self._handing_over = HandingOver(
            host, self.table, self.store, self._asker, self._shortlists, self._writing, nursery
        )
        self._reading = Reading(
            host, network, self.table, self.store, reader, namespaces,
            self._asker, self._shortlists, self._writing, nursery,
        )  # fmt: skip
        self._watching = Watching(
            host, network, self.store, reader, namespaces, self._asker, self._shortlists, nursery
        )
        self._publishing = Publishing(
            host, self._author, reader, namespaces,
            self.store, self._reading, self._writing, self._watching, self._reach,
        )  # fmt: skip
        self._inspecting = Inspecting(
            host, network, self.table, self.store, reader, namespaces, self._asker, self._shortlists
        )
        self._finding = Finding(host, self._reading, self._joining, self._author, self._reach)
        self._republishing = Republishing(
            host, network, self.table, self.store, reader, self._asker, self._shortlists, self._writing
        )
        self._responder = Responder(
            network, reader, namespaces, self.store, self.table, watchers,
            records.entry, self._asker.introduced, self._watching.watched, Rates(limits),
            self._asker.density, config.client, placing,
        )  # fmt: skip

    @classmethod
    async def of(cls, host: Host, config: DHTConfig | None = None) -> DHTNode:
        """The node of ``host``: made, serving and joining when this is the first call.

        ``config`` is for that one; whoever comes later gets the node as it is.
        """
        node = cls._open_at(host)
        if node is None:
            started: DHTNode = await host.nursery.start(cls._run, host, config)
            return started
        return node

    @classmethod
    def _open_at(cls, host: Host) -> DHTNode | None:
        node = host.layers.get(_LAYER)
        return node if isinstance(node, DHTNode) and not node.closed else None

    @classmethod
    async def _run(cls, host: Host, config: DHTConfig | None, *, task_status: Any) -> None:
        if (other := cls._open_at(host)) is not None:  # two callers at once
            task_status.started(other)
            return
        async with trio.open_nursery() as nursery:
            node = cls(host, nursery, config)
            host.layers[_LAYER] = node
            try:
                host.requests.serve(KAD, node._answer)
                nursery.start_soon(node._joining.run)
                nursery.start_soon(node._republishing.run)
                if isinstance(relaying := host.layers.get(LAYER), Relaying):
                    nursery.start_soon(Relays(node, relaying).run)
                task_status.started(node)
                await trio.sleep_forever()
            finally:
                node._joining.save()
                node._asker.close()

    async def compare_clocks(self, peers: int = 5) -> tuple[float, int]:
        """How many ms the clocks of live peers are ahead, in the median, and of how many that is."""
        self._check_open()
        async with trio.open_nursery() as nursery:
            for peer in self.table.live_peers()[:peers]:
                nursery.start_soon(self._asker.ping, peer)
        return self._asker.clocks.heard_of

    @property
    def closed(self) -> bool:
        """True when the node was closed, or its host."""
        return self._nursery.cancel_scope.cancel_called

    async def joined(self, timeout: float) -> bool:
        """True as soon as another peer has answered, at once when there is nobody to join."""
        self._check_open()
        if not self._joining.has_entrance:
            return True
        with trio.move_on_after(timeout):
            await self._asker.answered.wait()
        return self._asker.answered.is_set()

    async def join(self, timeout: float) -> None:
        """Waits until the peers near this one were asked; raises Unreachable when nobody answers."""
        with trio.move_on_after(timeout):
            await self._joining.ready.wait()
        if not await self.joined(0):
            raise self._joining.unreachable()

    async def put(
        self, key: str, value: Any, ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> PutReport:
        """Stores ``value`` as this peer's record; one peer has one record per key and suffix.

        Done when ``acks`` storers hold it, or all there are; the others follow. Raises
        ConfigurationError, RecordRejected (too large, or a namespace that is not open here) and
        Unreachable (nobody was ever reached).
        """
        return (await self._put([draft(key, value, ttl, suffix)], acks))[0]

    async def put_many(
        self, values: Mapping[str, Any], ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> dict[str, PutReport]:
        """``put`` for many keys, with one message to each storer of several of them."""
        reports = await self._put([draft(key, value, ttl, suffix) for key, value in values.items()], acks)
        return dict(zip(values, reports, strict=True))

    async def delete(self, key: str, suffix: str = "") -> PutReport:
        """Takes this peer's record back: a tombstone replaces it until everybody has forgotten it."""
        return (await self._put([self._publishing.deletion(key, suffix)], ENOUGH))[0]

    async def get(self, key: str, author: PeerId | None = None) -> Record | None:
        """The newest record under ``key``, of ``author`` when given; None when there is none.

        Raises Unreachable when the network cannot be reached at all.
        """
        return await self._finding.newest(key, author)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """``get`` for many keys at once."""
        return await self._finding.many(keys)

    async def get_all(self, key: str) -> dict[str, Record]:
        """Every live record under ``key``, by ``author`` or ``author/suffix``."""
        return await self._finding.all(key)

    async def inspect(self, key: str) -> Inspection:
        """Whom a lookup of ``key`` asks, how far and how long away they are, and what each holds."""
        await self._reach()
        return await self._inspecting.inspect(encode_key(key))

    async def look_around(self) -> None:
        """Asks the peers nearest to this one who else is near, and tells them where this one is now."""
        if len(self.table):
            await self._asker.find_closest(self.table.own_point)

    def register(self, validator: Validator) -> None:
        """Holds records of the validator's namespace, those that it lets pass."""
        self._namespaces.register(validator)
        self._reading.forget()

    def open_namespace(self, namespace: str) -> None:
        """Holds any value under keys that begin with ``namespace/``."""
        self._namespaces.open(namespace)

    @asynccontextmanager
    async def watch(self, key: str) -> AsyncIterator[trio.MemoryReceiveChannel[Record]]:
        """Every record under ``key``: what is stored first, then each change, this peer's own too.

        A deletion comes as a Record with ``deleted`` set. A caller that is slow gets the newest of
        each author and may miss what came between.
        """
        watch = await self.open_watch(key)
        try:
            yield watch.changes
        finally:
            watch.close()

    async def open_watch(self, key: str) -> OpenWatch:
        """``watch`` for callers that cannot hold a context open."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        return self._watching.open(encode_key(key))

    def keep(self, key: str, value: Any, ttl: float = 600, suffix: str = "") -> Keep:
        """Puts a record now and refreshes it until the returned handle is closed."""
        self._check_open()
        draft(key, value, ttl, suffix)  # raises when something is wrong with them
        kept = Keep(self, key, value, ttl, suffix)
        self._nursery.start_soon(kept.run)
        return kept

    async def kept(self, key: str, value: Any, ttl: float = 600, suffix: str = "") -> Keep:
        """``keep``, returning when the first put was tried."""
        kept = self.keep(key, value, ttl, suffix)
        await kept.__aenter__()
        return kept

    async def aclose(self) -> None:
        """Stops asking and keeping; queries of others are refused from now on."""
        self._nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()

    async def _put(self, drafts: list[Draft], acks: int) -> list[PutReport]:
        self._check_open()
        if self._asker.clocks.is_useless:
            raise ConfigurationError(f"{self._asker.clocks}: nobody would take what it signs; set it first")
        return await self._publishing.put(drafts, acks)

    async def _reach(self) -> None:
        """Waits for the first peers; raises Unreachable when there are none."""
        with trio.move_on_after(_JOIN_SECONDS):
            await self._joining.ready.wait()
        if not self._joining.ready.is_set():
            raise self._joining.unreachable()

    def _answer(self, sender: PeerId, query: Query) -> Answer:
        self._check_open()
        reply = self._responder.answer(query, sender, self.host.clock.wall_ms())
        for effect in reply.effects:
            self._perform(effect)
        return reply.answer

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Saw(record):
                self._author.saw(record)
                self._watching.saw(record)
            case SawSplit(peer, key):
                self._watching.saw_split(peer, key)
            case TellWatcher(peer):
                self._pushing.kick(peer)
            case Introduced(entry):
                self._asker.introduce(entry)
            case Equivocated(held, came):
                both = [held.raw.hex(), came.raw.hex()]
                self.host.events.emit("equivocated", author=came.author, seq=came.seq, envelopes=both)

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("this DHT node was closed")
