"""Finding a group: declares this peer, seeks under a group key, leads or follows into a manifest. Awaits.

Who leads whom is decided by the matchmaking machine; this file keeps the requests that come too early,
and the messages of a group whose manifest has just come.
"""

from __future__ import annotations

import logging
from typing import Any

from moshgrid.averaging.leading import compose_manifest
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest, open_manifest, sign_manifest
from moshgrid.averaging.match_driver import MatchDriver
from moshgrid.averaging.match_events import Formed, NoGroup, PeerLost, Told
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.membership import Membership
from moshgrid.averaging.messages import (
    Accepted,
    Begin,
    Decline,
    Disbanded,
    Join,
    Leave,
    MatchMessage,
    Offer,
    Ready,
    Refused,
)
from moshgrid.averaging.patience import Patience, silence_after
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.topology import LOBBY, Place
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.compression import get_codec
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["GroupFinder"]

_MAX_EARLY = 64
_MAX_HELD = 256
_LOBBY_SECONDS = 1.0
_MAX_ATTENDED = 8
"""Up to so many groups all group keys are followed; beyond, group sizes are estimated."""

_log = logging.getLogger("moshgrid.averaging")


class GroupFinder:
    """One peer's way into groups, one search at a time."""

    def __init__(
        self, host: Host, links: Links, membership: Membership, run: bytes, config: RunConfig
    ) -> None:
        self._host = host
        self._links = links
        self._membership = membership
        self._run = run
        self._config = config
        self._codec = get_codec(config.codec)
        self._dtype = config.schema.wire_dtype(self._codec.dtypes)
        self._patience = Patience()
        self._matching: MatchDriver | None = None
        self._place = Place("")
        self._early: dict[PeerId, Join] = {}
        self._forming: SignedManifest | None = None
        self._found = b""
        self._held: list[tuple[PeerId, Frame]] = []

    async def find(self, place: Place, number: int, weight: float) -> SignedManifest | str:
        """The manifest of a group at ``place`` for round ``number``, or why there is none."""
        began = self._host.clock.now()
        group_key, self._place = place.key, place
        offer = Offer(weight, 0.0, self._config.schema.digest, self._config.codec, True)
        self.attend(place)
        machine = Matchmaking(
            self._host.peer_id,
            group_key,
            number,
            offer,
            self._config.group_size,
            self._config.min_group_size,
            began,
            patience=self._patience_for(group_key),
            undeclared=self._patience_for(group_key),
            silence=silence_after(self._membership.declare_to_watch),
        )
        matching = self._matching = MatchDriver(machine, group_key, number, self._host.clock, self._tell)
        self._host.nursery.start_soon(self.declare, group_key, number)
        self.seekers_changed(group_key)
        self._take_early_joins(matching)
        self.progressed()  # the round may be over elsewhere
        outcome = await matching.run()
        if isinstance(outcome, NoGroup):
            return outcome.reason
        self._patience.observed(self._host.clock.now() - began)
        if isinstance(outcome, SignedManifest):
            return outcome
        if not any(offer.weight > 0 for _, offer in outcome.members):
            for peer, _ in outcome.members[1:]:
                self._tell(peer, Disbanded(group_key, number, ""))
            return "nobody in the group had a weight above 0"
        return self._lead(outcome, group_key, number)

    def attend(self, place: Place) -> None:
        """Follows the key, and the others where they are few: who declares there is not awaited here."""
        for key in place.all_keys(_MAX_ATTENDED):
            self._membership.attend(key)

    def is_open(self, place: Place, number: int) -> bool:
        """Whether a group is still coming together at ``place`` for a round that is over elsewhere.

        Known only where every key is followed; a group that has begun would look open otherwise.
        """
        follows_all = 1 < place.groups <= _MAX_ATTENDED
        return number > 0 and follows_all and self._membership.still_seeking(place.key, number)

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

    def seekers_changed(self, group_key: str) -> None:
        """The declarations under a group key changed."""
        matching = self._matching
        if matching is None:
            return
        if matching.group_key == group_key:
            matching.seekers_are(self._membership.seekers(group_key, matching.round))
        matching.others_are_awaited(self._others_awaited(matching))

    def progressed(self) -> None:
        """A round was sealed somewhere in the run."""
        matching = self._matching
        if matching is not None and self._membership.progress >= matching.round:
            matching.overtaken()

    def lost(self, peer: PeerId) -> None:
        """The link to a peer ended."""
        self._early.pop(peer, None)
        if self._matching is not None:
            self._matching.feed(PeerLost(peer))

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
            case Join(key, number) if not self._is_matching(key, number):
                self._join_elsewhere(peer, message)
            case Join() | Accepted() | Refused() | Leave() | Disbanded():
                if self._matching is not None and self._is_matching(message.group_key, message.round):
                    self._matching.feed(Told(peer, message))

    # Steps ------------------------------------------------------------------------------------------

    def _others_awaited(self, matching: MatchDriver) -> bool:
        """Whether somebody who took part lately may yet come under this key.

        Where keys tell who belongs there, only those count; where all groups are followed, who is
        declared in another is not awaited; else the group's size is estimated.
        """
        place = self._place
        if place.key == LOBBY:
            return False
        active = self._membership.active(matching.round)
        if place.expected is None and place.groups > _MAX_ATTENDED:
            here = len(self._membership.seekers(matching.group_key, matching.round)) + 1
            return here < len(active) // place.groups
        declared = self._membership.declared(matching.round)
        return any(
            peer not in declared and (place.expected is None or peer in place.expected)
            for peer in active
            if peer != self._host.peer_id
        )

    def _patience_for(self, group_key: str) -> float:
        if self._config.deadline is not None:
            return self._config.deadline
        # Who comes to the lobby has waited already, and so have the others there.
        return _LOBBY_SECONDS if group_key == LOBBY else self._patience.seconds

    def _lead(self, formed: Formed, group_key: str, number: int) -> SignedManifest:
        manifest = compose_manifest(
            self._run,
            group_key,
            number,
            formed.members,
            self._config.schema,
            self._codec,
            self._host.rng,
        )
        signed = sign_manifest(self._host.identity, manifest)
        self._forming, self._found = signed, signed.group_id
        for peer in signed.peers[1:]:
            self._tell(peer, Begin(signed.raw))
        return signed

    def _begin(self, sender: PeerId, raw: bytes, early: Frame | None) -> None:
        try:
            signed = open_manifest(raw, sender)
            self._check_manifest(signed, sender)
        except RemoteProtocolError as error:
            _log.warning("%s", error)
            return
        if self._forming is not None or signed.group_id == self._found:
            return
        matching = self._matching
        manifest = signed.manifest
        if matching is None or not matching.would_follow(signed.leader):
            self._decline(signed, "it follows another leader, or none")
            return
        if (matching.group_key, matching.round) != (manifest.group_key, manifest.round):
            self._decline(signed, "it seeks a group for another round")
            return
        self._forming, self._found = signed, signed.group_id
        if early is not None:
            self._hold(sender, early)
        matching.began(signed)

    def _check_manifest(self, signed: SignedManifest, sender: PeerId) -> None:
        manifest = signed.manifest
        if self._host.peer_id not in signed.peers or manifest.run != self._run:
            raise RemoteProtocolError(sender, "sent a manifest of others")
        if manifest.schema != self._config.schema.digest or manifest.elements != self._config.schema.elements:
            raise RemoteProtocolError(sender, "sent a manifest for other tensors")
        if manifest.codec != self._config.codec or manifest.dtype != self._dtype.name or manifest.reference:
            raise RemoteProtocolError(sender, "sent a manifest with another codec or reference")
        if len(signed.peers) > self._config.group_size:
            raise RemoteProtocolError(sender, f"sent a manifest of {len(signed.peers)} members")

    def _decline(self, signed: SignedManifest, reason: str) -> None:
        for peer in signed.peers:
            if peer != self._host.peer_id:
                self._links.send(peer, encode_frame(self._run, signed.group_id, Decline(reason)))

    def _hold(self, peer: PeerId, frame: Frame) -> None:
        if len(self._held) < _MAX_HELD:
            self._held.append((peer, frame))

    def _is_matching(self, group_key: str, number: int) -> bool:
        matching = self._matching
        return matching is not None and (matching.group_key, matching.round) == (group_key, number)

    def _join_elsewhere(self, peer: PeerId, join: Join) -> None:
        """A request to lead a round that this peer is not seeking: kept if it may yet come to that."""
        if join.round > self._membership.progress and (peer in self._early or len(self._early) < _MAX_EARLY):
            self._early[peer] = join
        else:
            reason = f"round {join.round} is over here"
            self._tell(peer, Refused(join.group_key, join.round, reason, "", ()))

    def _take_early_joins(self, matching: MatchDriver) -> None:
        early, self._early = self._early, {}
        for peer, join in early.items():
            if self._is_matching(join.group_key, join.round):
                matching.feed(Told(peer, join))
            elif join.round > matching.round:
                self._early[peer] = join
            else:
                reason = "this peer seeks another group in that round"
                self._tell(peer, Refused(join.group_key, join.round, reason, "", ()))

    def _tell(self, peer: PeerId, message: MatchMessage) -> None:
        self._links.send(peer, encode_frame(self._run, b"", message))
