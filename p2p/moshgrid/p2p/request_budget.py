"""What one peer may ask of one service: so many at once, so many a second, over so many streams."""

from __future__ import annotations

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.token_bucket import TokenBucket

__all__ = ["Budget", "Budgets"]

_MAX_REMEMBERED = 4096


class Budget:
    """One peer's."""

    __slots__ = ("bucket", "running", "streams")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.bucket = TokenBucket(rate, burst, now)
        self.running = 0
        """Its queries in work."""
        self.streams = 0
        """Its streams of this service."""


class Budgets:
    """Everybody's. Those without a stream are forgotten in time, the longest unused first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._active: dict[PeerId, Budget] = {}
        self._idle: dict[PeerId, Budget] = {}

    def open(self, peer: PeerId, now: float) -> Budget:
        """The peer opened a stream; ``close`` must follow."""
        budget = self._active.get(peer) or self._idle.pop(peer, None) or Budget(self._rate, self._burst, now)
        self._active[peer] = budget
        budget.streams += 1
        return budget

    def close(self, peer: PeerId) -> None:
        """One of its streams is over."""
        budget = self._active[peer]
        budget.streams -= 1
        if budget.streams:
            return
        self._idle[peer] = self._active.pop(peer)
        if len(self._idle) > _MAX_REMEMBERED:
            del self._idle[next(iter(self._idle))]
