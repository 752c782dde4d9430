"""The DHT node inside the event loop: one per host, serving others and asking them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.inspecting import Inspecting, Inspection
from moshgrid.dht.joining import Joining
from moshgrid.dht.keeping import Keep
from moshgrid.dht.limits import Limits
from moshgrid.dht.namespaces import Namespaces, Validator
from moshgrid.dht.publishing import Draft, Publishing, draft
from moshgrid.dht.pushing import Pushing
from moshgrid.dht.reading import Reading
from moshgrid.dht.record import Author, RecordReader
from moshgrid.dht.responder import Effect, Introduced, Responder, Saw, TellWatcher
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import Record, encode_key, view
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.watching import OpenWatch, Watching
from moshgrid.dht.wire import KAD, Answer, Query
from moshgrid.dht.writing import ENOUGH, PutReport, Writing
from moshgrid.p2p.errors import Closed, RecordRejected, Unreachable
from moshgrid.p2p.host import Host, network_id
from moshgrid.p2p.identity import PeerId

__all__ = ["DHTNode"]

_LAYER = "dht"
_JOIN_SECONDS = 10.0
_RETURN_SECONDS = 5.0
_READS_AT_ONCE = 16


class DHTNode:
    """Signed, expiring records under group keys, held by the peers nearest to each key."""

    def __init__(self, host: Host, nursery: trio.Nursery, limits: Limits | None = None) -> None:
        """Use ``DHTNode.of``."""
        limits = limits or Limits()
        network = network_id(host.network_name)
        self.host = host
        self.table = RoutingTable(host.peer_id)
        self.store = RecordStore(host.peer_id, limits, secret=host.rng.randbytes(16))
        self._nursery = nursery
        self._author = Author(host.identity, network)
        self._namespaces = namespaces = Namespaces()
        reader = RecordReader(network)
        self._asker = Asker(host, network, self.table, nursery)
        self._joining = Joining(host, self.table, self._asker)
        self._shortlists = Shortlists(network, self.table, self._asker, self._joining)
        watchers = Watchers(limits)
        self._pushing = Pushing(host, network, watchers, self._asker, nursery)
        self._writing = Writing(
            host, network, self.table, self.store, watchers,
            self._asker, self._shortlists, self._pushing, nursery,
        )  # fmt: skip
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
        self._responder = Responder(
            network, reader, namespaces, self.store, self.table, watchers,
            self._asker.addrs_of, self._asker.introduced, self._watching.watched,
        )  # fmt: skip

    @classmethod
    async def of(cls, host: Host, limits: Limits | None = None) -> DHTNode:
        """The node of ``host``: made, serving and joining when this is the first call."""
        node = cls._open_at(host)
        if node is None:
            started: DHTNode = await host.nursery.start(cls._run, host, limits)
            return started
        return node

    @classmethod
    def _open_at(cls, host: Host) -> DHTNode | None:
        node = host.layers.get(_LAYER)
        return node if isinstance(node, DHTNode) and not node.closed else None

    @classmethod
    async def _run(cls, host: Host, limits: Limits | None, *, task_status: Any) -> None:
        if (other := cls._open_at(host)) is not None:  # two callers at once
            task_status.started(other)
            return
        async with trio.open_nursery() as nursery:
            node = cls(host, nursery, limits)
            host.layers[_LAYER] = node
            try:
                host.requests.serve(KAD, node._answer)
                nursery.start_soon(node._joining.run)
                task_status.started(node)
                await trio.sleep_forever()
            finally:
                node._asker.close()

    @property
    def closed(self) -> bool:
        """True when the node was closed, or its host."""
        return self._nursery.cancel_scope.cancel_called

    async def joined(self, timeout: float) -> bool:
        """True as soon as another peer has answered, at once when there is nobody to join."""
        self._check_open()
        if not self.host.bootstrap:
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
        records = (await self.get_all(key)).values()
        mine = [record for record in records if author is None or record.author == author]
        return max(mine, key=lambda record: (record.seq, record.subkey), default=None)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """``get`` for many keys at once."""
        found: dict[str, Record | None] = dict.fromkeys(keys)
        at_once = trio.Semaphore(_READS_AT_ONCE)

        async def read(key: str) -> None:
            async with at_once:
                found[key] = await self.get(key)

        for key in found:
            encode_key(key)
        try:
            async with trio.open_nursery() as nursery:
                for key in found:
                    nursery.start_soon(read, key)
        except* Unreachable as group:  # the same for all of them
            raise group.exceptions[0] from None
        return found

    async def get_all(self, key: str) -> dict[str, Record]:
        """Every live record under ``key``, by ``author`` or ``author/suffix``."""
        raw_key = encode_key(key)
        await self._reach()
        merged, answers = await self._reading.get(raw_key)
        if not answers and self.host.bootstrap and not self._joining.first_here:
            if not await self._joining.in_company(_RETURN_SECONDS):
                raise self._joining.unreachable()
            merged, answers = await self._reading.get(raw_key)
        views: dict[str, Record] = {}
        for record in merged.values():
            self._author.saw(record)
            if not record.deleted:
                try:
                    views[record.name] = view(record, self.host.clock.wall_ms)
                except RecordRejected:
                    continue  # signed, but not a value: nobody can use it
        return views

    async def inspect(self, key: str) -> Inspection:
        """Whom a lookup of ``key`` asks, how far and how long away they are, and what each holds."""
        raw_key = encode_key(key)
        await self._reach()
        return await self._inspecting.inspect(raw_key)

    def register(self, validator: Validator) -> None:
        """Holds records of the validator's namespace, those that it lets pass."""
        self._namespaces.register(validator)

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
        return await self._publishing.put(drafts, acks)

    async def _reach(self) -> None:
        """Waits for the first peers; raises Unreachable when there are none."""
        with trio.move_on_after(_JOIN_SECONDS):
            await self._joining.ready.wait()
        if not self._joining.ready.is_set():
            raise self._joining.unreachable()

    async def _answer(self, sender: PeerId, query: Query) -> Answer:
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
            case TellWatcher(peer):
                self._pushing.kick(peer)
            case Introduced(peer, addrs):
                self._asker.introduce(peer, addrs)

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("this DHT node was closed")
