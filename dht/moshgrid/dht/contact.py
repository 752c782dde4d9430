"""A contact: one peer of the routing table, and how it was heard of."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.dht.diversity import Place
from moshgrid.p2p.identity import PeerId

__all__ = ["Contact", "Contacts"]


@dataclass(slots=True)
class Contact:
    """Times are seconds."""

    peer: PeerId
    point: int
    answered_at: float
    place: Place | None = None
    failures: int = 0
    """Since it answered last; while there are any it is a suspect."""
    failed_at: float = 0.0


Contacts = dict[PeerId, Contact]
"""By who they are."""
