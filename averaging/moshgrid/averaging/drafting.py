"""Drafting: a leader asks its members who is direct to whom, and makes groups with roles of them. Pure.

It waits for everybody's report, but not beyond the deadline: who has not reported by then is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moshgrid.averaging.messages import Offer
from moshgrid.averaging.roles import agreed_pairs, assign_roles, with_roles
from moshgrid.p2p.identity import PeerId

__all__ = ["DRAFT_SECONDS", "PUNCH_SECONDS", "Drafting", "Members", "Settled"]

DRAFT_SECONDS = 5.0
"""How long a leader waits for its members' reports."""
PUNCH_SECONDS = 4.0
"""How long a member tries to reach the others before it reports."""

Members = tuple[tuple[PeerId, Offer], ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a draft: groups with their roles, who leads first, and who is in none and why."""

    groups: tuple[Members, ...]
    excluded: dict[PeerId, str]


class Drafting:
    """One draft at its leader, the first of ``members``."""

    def __init__(self, members: Sequence[tuple[PeerId, Offer]], least: int, now: float) -> None:
        self._offers = dict(members)
        self._least = least
        self.reports: dict[PeerId, frozenset[PeerId]] = {}
        """Who said to whom it is direct."""
        self._lost: set[PeerId] = set()
        self.deadline = now + DRAFT_SECONDS

    @property
    def members(self) -> tuple[PeerId, ...]:
        """Everybody who was asked, and the leader."""
        return tuple(self._offers)

    def reported(self, peer: PeerId, direct: Sequence[str]) -> None:
        """A member (or the leader itself) says to whom it is direct."""
        if peer in self._offers:
            self.reports[peer] = frozenset(PeerId(name) for name in direct) & self._offers.keys()

    def lost(self, peer: PeerId) -> None:
        """A member is gone, or follows somebody else now."""
        if peer in self._offers:
            self._lost.add(peer)

    def is_due(self, now: float) -> bool:
        """True when there is nothing more to wait for."""
        return now >= self.deadline or self._offers.keys() <= self.reports.keys() | self._lost

    def settle(self) -> Settled:
        """The groups, from what was reported."""
        reports = {peer: direct for peer, direct in self.reports.items() if peer not in self._lost}
        present = [peer for peer in self._offers if peer in reports]
        groups = assign_roles(present, agreed_pairs(reports), self._least)
        grouped = {peer for group in groups for peer in group.members}
        excluded = {}
        for peer in self._offers:
            if peer in self._lost or peer in grouped:
                continue
            others = len(self._offers) - 1
            excluded[peer] = (
                f"no direct connection to any of the {others} others that were here: their routers and this "
                "one's let no hole be punched; one peer that can be dialled from outside would do"
                if peer in reports
                else "it did not say in time to whom it has a direct connection"
            )
        return Settled(tuple(with_roles(group, self._offers) for group in groups), excluded)
