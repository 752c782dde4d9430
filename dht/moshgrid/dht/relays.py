"""Relays in the hash table: they say that they are there, and peers that need one find them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from moshgrid.dht.values import Record
from moshgrid.p2p.addresses import relay_of, split_addr
from moshgrid.p2p.errors import MoshgridError, RecordRejected
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relaying import Relaying

if TYPE_CHECKING:
    from moshgrid.dht.dht_node import DHTNode

__all__ = ["KEY", "RelayRecords", "Relays"]

_log = logging.getLogger("moshgrid.dht")

KEY = "relays/2"
"""Circuit relay v2."""
_TTL = 900.0
_MAX_ADDRS = 4
_MAX_TAKEN = 16
_SETTLE_SECONDS = 0.2


class RelayRecords:
    """What the namespace holds: a relay's own direct addresses, at most four multiaddrs as text."""

    namespace = "relays"
    max_ttl_ms = 1_800_000
    max_value = 1024

    def validate(self, record: Record, now_ms: int) -> None:
        """Raises RecordRejected."""
        addrs = record.value
        if not isinstance(addrs, list) or not 1 <= len(addrs) <= _MAX_ADDRS:
            raise RecordRejected("SCHEMA", f"a relay gives 1 to {_MAX_ADDRS} addresses")
        for addr in addrs:
            try:
                good = (
                    isinstance(addr, str) and relay_of(addr) is None and split_addr(addr)[1] == record.author
                )
            except ValueError:
                good = False
            if not good:
                raise RecordRejected("SCHEMA", "a relay gives direct addresses of its own")


class Relays:
    """Announces this peer when it is a relay, finds others for it, and says where it is when that changes."""

    def __init__(self, node: DHTNode, relaying: Relaying) -> None:
        self._node = node
        self._relaying = relaying
        self._changed = trio.Event()
        node.register(RelayRecords())

    async def run(self) -> None:
        """Until cancelled."""
        take_off = self._relaying.on_addrs(lambda: self._changed.set())
        self._relaying.keeping.finders.append(self._find)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_neighbours)
                if self._relaying.server is not None:
                    nursery.start_soon(self._announce)
        finally:
            take_off()
            self._relaying.keeping.finders.remove(self._find)

    async def _tell_neighbours(self) -> None:
        while True:
            await self._changed.wait()
            await trio.sleep(_SETTLE_SECONDS)
            self._changed = trio.Event()
            try:
                await self._node.look_around()
            except MoshgridError as error:
                _log.debug("telling the neighbours our new addresses: %s", error)

    async def _announce(self) -> None:
        """Again every third of a record's life: what was tried in vain is soon tried again."""
        while True:
            direct = [addr for addr in self._node.host.network.addrs if relay_of(addr) is None]
            try:
                if direct and await self._node.joined(_TTL):
                    await self._node.put(KEY, direct[:_MAX_ADDRS], _TTL)
            except MoshgridError as error:
                _log.debug("announcing this relay: %s", error)
            with trio.move_on_after(_TTL / 3):
                await self._changed.wait()
                await trio.sleep(2 * _SETTLE_SECONDS)

    async def _find(self) -> list[PeerId]:
        records = list((await self._node.get_all(KEY)).values())
        self._node.host.rng.shuffle(records)
        relays = []
        for record in records[:_MAX_TAKEN]:
            self._node.host.network.learn_addrs(record.author, record.value)
            relays.append(record.author)
        return relays
