"""What a peer knows of the relay under one of its connections, and what the relay is good for."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relay_messages import CircuitLimit

__all__ = ["CircuitInfo"]

_ENOUGH_BYTES = 32 << 20
_ENOUGH_SECONDS = 300


@dataclass(frozen=True, slots=True)
class CircuitInfo:
    """What is known of the relay under a connection."""

    relay: PeerId
    limit: CircuitLimit | None
    """What the relay said that the circuit may carry; None for no bound."""

    @property
    def carries_tensors(self) -> bool:
        """True when at least 32 MiB may pass in each direction, over at least five minutes.

        The relays of this package allow that by default. Public ones of other networks allow signalling,
        which is what they are for.
        """
        if self.limit is None:
            return True
        return (self.limit.bytes or _ENOUGH_BYTES) >= _ENOUGH_BYTES and (
            self.limit.seconds or _ENOUGH_SECONDS
        ) >= _ENOUGH_SECONDS
