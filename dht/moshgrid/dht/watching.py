"""Watching: hearing of each change under a key once, from this store and the three nearest storers."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.record import RecordReader, SignedRecord, supersedes
from moshgrid.dht.shards import children
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import Record, view
from moshgrid.dht.wire import Found, Watch
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["OpenWatch", "Watching"]

_STORERS = 3
_RENEW_SECONDS = 40.0
_RETRY_SECONDS = 2.0
_BUFFER = 64
_MAX_SUBJECTS = 1024
"""Beyond, what is split is not followed: storers that lie must not make a watch grow without end."""


class OpenWatch:
    """A running watch: ``changes`` brings its records."""

    def __init__(self, changes: trio.MemoryReceiveChannel[Record], end: Callable[[], None]) -> None:
        self.changes = changes
        self._end = end

    async def next_batch(self) -> list[Record]:
        """Waits for the next record and returns it with all that are there; empty after the end."""
        try:
            batch = [await self.changes.receive()]
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return []
        with suppress(trio.WouldBlock):
            while True:
                batch.append(self.changes.receive_nowait())
        return batch

    def close(self) -> None:
        """Ends the watch; may be called again."""
        self.changes.close()
        self._end()

    async def aclose(self) -> None:
        """``close`` as an async function."""
        self.close()
        await trio.lowlevel.checkpoint()


@dataclass(eq=False, slots=True)
class _Watch:
    """One caller's view: the newest record of each subkey until it expires, and those not taken yet."""

    send: trio.MemorySendChannel[Record]
    seen: dict[bytes, SignedRecord] = field(default_factory=dict)
    pending: dict[bytes, SignedRecord] = field(default_factory=dict)
    draining: bool = False


