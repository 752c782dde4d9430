"""Nearness: the order in which buckets, and the peers of one, lie from any point."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["nearest_first", "sort_by_distance"]


def nearest_first(gap: int, buckets: Iterable[int]) -> list[int]:
    """The buckets of a table in the order of their distance from a point that is ``gap`` away from its owner.

    All of one bucket are nearer to the point than all of the next: their distances differ from the owner's
    in the bucket's bit and in lower ones only. So nearer than the owner are those at whose bit it differs
    from the point, the widest first; the others follow, the widest last.
    """
    ascending = sorted(buckets)
    nearer = [at for at in reversed(ascending) if gap >> (at - 1) & 1]
    return nearer + [at for at in ascending if not gap >> (at - 1) & 1]


def sort_by_distance(points: Iterable[int], point: int) -> list[int]:
    """``points``, the nearest to ``point`` first."""
    return sorted(points, key=point.__xor__)
