"""Round choice: which round a peer's step is for, the coming one or one that is over elsewhere already.

Groups of a round begin one after the other: the first to end seals the round while others still come
together, and whoever belongs to those goes back to it. But peers may be a whole step behind others, whom
they then meet only where both happen to be: a line of a grid of whose members one is always a round ahead.
So a peer goes back to a group that somebody has left behind once, not twice running.
"""

from __future__ import annotations

from collections.abc import Callable

from moshgrid.averaging.membership import Membership
from moshgrid.averaging.topology import Place

__all__ = ["RoundChoice"]

_ROUNDS_BACK = 2
_LEFT_MOST = 2


class RoundChoice:
    """One peer's. ``place(round)`` says where it belongs in a round."""

    def __init__(self, membership: Membership, place: Callable[[int], Place]) -> None:
        self._membership = membership
        self._place = place
        self._left = 0
        self.tried = 0
        """The last round that this peer sought a group for."""

    def next(self) -> int:
        """1 + the last sealed round; or an earlier one, where this peer's group for it is still open."""
        last = self._membership.progress
        for number in range(max(self.tried + 1, last - _ROUNDS_BACK), last + 1):
            place = self._place(number)
            if not self._is_open(place, number):
                continue
            belong = (place.expected or frozenset()) & set(self._membership.active(number))
            self._left = self._left + 1 if self._membership.have_gone_on(belong, number) else 0
            if self._left < _LEFT_MOST:
                return number
            break
        self._left = 0
        return last + 1

    def _is_open(self, place: Place, number: int) -> bool:
        """Whether a group is still coming together at ``place`` for a round that is over elsewhere.

        Where half of those who belong there have gone on, the others do best to go on, too.
        """
        seekers = self._membership.seekers(place.key, number)
        if place.groups == 1 or not seekers:
            return False
        belong = (place.expected or frozenset()) & set(self._membership.active(number))
        return 2 * len(seekers) > len(belong - {self._membership.me})
