"""What a peer knows of the relay under one of its connections, and what the relay is good for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relay_messages import CircuitLimit

__all__ = ["CircuitInfo", "Meter"]

_ENOUGH_BYTES = 32 << 20
_ENOUGH_SECONDS = 300


class Meter:
    """Counts what passes through a circuit, as its relay does."""

    def __init__(self) -> None:
        self._moved = [0, 0]
        self._mark = 0
        self._reached: Callable[[], None] = lambda: None

    def sent(self, count: int) -> None:
        """So many bytes more."""
        self._count(0, count)

    def received(self, count: int) -> None:
        """So many bytes more."""
        self._count(1, count)

    def call_at(self, mark: int, reached: Callable[[], None]) -> None:
        """Calls ``reached`` once when ``mark`` bytes have passed in one direction; 0 is never."""
        self._mark, self._reached = mark, reached
        self._count(0, 0)

    def _count(self, direction: int, count: int) -> None:
        self._moved[direction] += count
        if 0 < self._mark <= max(self._moved):
            self._mark = 0
            self._reached()


@dataclass(frozen=True, slots=True)
class CircuitInfo:
    """What is known of the relay under a connection."""

    relay: PeerId
    limit: CircuitLimit | None
    """What the relay said that the circuit may carry; None for no bound."""
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

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
