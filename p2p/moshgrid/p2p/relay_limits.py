"""What a relay gives to others, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.p2p.connection_limits import HOME, Range

__all__ = ["RelayLimits"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Bounds of a relay. A source is an IPv4 address, or the /56 of an IPv6 one.

    Behind one address there may be many honest peers: 24 of them, each with a circuit to every other
    through one relay, fit into the defaults.
    """

    reservations: int = 128
    """In all; one for each peer."""
    reservations_per_source: int = 32
    reservation_seconds: int = 3600
    circuits: int = 1024
    """In all, those that are being made too."""
    circuits_per_peer: int = 32
    """Whichever end it is."""
    circuits_per_source: int = 512
    """A circuit with both ends at one source counts once."""
    circuit_bytes: int = 64 * MIB
    """In each direction of one circuit; 0 for no bound."""
    circuit_seconds: int = 600
    """0 for no bound."""
    peer_rate: float = 32.0 * MIB
    """Bytes a second, both directions together, of the circuits that one peer asked for; more has to wait."""
    source_rate: float = 128.0 * MIB
    """The same of all peers of one source."""
    requests_per_peer: int = 48
    """Requests of one peer at once that are not answered yet."""
    exempt: tuple[Range, ...] = HOME
    """Sources without limits of their own; the sums in all and those of each peer bind them too."""
