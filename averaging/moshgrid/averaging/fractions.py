"""Fractions: how much of the vector each reducer owns, so that the slowest link finishes soonest.

Water-filling, the closed form of the load-balancing linear programme: a reducer with share w moves
1 + (n − 2)·w vector lengths each way; the largest (1 + (n − 2)·wᵢ)/bᵢ is minimal.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["part_counts", "water_filling"]

_CLAIM_LIMIT = 4.0
"""A claimed bandwidth counts for at most this many times the median claim."""


def water_filling(bandwidths: Sequence[float]) -> list[float]:
    """Shares that sum to 1 for the given bandwidths (any unit; 0 for who cannot reduce).

    Raises ValueError when nobody can reduce.
    """
    active = sorted(b for b in bandwidths if b > 0)
    if not active:
        raise ValueError("nobody in the group can reduce")
    ceiling = _CLAIM_LIMIT * active[len(active) // 2]
    clamped = [min(b, ceiling) for b in bandwidths]
    n = len(bandwidths)
    if n <= 2:
        total = sum(clamped)
        return [b / total for b in clamped]
    descending = sorted((b for b in clamped if b > 0), reverse=True)
    level = 0.0
    for k in range(len(descending), 0, -1):
        level = (n - 2 + k) / sum(descending[:k])
        if level * descending[k - 1] >= 1:
            break
    shares = [max(0.0, (level * b - 1) / (n - 2)) if b > 0 else 0.0 for b in clamped]
    total = sum(shares)
    return [share / total for share in shares]


def part_counts(fractions: Sequence[float], parts: int) -> list[int]:
    """``parts`` whole parts divided in proportion to ``fractions``, by largest remainder.

    Ties go to the earlier member; the counts sum to ``parts``.
    """
    exact = [fraction * parts for fraction in fractions]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: parts - sum(counts)]:
        counts[index] += 1
    return counts
