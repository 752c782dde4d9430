"""Plans over the network: reads those that records name, publishes what is this peer's to draw. Awaits.

A record holds everything but the member list, which is a blob; whoever follows a plan serves it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from moshgrid.averaging.grid_plan import (
    MAX_LIST_BYTES,
    GridPlan,
    PlanRecord,
    member_list,
    read_member_list,
)
from moshgrid.averaging.membership import Membership
from moshgrid.averaging.planning import PlanBook
from moshgrid.p2p.blobs import Blobs
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["PlanExchange"]

_MAX_READING = 4

_log = logging.getLogger("moshgrid.averaging")


class PlanExchange:
    """The grid plans of one run at one peer."""

    def __init__(
        self, host: Host, membership: Membership, group_size: int, learned: Callable[[], None]
    ) -> None:
        self._host = host
        self._learned = learned
        self._membership = membership
        self._group_size = group_size
        self._blobs = Blobs.of(host)
        self._reading: set[bytes] = set()
        self.book = PlanBook(host.peer_id, group_size)

    def seen(self, value: Any, author: PeerId) -> None:
        """A record by ``author`` named a plan."""
        record = PlanRecord.from_value(value)
        if record is None or not self.book.wants(record, self._membership.progress + 1):
            return
        if record.digest not in self._reading and len(self._reading) < _MAX_READING:
            self._reading.add(record.digest)
            self._host.nursery.start_soon(self._read, record, author)

    def in_force(self, round_number: int) -> GridPlan | None:
        """The plan to follow in that round."""
        return self.book.in_force(round_number, self._membership.peers, self._membership.doubtful)

    async def publish_if_due(self, round_number: int) -> None:
        """Publishes a plan when it is this peer's turn to; ``round_number`` is the coming round."""
        plan = self.book.to_publish(round_number, self._membership.peers, self._membership.doubtful)
        if plan is None:
            return
        self._blobs.keep(member_list(plan.members))
        self._host.events.emit(
            "planned", epoch=plan.record.epoch, dims=list(plan.record.dims), first=plan.record.first_round
        )
        try:
            await self._membership.publish_plan(plan.record.to_value())
        except MoshgridError as error:
            _log.warning("the grid plan of epoch %d could not be published: %s", plan.record.epoch, error)

    async def _read(self, record: PlanRecord, author: PeerId) -> None:
        try:
            data = member_list(self._membership.peers)  # mostly that is what the plan was drawn from
            if blake3(data).digest() != record.digest:
                data = await self._blobs.fetch(record.digest, author, MAX_LIST_BYTES)
            plan = GridPlan.checked(record, read_member_list(data), self._group_size)
            self._blobs.keep(data)
            self.book.learned(plan, self._membership.peers, self._membership.doubtful)
            self._learned()
        except (MoshgridError, ValueError) as error:
            _log.info("the grid plan that %s follows is ignored: %s", author, error)
        finally:
            self._reading.discard(record.digest)
