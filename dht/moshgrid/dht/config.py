"""What can be chosen about a DHT node when it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from moshgrid.dht.limits import Limits
from moshgrid.p2p.errors import ConfigurationError

__all__ = ["DHTConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DHTConfig:
    """The options of a DHT node. Raises ConfigurationError."""

    limits: Limits = field(default_factory=Limits)
    """How much others may make this node hold."""
    client: bool = False
    """Asks others and holds nothing for them: for short calls, and for who cannot be dialled."""
    peers_file: str | os.PathLike[str] | None = None
    """Where good peers are remembered, so that a restart needs no bootstrap peer."""
    exempt_local: bool = True
    """Loopback and private addresses are outside the caps on how many peers one address block may have."""

    def __post_init__(self) -> None:
        if not isinstance(self.limits, Limits):
            raise ConfigurationError(f"limits= takes a moshgrid.dht.Limits, not {self.limits!r}")
        if self.peers_file is not None and not isinstance(self.peers_file, str | os.PathLike):
            raise ConfigurationError(f"peers_file= takes a path, not {self.peers_file!r}")
