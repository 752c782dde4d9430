"""Topology: with whom a peer averages in a round, as the group key it declares itself under.

Moshpit's sliding chunk index (Ryabinin et al., NeurIPS 2021, §3.2): a peer's coordinates are the
chunk indices of its last d − 1 groups. Members of a group hold distinct chunk indices, so they meet
different peers next round. With exactly M^d peers and full groups the mean is exact after d rounds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Protocol

from moshgrid.p2p.identity import PeerId

__all__ = ["LOBBY", "MoshpitTopology", "SingleGroupTopology", "Topology", "chunk_index", "topology_by_name"]

LOBBY = "lobby"
"""The group key that any peer without a group may try once in a round."""


class Topology(Protocol):
    """Decides group keys. Pure: everything it uses comes in through its methods."""

    def group_key(self, me: PeerId, peers: Sequence[PeerId]) -> str:
        """The key for the coming round, given all peers known in the run (``me`` included)."""
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
    rng = random.Random(group_id)
    width = max(size, group_size)
    first = rng.randrange(width)
    return (first + rng.sample(range(size), size)[position]) % width


class MoshpitTopology:
    """The sliding chunk index over ⌈N / M⌉ groups, for any number of peers N.

    Coordinates are read as a number modulo the number of groups, so that groups stay full when N is
    no power of M; with N = M^d this is the published grid.
    """

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._first_place: int | None = None
        self._recent: list[int] = []

    def group_key(self, me: PeerId, peers: Sequence[PeerId]) -> str:
        everyone = sorted({me, *peers})
        groups = -(-len(everyone) // self._group_size)
        if groups == 1:
            return "0"
        # d − 1 digits in base M reach every group.
        digits = 1
        while self._group_size**digits < groups:
            digits += 1
        if self._first_place is None:
            self._first_place = everyone.index(me) % groups  # places spread evenly to begin with
        place = self._first_place
        for index in self._recent[-digits:]:
            place = place * self._group_size + index
        return str(place % self._group_size**digits % groups)

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        index = chunk_index(group_id, len(roster), list(roster).index(me), self._group_size)
        self._recent = [*self._recent[-15:], index]


class SingleGroupTopology:
    """Everybody under one key: plain all-reduce for as many as fit a group."""

    def group_key(self, me: PeerId, peers: Sequence[PeerId]) -> str:
        return "0"

    def averaged(self, group_id: bytes, roster: Sequence[PeerId], me: PeerId) -> None:
        pass


def topology_by_name(name: str, group_size: int) -> Topology:
    """``moshpit`` or ``single``. Raises KeyError with the names there are."""
    if name == "moshpit":
        return MoshpitTopology(group_size)
    if name == "single":
        return SingleGroupTopology()
    raise KeyError(f"there is no topology {name!r}; there are: moshpit, single")


def rank(group_key: str, round_number: int, peer: PeerId) -> bytes:
    """H(group key ‖ round ‖ peer id): who leads is drawn anew for every group and round."""
    return hashlib.sha256(f"{group_key}\x00{round_number}\x00{peer}".encode()).digest()
