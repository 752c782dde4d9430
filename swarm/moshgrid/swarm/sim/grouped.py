"""Averaging in groups that the production topologies form: who is alive meets under equal group keys."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moshgrid.averaging.grid_plan import GridPlan, PlanRecord
from moshgrid.averaging.topology import (
    GridTopology,
    MoshpitTopology,
    RandomTopology,
    SlidingTopology,
    Topology,
    View,
    rank,
)
from moshgrid.p2p.identity import PeerId

__all__ = ["GroupedAveraging", "groups_of", "in_groups", "peer_names"]

Values = NDArray[np.float64]
Alive = NDArray[np.bool_]


def peer_names(count: int) -> tuple[PeerId, ...]:
    """Sorted names for ``count`` simulated peers."""
    return tuple(PeerId(f"peer{i:06d}") for i in range(count))


def groups_of(
    places: dict[str, list[int]], peers: tuple[PeerId, ...], view: View, most: int
) -> list[list[int]]:
    """Groups of at most ``most`` under each key, led by the lowest ranks, as matchmaking forms them."""
    groups = []
    for key, members in places.items():
        if len(members) > most:
            members.sort(key=lambda i: rank(key, view.round, peers[i]))
        groups += [members[start : start + most] for start in range(0, len(members), most)]
    return groups


class GroupedAveraging:
    """One run of N peers, each with a topology of its own. ``values`` may be (N,) or (N, elements)."""

    def __init__(
        self, peers: tuple[PeerId, ...], group_size: int, make: Callable[[], Topology], plan: GridPlan | None
    ) -> None:
        self._peers = peers
        self._group_size = group_size
        self._plan = plan
        self._topologies = [make() for _ in peers]
        self._round = 0

    def form(self, alive: Alive) -> list[list[int]]:
        """The groups of the next round among those alive; their members move on."""
        self._round += 1
        view = View(self._round, self._peers, self._plan)
        places: dict[str, list[int]] = {}
        for i in np.flatnonzero(alive).tolist():
            key = self._topologies[i].place(self._peers[i], view).key
            places.setdefault(key, []).append(i)
        groups = groups_of(places, self._peers, view, self._group_size)
        for group in groups:
            roster = [self._peers[i] for i in group]
            group_id = rank("group", self._round, PeerId(" ".join(roster)))
            for i in group:
                self._topologies[i].averaged(group_id, roster, self._peers[i])
        return groups

    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values:
        """Everybody alive takes the mean of its group; the others keep what they have."""
        values = values.copy()
        for group in self.form(alive):
            values[group] = values[group].mean(axis=0)
        return values


class _ScatteredPlan(GridPlan):
    """A grid of fixed sides, peers in cells at random: what Moshpit's authors measured."""

    def scatter(self, seed: int) -> None:
        """Draws the cells."""
        cells = random.Random(seed).sample(range(int(np.prod(self.record.dims))), len(self.members))
        self.__dict__["places"] = dict(zip(self.members, cells, strict=True))


def in_groups(name: str, peers: tuple[PeerId, ...], group_size: int, seed: int) -> GroupedAveraging:
    """``grid`` (fitted), ``sliding``, ``random groups``, or ``random grid``: group_size² cells or more."""
    if name == "grid":
        plan = GridPlan.drawn(1 + seed % 1000, 1001, peers, group_size) if len(peers) > group_size else None
        return GroupedAveraging(peers, group_size, lambda: MoshpitTopology(group_size), plan)
    if name == "sliding":
        return GroupedAveraging(_renamed(peers, seed), group_size, lambda: SlidingTopology(group_size), None)
    if name == "key sliding":
        rng = random.Random(seed)
        keys = group_size ** (axes_for(len(peers), group_size) - 1)
        return GroupedAveraging(
            peers, group_size, lambda: SlidingTopology(group_size, keys, rng.randrange(keys)), None
        )
    if name == "random groups":
        return GroupedAveraging(_renamed(peers, seed), group_size, lambda: RandomTopology(group_size), None)
    if name == "random grid":
        record = PlanRecord(1, (group_size,) * axes_for(len(peers), group_size), 1, len(peers), bytes(32))
        scattered = _ScatteredPlan(record, peers)
        scattered.scatter(seed)
        return GroupedAveraging(peers, group_size, GridTopology, scattered)
    raise KeyError(name)


def _renamed(peers: tuple[PeerId, ...], seed: int) -> tuple[PeerId, ...]:
    """Other names give other draws: topologies take no seed."""
    return tuple(PeerId(f"{seed}-{peer}") for peer in peers)


def axes_for(count: int, group_size: int) -> int:
    """The fewest axes of a grid with sides of ``group_size`` that holds ``count`` peers."""
    axes = 1
    while group_size**axes < count:
        axes += 1
    return axes
