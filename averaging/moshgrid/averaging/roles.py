"""Roles in a group: who reduces, by who has a direct connection to whom. Pure.

Reducers are the members that are direct to all others; the rest are clients, which send to and receive
from reducers only. Where nobody is direct to all, the group is split into groups that have such a member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from moshgrid.averaging.messages import Offer
from moshgrid.p2p.identity import PeerId

__all__ = ["RoleGroup", "agreed_pairs", "assign_roles", "known_direct", "with_roles"]


@dataclass(frozen=True, slots=True)
class RoleGroup:
    """Peers that can average together; the first reducer leads."""

    reducers: tuple[PeerId, ...]
    clients: tuple[PeerId, ...]

    @property
    def members(self) -> tuple[PeerId, ...]:
        """All of them, who leads first."""
        return self.reducers + self.clients


def agreed_pairs(reports: Mapping[PeerId, Collection[PeerId]]) -> set[frozenset[PeerId]]:
    """The pairs that are direct by the word of both, so that nobody makes itself a reducer by a lie."""
    return {
        frozenset((one, other))
        for one, direct in reports.items()
        for other in direct
        if other != one and one in reports.get(other, ())
    }


def assign_roles(
    members: Sequence[PeerId], pairs: Collection[frozenset[PeerId]], least: int
) -> list[RoleGroup]:
    """Groups of at least ``least`` peers, each with a reducer; one of all members wherever that can be.

    Greedy: the member with the most direct connections and those it is direct to, again and again. Who is
    in none has no direct connection to anybody left. Earlier members come first.
    """
    groups: list[RoleGroup] = []
    left = list(members)
    while left:
        near = {peer: [other for other in left if frozenset((peer, other)) in pairs] for peer in left}
        centre = max(left, key=lambda peer: len(near[peer]))
        group = [peer for peer in left if peer == centre or peer in near[centre]]
        if len(group) < max(2, least):
            break
        reducers = tuple(peer for peer in group if len(set(near[peer]) & set(group)) == len(group) - 1)
        groups.append(RoleGroup(reducers, tuple(peer for peer in group if peer not in reducers)))
        left = [peer for peer in left if peer not in group]
    return groups


def with_roles(group: RoleGroup, offers: Mapping[PeerId, Offer]) -> tuple[tuple[PeerId, Offer], ...]:
    """The members with their offers, those of clients without reducing."""
    return tuple((peer, replace(offers[peer], reduces=peer in group.reducers)) for peer in group.members)


def known_direct(
    members: Sequence[tuple[PeerId, Offer]], me: PeerId, direct_here: Collection[PeerId]
) -> bool:
    """Whether nobody has to ask who is direct to whom: all can be dialled, or said that it is so."""
    for index, (one, first) in enumerate(members):
        for other, second in members[index + 1 :]:
            if not (first.home or second.home):
                continue
            if me in (one, other):
                known = (other if me == one else one) in direct_here
            else:
                known = other in first.direct or one in second.direct
            if not known:
                return False
    return True
