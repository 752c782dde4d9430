"""Manifests that come in: opened, checked, and their leaders watched; those that cannot be followed are
declined towards all their members.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from moshgrid.averaging.address_blocks import block_seen
from moshgrid.averaging.leader_watch import Equivocation, LeaderWatch, Restarted
from moshgrid.averaging.leading import check_manifest
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest, open_manifest
from moshgrid.averaging.messages import Decline
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.seats import NO_SEAT, crowded_block
from moshgrid.averaging.wire import encode_frame
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["IncomingManifests"]

_log = logging.getLogger("moshgrid.averaging")


class IncomingManifests:
    """What leaders sign, as one peer gets to see it."""

    def __init__(
        self,
        host: Host,
        links: Links,
        run: bytes,
        config: RunConfig,
        leader_gone: Callable[[PeerId, bytes, str], None],
        found_out: Callable[[PeerId], None],
    ) -> None:
        """``leader_gone(leader, group id, reason)``: a leader has left a group, by what it signed.
        ``found_out(leader)``: one that signed two manifests for one round is skipped from now on.
        """
        self._host = host
        self._links = links
        self._run = run
        self._config = config
        self._leader_gone = leader_gone
        self._found_out = found_out
        self._watch = LeaderWatch()

    def is_skipped(self, peer: PeerId) -> bool:
        """True for a while after a leader was found out."""
        return self._watch.is_skipped(peer, self._host.clock.now())

    def forget(self, peer: PeerId) -> None:
        """The link to a peer ended."""
        self._watch.forget(peer)

    def opened(self, sender: PeerId, raw: bytes, reference: bytes) -> SignedManifest | None:
        """The manifest, when it is for this peer and its leader is to be trusted with it."""
        try:
            signed = open_manifest(raw, sender)
            check_manifest(signed, sender, self._host.peer_id, self._run, self._config, reference)
        except RemoteProtocolError as error:
            _log.warning("%s", error)
            return None
        self._watch_leader(signed)
        if self.is_skipped(signed.leader):
            self.decline(signed, "its leader signed two manifests for one round")
            return None
        return signed

    def crowded(self, signed: SignedManifest) -> str:
        """Why this peer takes no part, where it sees more members in one address block than may be there."""
        if self._config.seats_per_block is None:
            return ""
        others = [peer for peer in signed.peers if peer != self._host.peer_id]
        blocks = [block_seen(self._host.network, peer) for peer in others]
        block = crowded_block([None, *blocks], self._config.seats_per_block)
        if block is None:
            return ""
        _log.warning("%s has %d members in %s; declined", signed.leader, blocks.count(block), block)
        return f"{NO_SEAT}{blocks.count(block)} of {len(signed.peers)} members are in one address block"

    def decline(self, signed: SignedManifest, reason: str) -> None:
        """Tells all members that this peer will not take part."""
        for peer in signed.peers:
            if peer != self._host.peer_id:
                self._links.send(peer, encode_frame(self._run, signed.group_id, Decline(reason)))

    def _watch_leader(self, signed: SignedManifest) -> None:
        match self._watch.saw(signed, self._host.clock.now()):
            case Equivocation(leader, first, second):
                manifest, both = signed.manifest, [first.raw.hex(), second.raw.hex()]
                where = {"round": manifest.round, "group_key": manifest.group_key}
                self._host.events.emit("equivocation", leader=leader, manifests=both, **where)
                _log.warning(
                    "%s signed two manifests for round %d; skipped for a while", leader, manifest.round
                )
                self._leader_gone(leader, first.group_id, "signed two manifests for one round")
                self._found_out(leader)
            case Restarted(leader, before):
                self._leader_gone(leader, before.group_id, "began the round anew with others")
