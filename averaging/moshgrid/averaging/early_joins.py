"""Early joins: requests to lead a round that this peer does not seek yet, kept until it does. Pure."""

from __future__ import annotations

from moshgrid.averaging.messages import Join
from moshgrid.p2p.identity import PeerId

__all__ = ["EarlyJoins"]

_MAX_KEPT = 64


class EarlyJoins:
    """The last request of each peer, of so many peers."""

    def __init__(self) -> None:
        self._joins: dict[PeerId, Join] = {}

    def keep(self, peer: PeerId, join: Join) -> bool:
        """False when there is no room for another peer's."""
        if peer not in self._joins and len(self._joins) >= _MAX_KEPT:
            return False
        self._joins[peer] = join
        return True

    def forget(self, peer: PeerId) -> None:
        """Its request does not count any more."""
        self._joins.pop(peer, None)

    def withdraw(self, peer: PeerId, group_key: str, round_number: int) -> None:
        """It has found a group without this peer, or looks for none any more."""
        join = self._joins.get(peer)
        if join is not None and (join.group_key, join.round) == (group_key, round_number):
            del self._joins[peer]

    def take(self, number: int) -> list[tuple[PeerId, Join]]:
        """Those for round ``number`` or an earlier one; later rounds' stay."""
        due = [(peer, join) for peer, join in self._joins.items() if join.round <= number]
        for peer, _ in due:
            del self._joins[peer]
        return due
