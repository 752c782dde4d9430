"""Who can reach whom on an in-memory network: address translation by type, hole punching, relays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from moshgrid.p2p.identity import PeerId

__all__ = ["Nat", "Reachability"]

Nat = Literal["open", "cone", "port-restricted", "symmetric"]


@dataclass
class Reachability:
    """What lies between the peers of a switch; as it is made, everybody is open to everybody."""

    nat: dict[PeerId, Nat] = field(default_factory=dict)
    """Peers at home, by the type of their router's address translation; whoever is missing is open."""
    relays: bool = True
    """Whether a dial to a peer at home ends in a relayed connection; else it fails."""
    relay_bytes: int = 128 * 1024
    """What a relayed connection carries in both directions together before it breaks."""
    punch_seconds: float = 0.5
    """How long a punch takes, whether it succeeds or not."""
    unpunchable: set[frozenset[PeerId]] = field(default_factory=set)
    """Pairs whose punch fails although their types would allow it."""
    endless: set[frozenset[PeerId]] = field(default_factory=set)
    """Pairs whose punch never ends."""

    def is_home(self, peer: PeerId) -> bool:
        """True for a peer that strangers cannot dial."""
        return self.nat.get(peer, "open") != "open"

    def can_punch(self, one: PeerId, other: PeerId) -> bool:
        """Whether the two get a direct connection when both try at once."""
        if frozenset((one, other)) in self.unpunchable:
            return False
        kinds = {self.nat.get(one, "open"), self.nat.get(other, "open")}
        if kinds & {"open", "cone"}:
            return True
        return kinds == {"port-restricted"}