@dataclass(eq=False, slots=True)
class _Subject:
    """One watched key: who watches it here, and which storers tell us."""

    key: bytes
    watches: list[_Watch]
    """Of the key that it is a shard of, the same list for all its shards."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    storers: dict[PeerId, float] = field(default_factory=dict)
    """When each subscription is to be renewed."""
    changed: trio.Event = field(default_factory=trio.Event)


class Watching:
    """The watches of this peer. Several watches of one key share its subscriptions."""

    def __init__(
        self,
        host: Host,
        network: bytes,
        store: RecordStore,
        reader: RecordReader,
        namespaces: Namespaces,
        asker: Asker,
        shortlists: Shortlists,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._network = network
        self._store = store
        self._reader = reader
        self._namespaces = namespaces
        self._asker = asker
        self._shortlists = shortlists
        self._nursery = nursery
        self._subjects: dict[bytes, _Subject] = {}
        asker.on_joined.append(self._peers_changed)
        asker.on_left.append(self._left)

    def watched(self, key: bytes) -> bool:
        """True when somebody here watches ``key``."""
        return key in self._subjects

    def open(self, key: bytes) -> OpenWatch:
        """Starts a watch."""
        send, receive = trio.open_memory_channel[Record](_BUFFER)
        watch = _Watch(send)
        subject = self._subjects.get(key)
        if subject is None:
            subject = self._begin(key, [])
            held = self._store.get(key, self._host.clock.wall_ms())
        else:
            # An earlier watch knows what the storers said, which this store need not hold.
            now_ms = self._host.clock.wall_ms()
            held = [record for record in subject.watches[0].seen.values() if record.expires > now_ms]
        subject.watches.append(watch)
        for record in held:
            self._offer(watch, record)
        return OpenWatch(receive, lambda: self._close(subject, watch))

    def _close(self, subject: _Subject, watch: _Watch) -> None:
        # The storers learn it from the answer to their next push, if there ever is one.
        if watch in subject.watches:
            subject.watches.remove(watch)
            if not subject.watches:
                self._end(subject.key)

    def _begin(self, key: bytes, watches: list[_Watch]) -> _Subject:
        subject = self._subjects[key] = _Subject(key, watches)
        self._nursery.start_soon(self._subscribe, subject)
        return subject

    def _end(self, key: bytes) -> None:
        if (subject := self._subjects.pop(key, None)) is not None:
            subject.scope.cancel()
            for child in children(key):
                self._end(child)

    def saw_split(self, peer: PeerId, key: bytes) -> None:
        """A storer says that there are records in the shards below ``key``, which are then watched too."""
        subject = self._subjects.get(key)
        if subject is None or peer not in subject.storers:
            return
        for child in children(key):
            if child not in self._subjects and len(self._subjects) < _MAX_SUBJECTS:
                self._begin(child, subject.watches)
                for record in self._store.get(child, self._host.clock.wall_ms()):
                    self.saw(record)

    def saw(self, record: SignedRecord) -> None:
        """A verified, timely record arrived, however it did."""
        subject = self._subjects.get(record.key)
        for watch in subject.watches if subject is not None else ():
            self._offer(watch, record)

    def _offer(self, watch: _Watch, record: SignedRecord) -> None:
        held = watch.seen.get(record.subkey)
        if held is not None and not supersedes(record, held):
            return
        watch.seen[record.subkey] = record
        watch.pending[record.subkey] = record
        if not watch.draining:
            watch.draining = True
            self._drain_now(watch)

    def _drain_now(self, watch: _Watch) -> None:
        """Hands over what fits into the channel; the rest waits for the caller, newest per subkey."""
        while watch.pending:
            subkey, record = next(iter(watch.pending.items()))
            try:
                watch.send.send_nowait(view(record, self._host.clock.wall_ms))
            except trio.WouldBlock:
                self._nursery.start_soon(self._drain, watch)
                return
            except (RecordRejected, trio.BrokenResourceError):
                pass  # not msgpack, or nobody takes it any more
            del watch.pending[subkey]
        watch.draining = False

    async def _drain(self, watch: _Watch) -> None:
        try:
            while watch.pending:
                record = watch.pending.pop(next(iter(watch.pending)))
                try:
                    await watch.send.send(view(record, self._host.clock.wall_ms))
                except RecordRejected:
                    continue
        except trio.BrokenResourceError:
            watch.pending.clear()
        finally:
            watch.draining = False

    async def _subscribe(self, subject: _Subject) -> None:
        with subject.scope:
            while True:
                self._forget_expired(subject)
                subject.changed = trio.Event()
                wanted = (await self._shortlists.closest(subject.key))[:_STORERS]
                for peer in [peer for peer in subject.storers if peer not in wanted]:
                    del subject.storers[peer]
                now = trio.current_time()
                async with trio.open_nursery() as nursery:
                    for peer in wanted:
                        if subject.storers.get(peer, -math.inf) <= now:
                            nursery.start_soon(self._watch_at, subject, peer)
                lacking = any(peer not in subject.storers for peer in wanted)
                wake = min(subject.storers.values(), default=math.inf)
                if lacking:
                    wake = min(wake, trio.current_time() + _RETRY_SECONDS)
                with trio.move_on_at(wake):
                    await subject.changed.wait()

    def _forget_expired(self, subject: _Subject) -> None:
        now_ms = self._host.clock.wall_ms()
        for watch in subject.watches:
            for subkey in [subkey for subkey, record in watch.seen.items() if record.expires <= now_ms]:
                del watch.seen[subkey]

    async def _watch_at(self, subject: _Subject, peer: PeerId) -> None:
        fresh = peer not in subject.storers
        try:
            answer = await self._asker.ask(peer, Watch(self._network, subject.key, fresh))
        except (Unreachable, RemoteProtocolError):
            subject.storers.pop(peer, None)
            return
        if not isinstance(answer, Found):
            subject.storers.pop(peer, None)
            return
        jitter = self._host.rng.uniform(0.9, 1.0)
        subject.storers[peer] = trio.current_time() + _RENEW_SECONDS * jitter
        if answer.split:
            self.saw_split(peer, subject.key)
        for raw in answer.records:
            try:
                record = self._reader.read(raw, subject.key)
                self._namespaces.check_read(record, self._host.clock.wall_ms())
            except RecordRejected:
                continue
            self.saw(record)

    def _peers_changed(self, peer: PeerId) -> None:
        for subject in self._subjects.values():
            subject.changed.set()

    def _left(self, peer: PeerId) -> None:
        for subject in self._subjects.values():
            if subject.storers.pop(peer, None) is not None:
                subject.changed.set()
