"""Drafts over the network: members try to reach each other, and a leader hears from all. Awaits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import trio
from msgspec.structs import replace

from moshgrid.averaging.drafting import PUNCH_SECONDS, Drafting, Members, Settled
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.match_driver import MatchDriver
from moshgrid.averaging.match_events import Formed, NoGroup
from moshgrid.averaging.messages import (
    MAX_NAMED,
    Directness,
    Draft,
    Excluded,
    Handover,
    MatchMessage,
    Offer,
)
from moshgrid.averaging.roles import known_direct
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Drafts"]

_VAIN_SECONDS = 60.0
"""A peer that could not be reached is not tried again for so long."""
_OTHERS_TRY_SECONDS = 1.0
"""After its own attempts failed, a member waits so long for the others' to succeed."""
_RELAYED = "/p2p-circuit"
_MAX_VAIN = 1024


class Drafts:
    """Both sides of drafts at one peer."""

    def __init__(self, host: Host, tell: Callable[[PeerId, MatchMessage], None]) -> None:
        self._host = host
        self._tell = tell
        self._vain: dict[PeerId, float] = {}
        self._drafting: Drafting | None = None
        self._changed = trio.Event()

    @property
    def is_home(self) -> bool:
        """Whether this peer can be dialled through relays only, or not at all."""
        addrs = self._host.network.addrs
        return not addrs or any(_RELAYED in addr for addr in addrs)

    def direct_to(self, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those of ``peers`` to whom there is a direct connection now, or one that is as good.

        A circuit is, where no direct connection came about, when its relay lets tensors through.
        """
        return tuple(peer for peer in peers if self._is_within_reach(peer))[:MAX_NAMED]

    def _is_within_reach(self, peer: PeerId) -> bool:
        network = self._host.network
        if network.is_direct(peer):
            return True
        circuit = network.circuit_of(peer) if peer in self._vain else None
        return circuit is not None and circuit.carries_tensors

    def marked(self, offer: Offer, here: Sequence[PeerId]) -> Offer:
        """``offer``, and what a leader has to know of the connections of a peer at home."""
        return replace(offer, home=True, direct=self.direct_to(here)) if self.is_home else offer

    async def with_roles(
        self, formed: Formed, matching: MatchDriver, least: int
    ) -> Formed | NoGroup | SignedManifest:
        """Roles for a group that came together under this peer; asks its members only where need be.

        The group may turn out to be led by another member, or to be several, or none.
        """
        me, key, number = self._host.peer_id, matching.group_key, matching.round
        peers = [peer for peer, _ in formed.members]
        if known_direct(formed.members, me, self.direct_to(peers)):
            return formed
        settled = await self._settle(key, number, formed.members, least)
        for peer, reason in settled.excluded.items():
            self._tell(peer, Excluded(key, number, reason))
        mine: Members = ()
        for group in settled.groups:
            leader, roster = group[0][0], [peer for peer, _ in group]
            mine = group if me in roster else mine
            for peer in roster:
                if me not in (peer, leader):
                    self._tell(peer, Handover(key, number, group))
        if not mine:
            return NoGroup(settled.excluded.get(me, "nobody was left in the group"), is_final=True)
        if mine[0][0] == me:
            return Formed(mine, is_settled=True)
        matching.follow(mine[0][0])
        return await matching.run()

    async def _settle(
        self, group_key: str, round_number: int, members: Sequence[tuple[PeerId, Offer]], least: int
    ) -> Settled:
        drafting = self._drafting = Drafting(members, least, self._host.clock.now())
        others = drafting.members[1:]
        for peer in others:
            self._tell(peer, Draft(group_key, round_number, drafting.members))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report_own, drafting, others)
                while not drafting.is_due(self._host.clock.now()):
                    self._changed = trio.Event()
                    with trio.move_on_at(drafting.deadline):
                        await self._changed.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._drafting = None
        if self._host.peer_id not in drafting.reports:
            drafting.reported(self._host.peer_id, self.direct_to(others))
        return drafting.settle()

    async def _report_own(self, drafting: Drafting, others: Sequence[PeerId]) -> None:
        drafting.reported(self._host.peer_id, await self._reach(others))
        self._changed.set()

    def reported(self, peer: PeerId, message: Directness) -> None:
        """A member's report came."""
        if self._drafting is not None:
            self._drafting.reported(peer, message.direct)
            self._changed.set()

    def lost(self, peer: PeerId) -> None:
        """A peer is gone, or has left."""
        if self._drafting is not None:
            self._drafting.lost(peer)
            self._changed.set()

    async def answer(self, leader: PeerId, draft: Draft) -> None:
        """Tries to reach everybody in ``leader``'s draft, and reports."""
        me = self._host.peer_id
        direct = await self._reach([PeerId(name) for name in draft.members if name != me])
        self._tell(leader, Directness(draft.group_key, draft.round, direct))

    async def _reach(self, peers: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those of ``peers`` to whom there is a direct connection after trying."""
        network, now = self._host.network, self._host.clock.now()
        self._vain = {peer: until for peer, until in self._vain.items() if until > now}
        wanted = [peer for peer in peers if not network.is_direct(peer) and peer not in self._vain]
        with trio.move_on_after(PUNCH_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in wanted:
                    nursery.start_soon(self._try, peer)
            if not all(network.is_direct(peer) for peer in wanted):
                await trio.sleep(_OTHERS_TRY_SECONDS)
        for peer in wanted:
            if not network.is_direct(peer) and len(self._vain) < _MAX_VAIN:
                self._vain[peer] = now + _VAIN_SECONDS
        return self.direct_to(peers)

    async def _try(self, peer: PeerId) -> None:
        with suppress(MoshgridError):  # this node is being closed
            await self._host.network.reach_directly(peer, PUNCH_SECONDS)
