"""Past rounds: which groups this peer is done with, so that who still speaks of one is told so, once."""

from __future__ import annotations

from collections.abc import Iterable

from moshgrid.averaging.messages import Alive, Decline, Message, Sealed
from moshgrid.p2p.identity import PeerId

__all__ = ["PastRounds"]

_KEPT = 64


class PastRounds:
    """The last groups that this peer was in. Pure."""

    def __init__(self) -> None:
        self._untold: dict[bytes, set[PeerId]] = {}

    def add(self, group_id: bytes, members: Iterable[PeerId]) -> None:
        """A round is over here and forgotten."""
        self._untold[group_id] = set(members)
        while len(self._untold) > _KEPT:
            del self._untold[next(iter(self._untold))]

    def is_to_be_told(self, group_id: bytes, peer: PeerId, message: Message) -> bool:
        """True when a message shows that a member believes the round to go on; once for each."""
        untold = self._untold.get(group_id, set())
        if peer not in untold or isinstance(message, Alive | Decline | Sealed):
            return False
        untold.discard(peer)
        return True

    def __contains__(self, group_id: bytes) -> bool:
        return group_id in self._untold
