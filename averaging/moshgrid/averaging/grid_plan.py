"""Grid plans: dimensions that fit the peers there are, and everybody's place. Pure.

N peers are spread over a grid of M_1 × … × M_d cells; in each round a peer averages with its line along
one axis, and the axes take turns. Without empty cells the mean is exact after d rounds, for any N that
factors so (the Moshpit grid, Ryabinin et al., NeurIPS 2021, §3.2, with sides fitted to N).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import prod
from typing import Annotated, Any

import msgspec
from blake3 import blake3

from moshgrid.p2p.identity import PeerId

__all__ = ["MAX_PLANNED", "GridPlan", "Line", "PlanRecord", "fitted_dims", "member_list", "read_member_list"]

MAX_PLANNED = 8192
"""Peers in one plan."""
MAX_LIST_BYTES = 64 * MAX_PLANNED
_TOLERANCE = 0.05
_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Side = Annotated[int, msgspec.Meta(ge=2, le=64)]


@lru_cache(maxsize=256)
def fitted_dims(count: int, most: int) -> tuple[int, ...]:
    """The sides of the grid for ``count`` peers in groups of at most ``most``, ascending.

    As few axes as reach; then as few empty cells as can be; then sides as equal as can be.
    """
    if count <= most:
        return (max(2, count),)
    axes = 2
    while most**axes < count:
        axes += 1
    best: tuple[int, int, tuple[int, ...]] | None = None
    for sides in _ascending(axes - 1, most):
        last = max(sides[-1], -(-count // prod(sides)))
        if last <= most:
            cells = prod(sides) * last
            candidate = (cells - count, last - sides[0], (*sides, last))
            best = candidate if best is None else min(best, candidate)
    assert best is not None  # most ** axes ≥ count
    return best[2]


def _ascending(length: int, most: int, least: int = 2) -> list[tuple[int, ...]]:
    if length == 0:
        return [()]
    return [
        (side, *rest)
        for side in range(least, most + 1)
        for rest in _ascending(length - 1, most, side)
    ]  # fmt: skip


class PlanRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is published of a plan; the member list is a blob named by its digest."""

    epoch: Annotated[int, msgspec.Meta(ge=1, lt=2**40)]
    """Higher epochs take the place of lower ones; at most the first round."""
    dims: Annotated[tuple[_Side, ...], msgspec.Meta(min_length=1, max_length=13)]
    first_round: Annotated[int, msgspec.Meta(ge=1, lt=2**40)]
    size: Annotated[int, msgspec.Meta(ge=2, le=MAX_PLANNED)]
    digest: _Digest
    """BLAKE3 of the member list."""

    @property
    def hash(self) -> bytes:
        """Decides between two plans of one epoch: the lower one is followed."""
        return blake3(msgspec.msgpack.encode(self)).digest()

    @property
    def precedence(self) -> tuple[int, bytes]:
        """Ascending order is the order in which plans are preferred."""
        return (-self.epoch, self.hash)

    def to_value(self) -> list[Any]:
        """For a record in the DHT."""
        value = msgspec.to_builtins(self, builtin_types=(bytes,))
        assert isinstance(value, list)
        return value

    @classmethod
    def from_value(cls, value: Any) -> PlanRecord | None:
        """From a record in the DHT; None when it is no plan (a stranger may write anything)."""
        try:
            return msgspec.convert(value, cls, builtin_types=(bytes,))
        except (msgspec.ValidationError, RecursionError):
            return None


def member_list(peers: Sequence[PeerId]) -> bytes:
    """The bytes of a member list: peer ids in order, one a line."""
    return "\n".join(sorted(peers)).encode()


def read_member_list(data: bytes) -> tuple[PeerId, ...]:
    """The peers of a list, sorted. Raises ValueError for what ``member_list`` would not have written."""
    try:
        peers = tuple(PeerId(line) for line in data.decode("ascii").split("\n"))
    except UnicodeDecodeError:
        raise ValueError("a member list is ASCII text") from None
    if len(peers) > MAX_PLANNED or any(one >= other for one, other in pairwise(peers)):
        raise ValueError(f"a member list names at most {MAX_PLANNED} peers, each once, in order")
    if not all(0 < len(peer) <= 64 for peer in peers):
        raise ValueError("a member list names peers by 1 to 64 characters")
    return peers


@dataclass(frozen=True, slots=True)
class Line:
    """The peers of a grid that differ in one coordinate: a group."""

    key: str
    count: int
    """Lines along this axis, that is groups of the round."""
    members: frozenset[PeerId]


