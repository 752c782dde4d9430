"""Fetching: results that a member needs to vote or to apply, asked of one holder after another."""

from __future__ import annotations

from collections.abc import Sequence

from moshgrid.averaging.effects import RoundEffect, Send
from moshgrid.averaging.exchange import Exchange
from moshgrid.averaging.messages import Fetch

__all__ = ["Fetching"]

_RETRY = 1.0
"""Seconds until a fetch is tried elsewhere."""
_GRACE = 0.5
"""Seconds without any result until one that should come from its reducer is asked for elsewhere."""


class Fetching:
    """Which results are being asked for, and whom. Methods return what is to be done."""

    def __init__(self, me: int, members: int, exchange: Exchange) -> None:
        self._others = [member for member in range(members) if member != me]
        self._exchange = exchange
        self._asked: dict[tuple[int, bytes], list[int]] = {}
        self._lost: set[int] = set()
        self.deadline: float | None = None
        """When to call ``deadline_passed``."""

    def want(
        self, missing: Sequence[tuple[int, bytes]], holders: Sequence[int], now: float
    ) -> list[RoundEffect]:
        """Asks for results, ``holders`` first; one that should still come by itself gets some time."""
        effects: list[RoundEffect] = []
        for part, digest in missing:
            if (part, digest) in self._asked:
                continue
            self._asked[part, digest] = []
            if self._exchange.is_coming(part):
                self.deadline = self.deadline or now + _GRACE
            else:
                effects += self._ask_next(part, digest, now, holders)
        return effects

    def result_arrived(self, now: float) -> None:
        """Results still stream in: what has not been asked for elsewhere may yet come by itself."""
        if self._asked and not any(self._asked.values()):
            self.deadline = now + _GRACE

    def lost(self, member: int, now: float) -> list[RoundEffect]:
        """What was asked of a lost member is asked of the next."""
        self._lost.add(member)
        return [effect for wanted in self._pending_at(member) for effect in self._ask_next(*wanted, now)]

    def refused(self, member: int, part: int, digest: bytes, now: float) -> list[RoundEffect]:
        """``member`` does not hold what was asked of it."""
        if (part, digest) in self._pending_at(member):
            return self._ask_next(part, digest, now)
        return []

    def deadline_passed(self, now: float) -> list[RoundEffect]:
        """Asks the next holder for everything that has not come."""
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = None
        effects: list[RoundEffect] = []
        for (part, digest), asked in list(self._asked.items()):
            if len(asked) == len(self._others):
                asked.clear()  # once round; somebody may have got it by now
            effects += self._ask_next(part, digest, now)
        return effects

    def _pending_at(self, member: int) -> list[tuple[int, bytes]]:
        return [wanted for wanted, asked in self._asked.items() if asked and asked[-1] == member]

    def _ask_next(
        self, part: int, digest: bytes, now: float, holders: Sequence[int] = ()
    ) -> list[RoundEffect]:
        if self._exchange.holds(part, digest):
            del self._asked[part, digest]
            return []
        asked = self._asked[part, digest]
        self.deadline = now + _RETRY
        # Members that are lost are asked too, but last: a suspicion may be wrong.
        left = [member for member in self._others if member not in asked]
        left.sort(key=lambda member: (member in self._lost, member not in holders))
        if not left:
            return []  # all have been asked: the next round of asking comes with the deadline
        asked.append(left[0])
        return [Send(left[0], Fetch(part, digest))]
