"""What is expected between two types of NAT over TCP: a direct connection, or a relay only."""

from __future__ import annotations

from routers import Nat

# To a mapping of its own for every destination, nobody can open a port that is not known yet.
PORT_FILTERING = frozenset({Nat.PORT_RESTRICTED, Nat.UDP_BLOCKED, Nat.DOUBLE, Nat.SYMMETRIC})

LETS_IN = frozenset({Nat.OPEN, Nat.FULL_CONE})
"""These let a stranger in at a port that was called from."""

_TYPES = tuple(Nat)
PAIRS: tuple[tuple[Nat, Nat], ...] = tuple(
    (one, _TYPES[(place + turn) % len(_TYPES)])
    for turn in range(len(_TYPES))
    for place, one in enumerate(_TYPES)
)
"""All ordered pairs. Among as many in a row as there are types, each type is once on either side."""


def direct_over_tcp(one: Nat, other: Nat) -> bool:
    """Whether a pair can have a direct TCP connection."""
    return not (
        (one is Nat.SYMMETRIC and other in PORT_FILTERING)
        or (other is Nat.SYMMETRIC and one in PORT_FILTERING)
    )
