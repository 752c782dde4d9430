"""Topology: with whom a peer averages in a round, as the group key it declares itself under.

Moshpit's sliding chunk index (Ryabinin et al., NeurIPS 2021, §3.2): a peer's coordinates are the
chunk indices of its last d − 1 groups. Members of a group hold distinct chunk indices, so they meet
different peers next round. With exactly M^d peers and full groups the mean is exact after d rounds.
Where a grid plan is in force, its rows and columns take the sliding index's place (``grid_plan``).
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from moshgrid.averaging.grid_plan import GridPlan
from moshgrid.p2p.identity import PeerId

__all__ = [
    "LOBBY",
    "GridTopology",
    "MoshpitTopology",
    "Place",
    "RandomTopology",
    "SingleGroupTopology",
    "SlidingTopology",
    "Topology",
    "View",
    "chunk_index",
    "topology_by_name",
]

LOBBY = "lobby"
"""The group key that any peer without a group may try once in a round."""


@dataclass(frozen=True, slots=True)
class View:
    """What a peer knows of its run when it looks for a group."""

    round: int
    peers: Sequence[PeerId]
    """Everybody known in the run, this peer included; sorted."""
    plan: GridPlan | None = None
    """The plan in force for this round; None while there is none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer looks for a group."""

    key: str
    groups: int = 1
    """How many groups there are in this round, as far as this peer knows."""
    expected: frozenset[PeerId] | None = None
    """Who belongs under the same key, this peer included; None where nobody can know."""
    prefix: str = ""
    """What the keys of all groups of the round begin with; the number of the group follows."""

    def all_keys(self, most: int) -> list[str]:
        """The keys of all groups of the round, if there are at most ``most``; else this one."""
        if not 1 < self.groups <= most:
            return [self.key]
        return [f"{self.prefix}{group}" for group in range(self.groups)]


class Topology(Protocol):
    """Decides group keys. Pure: everything it uses comes in through its methods."""

    plans: bool
    """Whether it follows grid plans, so that peers are to draw them."""

    def place(self, me: PeerId, view: View) -> Place:
        """Where to be in the round that ``view`` names. Asking again gives the same answer."""
        ...

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        """Told after every sealed round; moves this peer to its next coordinates."""
        ...


def chunk_index(group_id: bytes, size: int, position: int, group_size: int) -> int:
    """The chunk index of the member at ``position`` of a group of ``size``.

    Indices are distinct within the group and lie in [0, max(size, group_size)). In an underfull group
    they are neighbours, so that its members spread evenly over the next groups; where they begin and
    who gets which is drawn with the group id as the seed, so all agree.
    """
    return _chunk_indices(group_id, size, max(size, group_size))[position]


@lru_cache(maxsize=16)
def _chunk_indices(group_id: bytes, size: int, width: int) -> tuple[int, ...]:
    rng = random.Random(group_id)
    first = rng.randrange(width)
    return tuple((first + place) % width for place in rng.sample(range(size), size))


class SlidingTopology:
    """The sliding chunk index over ⌈N / M⌉ groups, for any number of peers N.

    A peer's coordinates are read as the number of its group: from group g with chunk index c it goes to
    group (g · M + c) mod ⌈N / M⌉. For N = M^d that drops the oldest of d − 1 digits in base M, as
    published; for every N the members of a group spread over the next groups, which stay equally full.
    """

    plans = False

    def __init__(self, group_size: int, groups: int | None = None, first: int | None = None) -> None:
        """``groups`` fixes their number, whatever N; ``first`` is the number of the first group."""
        self._group_size = group_size
        self._groups = groups
        self._group: int | None = None
        self._next = first

    def place(self, me: PeerId, view: View) -> Place:
        groups = self._groups or max(1, -(-len(view.peers) // self._group_size))
        # To begin with peers spread evenly, by their order; it is the same for all once all are known.
        number = bisect_left(view.peers, me) if self._next is None else self._next
        self._group = number % groups
        return Place(str(self._group), groups)

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        index = chunk_index(group_id, len(roster), roster.index(me), self._group_size)
        self._next = (self._group or 0) * self._group_size + index


class GridTopology:
    """The rows and columns of the plan in force, in turn. Holds no place of its own: the plan does."""

    plans = True

    def place(self, me: PeerId, view: View) -> Place:
        """Raises ValueError without a plan."""
        if view.plan is None:
            raise ValueError("a grid needs a plan")
        line = view.plan.line(me, view.round, view.peers)
        return Place(line.key, line.count, line.members | {me}, line.key.rpartition(".")[0] + ".")

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        pass


class MoshpitTopology:
    """The grid while a plan is in force, the sliding chunk index otherwise."""

    plans = True

    def __init__(self, group_size: int) -> None:
        self._sliding = SlidingTopology(group_size)
        self._grid = GridTopology()

    def place(self, me: PeerId, view: View) -> Place:
        return (self._grid if view.plan is not None else self._sliding).place(me, view)

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        self._sliding.averaged(group_id, roster, me)


class RandomTopology:
    """⌈N / M⌉ groups of equal size, drawn anew each round by a permutation that all compute alike."""

    plans = False

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size

    def place(self, me: PeerId, view: View) -> Place:
        groups = -(-len(view.peers) // self._group_size)
        if groups <= 1:
            return Place("0")
        position = _drawn_positions(view.round, tuple(view.peers))[me]
        return Place(str(position * groups // len(view.peers)), groups)

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        pass


class SingleGroupTopology:
    """Everybody under one key: plain all-reduce for as many as fit a group."""

    plans = False

    def place(self, me: PeerId, view: View) -> Place:
        return Place("0")

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        pass


def topology_by_name(name: str, group_size: int) -> Topology:
    """``moshpit``, ``single``, ``random`` or ``sliding``. Raises KeyError with the names there are."""
    match name:
        case "moshpit":
            return MoshpitTopology(group_size)
        case "single":
            return SingleGroupTopology()
        case "random":
            return RandomTopology(group_size)
        case "sliding":
            return SlidingTopology(group_size)
    raise KeyError(f"there is no topology {name!r}; there are: moshpit, single, random, sliding")


def rank(group_key: str, round_number: int, peer: PeerId) -> bytes:
    """H(group key ‖ round ‖ peer id): who leads is drawn anew for every group and round."""
    return hashlib.sha256(f"{group_key}\x00{round_number}\x00{peer}".encode()).digest()


@lru_cache(maxsize=4)
def _drawn_positions(round_number: int, peers: tuple[PeerId, ...]) -> dict[PeerId, int]:
    """Order by hash, not by a seeded shuffle: who knows of one peer more still agrees on the others."""
    order = sorted(peers, key=lambda peer: rank("draw", round_number, peer))
    return {peer: position for position, peer in enumerate(order)}
