"""Finding a group: declares this peer, seeks under a group key, leads or follows into a manifest. Awaits.

Who leads whom is decided by the matchmaking machine; this file keeps the requests that come too early,
and the messages of a group whose manifest has just come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from moshgrid.averaging.address_blocks import block_seen
from moshgrid.averaging.draft_driver import Drafts
from moshgrid.averaging.early_joins import EarlyJoins
from moshgrid.averaging.incoming_manifests import IncomingManifests
from moshgrid.averaging.leadership import Leadership
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.match_driver import MatchDriver
from moshgrid.averaging.match_events import Formed, NoGroup, PeerLost, Told
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.membership import MAX_ATTENDED, Membership
from moshgrid.averaging.messages import (
    Begin,
    Directness,
    Disbanded,
    Draft,
    Handover,
    Join,
    Leave,
    MatchMessage,
    Offer,
    Ready,
    Refused,
)
from moshgrid.averaging.patience import Patience, silence_after
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.topology import Place
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["GroupFinder"]

_MAX_HELD = 256

_log = logging.getLogger("moshgrid.averaging")


class GroupFinder:
    """One peer's way into groups, one search at a time."""

    def __init__(
        self,
        host: Host,
        links: Links,
        membership: Membership,
        run: bytes,
        config: RunConfig,
        leader_gone: Callable[[PeerId, bytes, str], None],
    ) -> None:
        self._host = host
        self._links = links
        self._membership = membership
        self._run = run
        self._config = config
        self._reference = b""
        self._patience = Patience()
        self._matching: MatchDriver | None = None
        self._place = Place("")
        self._early = EarlyJoins()
        self._forming: SignedManifest | None = None
        self._found = b""
        self._held: list[tuple[PeerId, Frame]] = []
        self._incoming = IncomingManifests(host, links, run, config, leader_gone, self._found_out)
        self._leadership = Leadership(host, run, config)
        self._sought = 0
        self._drafts = Drafts(host, self._tell)
        self._too_early: tuple[PeerId, bytes] | None = None

    async def find(
        self, place: Place, number: int, weight: float, reference: bytes = b""
    ) -> SignedManifest | NoGroup:
        """The manifest of a group at ``place`` for round ``number``, or why there is none.

        ``reference``: the digest of the state that this peer can subtract; empty for none.
        """
        began = self._host.clock.now()
        group_key, self._place, self._sought = place.key, place, number
        self._reference = reference
        self.attend(place)
        offer = self._offer(weight)
        patience = self._config.deadline or self._patience.at(group_key)
        machine = Matchmaking(
            self._host.peer_id,
            group_key,
            number,
            offer,
            self._config.group_size,
            self._config.min_group_size,
            began,
            patience=patience,
            undeclared=patience,
            silence=silence_after(self._membership.declare_to_watch),
            seats_per_block=self._config.seats_per_block,
        )
        matching = self._matching = MatchDriver(machine, group_key, number, self._host.clock, self._tell)
        self._host.nursery.start_soon(self.declare, group_key, number)
        self.seekers_changed()
        self._take_early_joins(matching)
        self.progressed()  # the round may be over elsewhere
        outcome = await matching.run()
        if isinstance(outcome, Formed) and not outcome.is_settled:
            outcome = await self._drafts.with_roles(outcome, matching, self._config.min_group_size)
        if isinstance(outcome, NoGroup):
            return outcome
        size = len(outcome.peers if isinstance(outcome, SignedManifest) else outcome.members)
        self._patience.observed(self._host.clock.now() - began, size == self._config.group_size)
        if isinstance(outcome, SignedManifest):
            return outcome
        if not any(offer.weight > 0 for _, offer in outcome.members):
            for peer, _ in outcome.members[1:]:
                self._tell(peer, Disbanded(group_key, number, ""))
            return NoGroup("nobody in the group had a weight above 0")
        return self._lead(outcome, group_key, number)

    def attend(self, place: Place) -> None:
        """Follows the key, and the others where they are few: who declares there is not awaited here."""
        for key in place.all_keys(MAX_ATTENDED):
            self._membership.attend(key)

    def is_open(self, place: Place, number: int) -> bool:
        """Whether a group is still coming together at ``place`` for a round that is over elsewhere.

        Where half of those who belong there have gone on, the others do best to go on, too; where nobody
        knows who belongs there, unless others came or as many as a group has may yet come.
        """
        seekers = self._membership.seekers(place.key, number)
        if place.expected is None and place.groups > 1:
            return bool(seekers) or self._membership.may_yet_fill(place, number)
        belong = (place.expected or frozenset()) & set(self._membership.active(number)) - {self._host.peer_id}
        return place.groups > 1 and 2 * len(seekers) > len(belong)

    def held_frames(self) -> list[tuple[PeerId, Frame]]:
        """What came for the group just found, before there was anybody to take it."""
        held, self._held, self._forming = self._held, [], None
        return held

    async def declare(self, group_key: str, number: int) -> None:
        """Says that this peer is or will be under ``group_key`` for that round."""
        try:
            await self._membership.declare(group_key, number)
        except MoshgridError as error:
            _log.warning("round %d could not be declared: %s", number, error)

    def seekers_changed(self) -> None:
        """The declarations under some group key changed: who is there for a later round is gone from here."""
        matching = self._matching
        if matching is None:
            return
        seekers = self._membership.seekers(matching.group_key, matching.round)
        matching.seekers_are([peer for peer in seekers if not self._incoming.is_skipped(peer)])
        matching.others_are_awaited(self._membership.awaits(self._place, matching.round))

    def progressed(self) -> None:
        """A round was sealed somewhere in the run."""
        matching = self._matching
        if matching is not None and self._membership.progress >= matching.round:
            matching.overtaken()

    def lost(self, peer: PeerId) -> None:
        """The link to a peer ended."""
        self._early.forget(peer)
        self._incoming.forget(peer)
        self._drafts.lost(peer)
        if self._matching is not None:
            self._matching.feed(PeerLost(peer))

    def _found_out(self, leader: PeerId) -> None:
        if self._matching is not None:
            self._matching.feed(PeerLost(leader))

    def group_frame(self, peer: PeerId, frame: Frame) -> None:
        """A message of a group that no round is running for yet."""
        if self._forming is not None and frame.group == self._forming.group_id:
            self._hold(peer, frame)
        elif isinstance(frame.message, Ready):
            # A member that the leader told first; the manifest it brings is as good as the leader's.
            self._begin(peer, frame.message.manifest, frame)

    def match_frame(self, peer: PeerId, message: Any) -> None:
        """A message of matchmaking."""
        match message:
            case Begin(manifest):
                self._begin(peer, manifest, None)
            case Join(key, number) if self._incoming.is_skipped(peer):
                self._tell(peer, Refused(key, number, "you signed two manifests for one round", "", ()))
            case Leave(key, number) if not self._is_matching(key, number):
                self._early.withdraw(peer, key, number)
            case Join(key, number) if not self._is_matching(key, number):
                self._join_elsewhere(peer, message)
            case _ if isinstance(message, MatchMessage):
                self._told(peer, message)

    def _told(self, peer: PeerId, message: MatchMessage) -> None:
        matching = self._matching
        if isinstance(message, Begin) or matching is None:
            return
        if not self._is_matching(message.group_key, message.round):
            return
        match message:
            case Directness():
                self._drafts.reported(peer, message)
            case Draft() if peer == matching.leader:
                self._host.nursery.start_soon(self._drafts.answer, peer, message)
            case Leave():
                self._drafts.lost(peer)
        matching.feed(self._heard(peer, message))
        if isinstance(message, Handover) and self._too_early is not None:
            (sender, raw), self._too_early = self._too_early, None
            self._begin(sender, raw, None)

    # Steps ------------------------------------------------------------------------------------------

    def _offer(self, weight: float) -> Offer:
        offer = self._config.offer(weight, self._links.bandwidth, self._reference)
        here = {*self._membership.seekers(self._place.key, self._sought), *(self._place.expected or ())}
        return self._drafts.marked(offer, sorted(here))

    def _lead(self, formed: Formed, group_key: str, number: int) -> SignedManifest:
        left = self._leadership.without_seat(formed.members)
        for peer in left:
            self._tell(peer, Refused(group_key, number, self._leadership.why_none, "", ()))
        members = [(peer, offer) for peer, offer in formed.members if peer not in left]
        signed = self._leadership.sign(group_key, number, members)
        self._forming, self._found = signed, signed.group_id
        for peer in signed.peers[1:]:
            self._tell(peer, Begin(signed.raw))
        return signed

    def _begin(self, sender: PeerId, raw: bytes, early: Frame | None) -> None:
        signed = self._incoming.opened(sender, raw, self._reference)
        if signed is None or self._forming is not None or signed.group_id == self._found:
            return
        matching = self._matching
        manifest = signed.manifest
        if matching is not None and matching.is_drafted and not matching.would_follow(signed.leader):
            self._too_early = (sender, raw)  # by whom this peer's leader may have named
            return
        if matching is None or not matching.would_follow(signed.leader):
            self._incoming.decline(signed, "it follows another leader, or none")
            return
        if (matching.group_key, matching.round) != (manifest.group_key, manifest.round):
            self._incoming.decline(signed, "it seeks a group for another round")
            return
        if reason := self._incoming.crowded(signed):
            self._found = signed.group_id  # what its members bring of it is no news
            self._incoming.decline(signed, reason)
            matching.feed(Told(signed.leader, Refused(manifest.group_key, manifest.round, reason, "", ())))
            return
        self._forming, self._found = signed, signed.group_id
        if early is not None:
            self._hold(sender, early)
        matching.began(signed)

    def _hold(self, peer: PeerId, frame: Frame) -> None:
        if len(self._held) < _MAX_HELD:
            self._held.append((peer, frame))

    def _is_matching(self, group_key: str, number: int) -> bool:
        matching = self._matching
        return matching is not None and (matching.group_key, matching.round) == (group_key, number)

    def _join_elsewhere(self, peer: PeerId, join: Join) -> None:
        """A request to lead a round that this peer is not seeking: kept if it may yet come to that."""
        if join.round <= self._sought or not self._early.keep(peer, join):
            self._refuse(peer, join, f"round {join.round} is over here")

    def _take_early_joins(self, matching: MatchDriver) -> None:
        for peer, join in self._early.take(matching.round):
            if self._is_matching(join.group_key, join.round):
                matching.feed(self._heard(peer, join))
            else:
                self._refuse(peer, join, "this peer seeks another group in that round")

    def _refuse(self, peer: PeerId, join: Join, reason: str) -> None:
        self._tell(peer, Refused(join.group_key, join.round, reason, "", ()))

    def _heard(self, peer: PeerId, message: MatchMessage) -> Told:
        counts = isinstance(message, Join) and self._config.seats_per_block is not None
        return Told(peer, message, block_seen(self._host.network, peer) if counts else None)

    def _tell(self, peer: PeerId, message: MatchMessage) -> None:
        if isinstance(message, Join) and self._config.seats_per_block is not None:
            message = replace(message, seen_in=block_seen(self._host.network, peer) or "")
        self._links.send(peer, encode_frame(self._run, b"", message))
