"""Rates: how often one peer may write here, and how many signatures are checked for strangers in all.

Token buckets; time is an argument, in seconds on any clock. A clock that steps back refills nothing.
"""

from __future__ import annotations

from moshgrid.dht.limits import Limits
from moshgrid.p2p.identity import PeerId

__all__ = ["Bucket", "Rates"]

_MAX_PEERS = 4096


class Bucket:
    """Holds up to ``burst`` tokens and gains ``rate`` of them a second."""

    __slots__ = ("_burst", "_rate", "_seen", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._seen = now

    def take(self, now: float) -> bool:
        """Takes one token if there is one."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._seen) * self._rate)
        self._seen = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Rates:
    """The buckets of one node. Whoever is forgotten, because others came, starts with a full one."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._puts: dict[PeerId, Bucket] = {}
        self._bad: dict[PeerId, Bucket] = {}
        self._cut: dict[PeerId, float] = {}
        self._signatures: Bucket | None = None

    def may_put(self, peer: PeerId, now: float) -> bool:
        """Counts one put or push of ``peer``; False when it is one too many."""
        if (until := self._cut.get(peer)) is not None:
            if now < until:
                return False
            del self._cut[peer]
        return self._bucket(
            self._puts, peer, self._limits.puts_per_second, self._limits.puts_at_once, now
        ).take(now)

    def may_verify(self, now: float) -> bool:
        """Counts one signature to be checked; False when this second's are used up."""
        rate = self._limits.signatures_per_second
        if self._signatures is None:
            self._signatures = Bucket(rate, 2 * rate, now)
        return self._signatures.take(now)

    def bad_signature(self, peer: PeerId, now: float) -> None:
        """``peer`` sent a signature that does not verify; too many and it is not listened to for a while."""
        most = self._limits.bad_signatures_per_minute
        if not self._bucket(self._bad, peer, most / 60, most, now).take(now):
            self._cut[peer] = now + 60.0
            _bound(self._cut)

    @staticmethod
    def _bucket(buckets: dict[PeerId, Bucket], peer: PeerId, rate: float, burst: float, now: float) -> Bucket:
        bucket = buckets.pop(peer, None) or Bucket(rate, burst, now)
        buckets[peer] = bucket  # last: most recently used
        _bound(buckets)
        return bucket


def _bound(known: dict[PeerId, Bucket] | dict[PeerId, float]) -> None:
    while len(known) > _MAX_PEERS:
        del known[next(iter(known))]
