"""Fractions: how much of the vector each reducer owns, so that the slowest link finishes soonest.

Water-filling, the closed form of the load-balancing linear programme: a reducer with share w moves
1 + (n − 2)·w vector lengths each way; the largest (1 + (n − 2)·wᵢ)/bᵢ is minimal.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fair_fractions", "part_counts", "water_filling"]

_CLAIM_LIMIT = 4.0
"""A claimed bandwidth counts for at most this many times the median claim, and so does the share."""
_HALVINGS = 30


def fair_fractions(claims: Sequence[float | None]) -> list[float]:
    """Shares that sum to 1 for what members say of their bandwidth (any unit).

    0: not known, counts as the median; None: does not reduce. Nobody can claim more than 4 × the share of
    the member with the median claim. Raises ValueError when nobody can reduce.
    """
    known = sorted(claim for claim in claims if claim)
    usual = known[len(known) // 2] if known else 1.0
    bandwidths = [0.0 if claim is None else claim or usual for claim in claims]
    if usual not in bandwidths:
        raise ValueError("nobody in the group can reduce")
    usual_member = bandwidths.index(usual)
    fair, ceiling = usual, _CLAIM_LIMIT * usual
    shares = _clamped(bandwidths, ceiling)
    if max(shares) <= _CLAIM_LIMIT * shares[usual_member]:
        return shares
    for _ in range(_HALVINGS):
        middle = (fair + ceiling) / 2
        shares = _clamped(bandwidths, middle)
        if max(shares) <= _CLAIM_LIMIT * shares[usual_member]:
            fair = middle
        else:
            ceiling = middle
    return _clamped(bandwidths, fair)


def _clamped(bandwidths: Sequence[float], ceiling: float) -> list[float]:
    return water_filling([min(bandwidth, ceiling) for bandwidth in bandwidths])


def water_filling(bandwidths: Sequence[float]) -> list[float]:
    """Shares that sum to 1 for the given bandwidths (any unit; 0 for who cannot reduce).

    Raises ValueError when nobody can reduce.
    """
    active = sorted((b for b in bandwidths if b > 0), reverse=True)
    if not active:
        raise ValueError("nobody in the group can reduce")
    n = len(bandwidths)
    if n <= 2:
        total = sum(bandwidths)
        return [b / total for b in bandwidths]
    level = 0.0
    for k in range(len(active), 0, -1):
        level = (n - 2 + k) / sum(active[:k])
        if level * active[k - 1] >= 1:
            break
    shares = [max(0.0, (level * b - 1) / (n - 2)) if b > 0 else 0.0 for b in bandwidths]
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