@dataclass(frozen=True)
class GridPlan:
    """A plan with its members. Make it with ``drawn`` or, from what came over the wire, ``checked``."""

    record: PlanRecord
    members: tuple[PeerId, ...]
    """Sorted."""

    @classmethod
    def drawn(cls, epoch: int, first_round: int, peers: Sequence[PeerId], group_size: int) -> GridPlan:
        """The one plan for these peers."""
        members = tuple(sorted(peers))
        digest = blake3(member_list(members)).digest()
        record = PlanRecord(epoch, fitted_dims(len(members), group_size), first_round, len(members), digest)
        return cls(record, members)

    @classmethod
    def checked(cls, record: PlanRecord, members: tuple[PeerId, ...], group_size: int) -> GridPlan:
        """The plan of a record. Raises ValueError when it is not what ``drawn`` makes of ``members``."""
        if record.epoch > record.first_round:
            raise ValueError("the epoch of a plan is at most its first round")
        if record.size <= group_size or record.size != len(members):
            raise ValueError("a plan is for more peers than one group holds, and for those it lists")
        plan = cls.drawn(record.epoch, record.first_round, members, group_size)
        if plan.record != record:
            raise ValueError("the grid or the list is not the one that follows from its members")
        if not plan.leaves_nobody_alone:
            raise ValueError("a plan has two peers in every line; so few peers go without one")
        return plan

    @property
    def leaves_nobody_alone(self) -> bool:
        """False when some line would hold a single peer: happens with few peers in small groups."""
        return all(len(line) > 1 for lines in self._lines for line in lines if line)

    def difference(self, peers: Sequence[PeerId]) -> int:
        """How many are in the plan and not among ``peers``, or the other way round."""
        return len(self.places.keys() ^ set(peers))

    def fits(self, peers: Sequence[PeerId]) -> bool:
        """True when the plan can be recomputed from ``peers`` within 5 %, or one peer."""
        return self.difference(peers) <= max(1, _TOLERANCE * len(self.members))

    def line(self, me: PeerId, round_number: int, peers: Sequence[PeerId]) -> Line:
        """The line of ``me`` in a round. Who came later, or has a line whose others are gone, takes the
        emptiest line of those known that has somebody.
        """
        axis = (round_number - self.record.first_round) % len(self.record.dims)
        lines = self._lines[axis]
        cell = self.places.get(me)
        others = set(peers) - {me}
        number = None if cell is None else self._line_of(cell, axis)
        if number is None or (len(lines[number]) > 1 and others and not lines[number] & others):
            number = self._emptiest(lines, me, others)
        return Line(f"{self._name}.{axis}.{number}", len(lines), lines[number])

    def _emptiest(self, lines: list[frozenset[PeerId]], me: PeerId, others: set[PeerId]) -> int:
        sizes = [len(line & others) for line in lines]
        least = min((size for size in sizes if size), default=0)
        emptiest = [number for number, size in enumerate(sizes) if size == least]
        return emptiest[int.from_bytes(_drawn_rank(self.record.epoch, me)[:4], "big") % len(emptiest)]

    @cached_property
    def _name(self) -> str:
        return f"{self.record.epoch}.{self.record.hash[:6].hex()}"

    @cached_property
    def places(self) -> dict[PeerId, int]:
        """Cells, spread evenly over the grid in the order of H(epoch ‖ peer id)."""
        order = sorted(self.members, key=lambda peer: _drawn_rank(self.record.epoch, peer))
        cells, last = prod(self.record.dims), max(1, len(order) - 1)
        return {peer: (2 * k * (cells - 1) + last) // (2 * last) for k, peer in enumerate(order)}

    @cached_property
    def _lines(self) -> list[list[frozenset[PeerId]]]:
        """For every axis the members of every line."""
        cells = prod(self.record.dims)
        lines: list[list[frozenset[PeerId]]] = []
        for axis, side in enumerate(self.record.dims):
            members: list[list[PeerId]] = [[] for _ in range(cells // side)]
            for peer, cell in self.places.items():
                members[self._line_of(cell, axis)].append(peer)
            lines.append([frozenset(line) for line in members])
        return lines

    def _line_of(self, cell: int, axis: int) -> int:
        """The number of a cell's line along an axis: its coordinates without that one."""
        inner = prod(self.record.dims[axis + 1 :])
        return cell // (inner * self.record.dims[axis]) * inner + cell % inner


def _drawn_rank(epoch: int, peer: PeerId) -> bytes:
    """H(epoch ‖ peer id): who stands where, and who publishes."""
    return hashlib.sha256(f"{epoch}\x00{peer}".encode()).digest()


def publisher_order(epoch: int, peers: Sequence[PeerId]) -> list[PeerId]:
    """Who publishes the plan of an epoch, and who does if that one stays silent."""
    return sorted(peers, key=lambda peer: _drawn_rank(epoch, peer))
