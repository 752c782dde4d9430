"""Who wants to hear of which keys, and what each still has to be told.

A watcher's subscription lapses unless it renews. What waits for one watcher is kept once per slot, the
newest only, so that a slow watcher costs no more than the keys it watches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from moshgrid.dht.keys import names, point_of_peer, point_prefix
from moshgrid.dht.limits import Limits
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.wire import MAX_RECORDS, batches
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PeerId

__all__ = ["Watchers"]

_SWEEP_MS = 10_000


@dataclass(slots=True)
class _Subscription:
    until: int
    told: dict[bytes, int] = field(default_factory=dict)
    """By subkey, the highest seq that was sent, or is about to be."""


@dataclass(slots=True)
class _Watcher:
    prefix: bytes
    keys: dict[bytes, _Subscription] = field(default_factory=dict)
    pending: dict[tuple[bytes, bytes], SignedRecord] = field(default_factory=dict)
    split: dict[bytes, None] = field(default_factory=dict)


class Watchers:
    """All subscriptions at this storer. Times are milliseconds of the wall clock."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._watchers: dict[PeerId, _Watcher] = {}
        self._by_key: dict[bytes, dict[PeerId, _Subscription]] = {}
        self._count = 0
        self._sweep_at = 0

    def subscribe(
        self, peer: PeerId, key: bytes, held: Iterable[SignedRecord], fresh: bool, now_ms: int
    ) -> list[SignedRecord]:
        """Starts or renews a subscription; returns what of ``held`` the watcher was not told yet.

        The records returned count as told. Raises RecordRejected QUOTA.
        """
        subscription = self._by_key.get(key, {}).get(peer)
        if subscription is None:
            subscription = self._add(peer, key, now_ms)
        subscription.until = now_ms + round(self._limits.watch_seconds * 1000)
        if fresh:
            subscription.told.clear()
        held, before = list(held), subscription.told
        # Of what has expired here nothing older can come again, so that nobody need remember what was told.
        subscription.told = {record.subkey: max(record.seq, before.get(record.subkey, 0)) for record in held}
        return [record for record in held if before.get(record.subkey, 0) < record.seq]

    def stored(self, record: SignedRecord, also: bytes, now_ms: int) -> list[PeerId]:
        """A record was put here: returns the watchers that now have something to be told.

        Not told are its author, who knows, and the peers whose point prefix is in ``also``: they get
        it from its sender. If they do not, the sender says so by putting it again without them.
        """
        if now_ms >= self._sweep_at:
            self._sweep(now_ms)
        told = []
        for peer, subscription in list(self._by_key.get(record.key, {}).items()):
            if subscription.until <= now_ms:
                self.unsubscribe(peer, record.key)
            elif (
                peer != record.author
                and subscription.told.get(record.subkey, 0) < record.seq
                and not names(also, self._watchers[peer].prefix)
            ):
                self.queue(peer, [record])
                told.append(peer)
        return told

    def queue(self, peer: PeerId, records: Iterable[SignedRecord]) -> None:
        """Has ``records`` told to a watcher."""
        watcher = self._watchers.get(peer)
        for record in records:
            if watcher is not None and (subscription := watcher.keys.get(record.key)) is not None:
                subscription.told[record.subkey] = record.seq
                watcher.pending[record.key, record.subkey] = record

    def take(self, peer: PeerId, now_ms: int) -> list[SignedRecord]:
        """The records for one push message to ``peer``; empty when nothing waits."""
        watcher = self._watchers.get(peer)
        if watcher is None:
            return []
        live = [record for record in watcher.pending.values() if record.expires > now_ms]
        parts = batches(record.raw for record in live)
        taken = live[: len(parts[0])] if parts else []
        watcher.pending = {(record.key, record.subkey): record for record in live[len(taken) :]}
        return taken

    def split(self, key: bytes) -> list[PeerId]:
        """``key`` was split: returns its watchers, who now have that to be told."""
        peers = list(self._by_key.get(key, {}))
        for peer in peers:
            self._watchers[peer].split[key] = None
        return peers

    def take_split(self, peer: PeerId, most: int = MAX_RECORDS) -> list[bytes]:
        """The keys that ``peer`` is to be told of as split; they do not come again."""
        watcher = self._watchers.get(peer)
        keys = list(watcher.split)[:most] if watcher is not None else []
        for key in keys:
            self._watchers[peer].split.pop(key)
        return keys

    def put_back(self, peer: PeerId, records: Iterable[SignedRecord]) -> None:
        """What was taken did not arrive: it waits again, unless something newer does."""
        watcher = self._watchers.get(peer)
        for record in records:
            if watcher is not None and record.key in watcher.keys:
                watcher.pending.setdefault((record.key, record.subkey), record)

    def unsubscribe(self, peer: PeerId, key: bytes) -> None:
        """Ends one subscription."""
        watcher = self._watchers.get(peer)
        if watcher is None or watcher.keys.pop(key, None) is None:
            return
        self._count -= 1
        for slot in [slot for slot in watcher.pending if slot[0] == key]:
            del watcher.pending[slot]
        watcher.split.pop(key, None)
        del self._by_key[key][peer]
        if not self._by_key[key]:
            del self._by_key[key]
        if not watcher.keys:
            del self._watchers[peer]

    def _add(self, peer: PeerId, key: bytes, now_ms: int) -> _Subscription:
        if now_ms >= self._sweep_at or self._full(peer, key):
            self._sweep(now_ms)
        if self._full(peer, key):
            raise RecordRejected("QUOTA", "too many watchers")
        watcher = self._watchers.setdefault(peer, _Watcher(point_prefix(point_of_peer(peer))))
        subscription = watcher.keys[key] = _Subscription(now_ms)
        self._by_key.setdefault(key, {})[peer] = subscription
        self._count += 1
        return subscription

    def _full(self, peer: PeerId, key: bytes) -> bool:
        watcher = self._watchers.get(peer)
        return (
            len(self._by_key.get(key, ())) >= self._limits.watchers_per_key
            or (watcher is not None and len(watcher.keys) >= self._limits.keys_per_watcher)
            or self._count >= self._limits.watchers
        )

    def _sweep(self, now_ms: int) -> None:
        """Ends the subscriptions that lapsed."""
        self._sweep_at = now_ms + _SWEEP_MS
        for key, subscriptions in list(self._by_key.items()):
            for peer, subscription in list(subscriptions.items()):
                if subscription.until <= now_ms:
                    self.unsubscribe(peer, key)
