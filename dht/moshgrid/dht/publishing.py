"""Publishing: signing this peer's records, holding them here, and bringing them to their storers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.reading import Reading
from moshgrid.dht.record import MAX_TTL_MS, Author, RecordReader, SignedRecord
from moshgrid.dht.shards import Depths, children, shard_of
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import check_suffix, check_ttl, encode_key, encode_value
from moshgrid.dht.watching import Watching
from moshgrid.dht.writing import PutReport, Writing
from moshgrid.p2p.host import Host

__all__ = ["Draft", "Publishing", "draft"]

_MIN_DELETION_MS = 30_000


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be signed."""

    key: bytes
    value: bytes
    """Empty for a deletion."""
    ttl_ms: int
    suffix: str = ""


def draft(key: str, value: object, ttl: float, suffix: str) -> Draft:
    """Checks a user's arguments; raises ConfigurationError and RecordRejected TOO_LARGE."""
    return Draft(encode_key(key), encode_value(value), check_ttl(ttl), check_suffix(suffix))


class Publishing:
    """Puts drafts. ``reach`` waits for the network and raises when there is none."""

    def __init__(
        self,
        host: Host,
        author: Author,
        reader: RecordReader,
        namespaces: Namespaces,
        store: RecordStore,
        reading: Reading,
        writing: Writing,
        watching: Watching,
        reach: Callable[[], Awaitable[None]],
    ) -> None:
        self._host = host
        self._author = author
        self._reader = reader
        self._namespaces = namespaces
        self._store = store
        self._reading = reading
        self._writing = writing
        self._watching = watching
        self._reach = reach
        self._depths = Depths()

    async def put(self, drafts: Iterable[Draft], acks: int) -> list[PutReport]:
        """One report for each draft, in their order."""
        drafts = list(drafts)
        records = [self._sign(each) for each in drafts]
        await self._reach()
        reports = await self._writing.put(records, acks)
        for at, report in enumerate(reports):
            if "OLD_SEQ" in report.refused.values() and await self._overtake(records[at]):
                reports[at] = (await self._writing.put([self._sign(drafts[at])], acks))[0]
        await self._go_deeper(drafts, reports, acks)
        return reports

    async def _go_deeper(self, drafts: list[Draft], reports: list[PutReport], acks: int) -> None:
        """Puts what found no room at its key into the next shard below, until there is room."""
        full = list(range(len(drafts)))
        while full := [at for at in full if self._found_no_room(drafts[at], reports[at], acks)]:
            records = [self._sign(drafts[at]) for at in full]
            for at, report in zip(full, await self._writing.put(records, acks), strict=True):
                reports[at] = report

    def _found_no_room(self, each: Draft, report: PutReport, acks: int) -> bool:
        """True when too many storers are full, and there is a shard below to go on to."""
        refused = sum(code == "FULL" for code in report.refused.values())
        others = sum(peer != self._host.peer_id for peer in report.stored_at)
        if not refused or (refused <= others and len(report.stored_at) >= acks):
            return False
        now_ms = self._host.clock.wall_ms()
        depth = self._depths.of(each.key, now_ms)
        if not children(shard_of(each.key, self._host.peer_id, depth)):
            return False
        self._depths.found(each.key, depth + 1, now_ms)
        return True

    def deletion(self, key: str, suffix: str) -> Draft:
        """A tombstone that outlives what it replaces, and no longer: tombstones count towards quotas."""
        raw_key, now_ms = encode_key(key), self._host.clock.wall_ms()
        shard = shard_of(raw_key, self._host.peer_id, self._depths.of(raw_key, now_ms))
        held = self._store.find(shard, self._author.subkey(check_suffix(suffix)), now_ms)
        ttl_ms = max(held.expires - now_ms, _MIN_DELETION_MS) if held is not None else MAX_TTL_MS
        return Draft(raw_key, b"", ttl_ms, suffix)

    def _sign(self, each: Draft) -> SignedRecord:
        """Signs, and holds it here: this peer's own watches and readers need no network to see it."""
        now_ms = self._host.clock.wall_ms()
        depth = self._depths.of(each.key, now_ms)
        key = shard_of(each.key, self._host.peer_id, depth)
        raw = self._author.sign(key, each.value, each.ttl_ms, now_ms, each.suffix, deleted=not each.value)
        record = self._reader.read(raw)
        self._namespaces.check(record, now_ms)
        self._store.put(record, now_ms)
        self._watching.saw(record)
        return record

    async def _overtake(self, record: SignedRecord) -> bool:
        """True when a newer record of this peer's own was found, which the next one will be above.

        Its clock fell behind that of an earlier run. Only what it signed itself is believed: a storer
        that merely claims to hold a high seq must not make it sign ahead of time.
        """
        newer = (await self._reading.get(record.key)).records.get(record.subkey)
        if newer is None or newer.seq <= record.seq:
            return False
        self._author.saw(newer)
        return True
