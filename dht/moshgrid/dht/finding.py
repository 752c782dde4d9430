"""Finding: what users get for a key, and what they are told when nobody can be asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from moshgrid.dht.joining import Joining
from moshgrid.dht.reading import Reading
from moshgrid.dht.record import Author
from moshgrid.dht.shards import belongs, children
from moshgrid.dht.values import Record, encode_key, view
from moshgrid.dht.views import Records, merge
from moshgrid.p2p.errors import RecordRejected, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Finding"]

_AT_ONCE = 16
_RETURN_SECONDS = 5.0
_MOST_SHARDS = 512
"""Of one key; storers that lie must not make a reading grow without end."""


class Finding:
    """Reads keys as text. ``reach`` waits for the network and raises when there is none."""

    def __init__(
        self,
        host: Host,
        reading: Reading,
        joining: Joining,
        author: Author,
        reach: Callable[[], Awaitable[None]],
    ) -> None:
        self._host = host
        self._reading = reading
        self._joining = joining
        self._author = author
        self._reach = reach

    async def newest(self, key: str, author: PeerId | None = None) -> Record | None:
        """The newest record, of ``author`` when given."""
        records = (await self.all(key, author)).values()
        mine = [record for record in records if author is None or record.author == author]
        return max(mine, key=lambda record: (record.seq, record.subkey), default=None)

    async def many(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """The newest record of each key."""
        found: dict[str, Record | None] = dict.fromkeys(keys)
        at_once = trio.Semaphore(_AT_ONCE)
        failures: list[Unreachable] = []

        async def read(key: str) -> None:
            async with at_once:
                try:
                    found[key] = await self.newest(key)
                except Unreachable as error:  # the same for all of them: one will do
                    failures.append(error)

        for key in found:
            encode_key(key)
        async with trio.open_nursery() as nursery:
            for key in found:
                nursery.start_soon(read, key)
        if failures:
            raise failures[0]
        return found

    async def all(self, key: str, author: PeerId | None = None) -> dict[str, Record]:
        """Every live record, by ``author`` or ``author/suffix``; ``author``: at least those of that one."""
        raw_key = encode_key(key)
        await self._reach()
        read = await self._reading.get(raw_key)
        if not read.answers and self._joining.has_entrance and not self._joining.first_here:
            if not await self._joining.in_company(_RETURN_SECONDS):
                raise self._joining.unreachable()
            read = await self._reading.get(raw_key)
        merged = read.records
        if read.split:
            await self._add_shards(raw_key, author, merged)
        views: dict[str, Record] = {}
        for record in merged.values():
            self._author.saw(record)
            if not record.deleted:
                try:
                    views[record.name] = view(record, self._host.clock.wall_ms)
                except RecordRejected:
                    continue  # signed, but not a value: nobody can use it
        return views

    async def _add_shards(self, key: bytes, author: PeerId | None, merged: Records) -> None:
        """Adds what the shards below ``key`` hold, or those of them that ``author`` may use."""
        at_once, left = trio.Semaphore(_AT_ONCE), _MOST_SHARDS

        async def read(shard: bytes) -> None:
            async with at_once:
                found = await self._reading.get(shard)
            merge(merged, (record for record in found.records.values() if belongs(shard, record.author)))
            if found.split:
                go_on(shard)

        def go_on(above: bytes) -> None:
            nonlocal left
            for shard in children(above):
                if left and (author is None or belongs(shard, author)):
                    left -= 1
                    nursery.start_soon(read, shard)

        async with trio.open_nursery() as nursery:
            go_on(key)
