"""Leader watch: a leader that signs two manifests for one attempt at one round is found out and skipped.

Countersignatures carry the manifest to every member, so two that name a common member meet there within
one message. The two signatures are the proof. A leader whose group fell apart leads again under the next
attempt number; that is no lie, and ends its part in the group before.
"""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.averaging.manifest import SignedManifest
from moshgrid.p2p.identity import PeerId

__all__ = ["Equivocation", "LeaderWatch", "Restarted"]

_SKIP_SECONDS = 600.0
_MAX_LEADERS = 1024


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two manifests that one leader signed for the same attempt."""

    leader: PeerId
    first: SignedManifest
    second: SignedManifest


@dataclass(frozen=True, slots=True)
class Restarted:
    """A leader began the round anew: the group of ``before`` is without it."""

    leader: PeerId
    before: SignedManifest


class LeaderWatch:
    """What each leader signed last. Pure."""

    def __init__(self) -> None:
        self._signed: dict[PeerId, SignedManifest] = {}
        self._skipped: dict[PeerId, float] = {}

    def saw(self, signed: SignedManifest, now: float) -> Equivocation | Restarted | None:
        """A manifest with a valid signature came, from whomever."""
        leader, before = signed.leader, self._signed.pop(signed.leader, None)
        self._signed[leader] = signed
        while len(self._signed) > _MAX_LEADERS:
            del self._signed[next(iter(self._signed))]
        if before is None or before.group_id == signed.group_id:
            return None
        one, other = before.manifest, signed.manifest
        if (one.run, one.group_key, one.round) != (other.run, other.group_key, other.round):
            return None
        if one.attempt == other.attempt:
            self._skipped[leader] = now + _SKIP_SECONDS
            return Equivocation(leader, before, signed)
        if one.attempt > other.attempt:
            self._signed[leader] = before
            return None
        return Restarted(leader, before)

    def forget(self, peer: PeerId) -> None:
        """The link to a peer ended: it may have started again, and know nothing of what it signed."""
        self._signed.pop(peer, None)

    def is_skipped(self, peer: PeerId, now: float) -> bool:
        """True for ten minutes after a peer was found out."""
        if self._skipped.get(peer, now) <= now:
            self._skipped.pop(peer, None)
            return False
        return True
