"""A relay's decisions: who holds a reservation, which circuits there are, and what each may still carry.

Counting only: no sockets, no clock. What was used comes back when it is over: every count returns to zero.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import TypeVar

from moshgrid.p2p.connection_limits import source_of
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_messages import RelayStatus
from moshgrid.p2p.token_bucket import TokenBucket

__all__ = ["Circuit", "RelayTable"]

_MAX_BUCKETS = 4096
_BURST_SECONDS = 2.0


class Circuit:
    """One connection that is passed on, until it has ended."""

    __slots__ = ("deadline", "ends", "left", "live", "moved", "sources", "unlimited")

    def __init__(
        self, ends: tuple[PeerId, PeerId], sources: tuple[str | None, str | None], now: float, of: RelayLimits
    ) -> None:
        self.ends = ends
        """Who asked for it, and whom it reaches."""
        self.sources = sources
        """Where they are; None for what is exempt."""
        self.deadline = now + of.circuit_seconds if of.circuit_seconds else float("inf")
        self.unlimited = not of.circuit_bytes
        self.left = [of.circuit_bytes, of.circuit_bytes]
        """Bytes that may still go towards the target, and back."""
        self.moved = [0, 0]
        self.live = True


class RelayTable:
    """Says yes or no, and keeps the accounts."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self.refused: Counter[RelayStatus] = Counter()
        """How many requests were, since the start."""
        self.bytes_relayed = 0
        """Since the start, each byte once."""
        self._reserved: OrderedDict[PeerId, tuple[float, str | None]] = OrderedDict()
        """When each expires, in this order, and the source that it counts for."""
        self._by_source: Counter[str] = Counter()
        self._circuits: set[Circuit] = set()
        self._of_peer: Counter[PeerId] = Counter()
        self._of_source: Counter[str] = Counter()
        self._buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()

    @property
    def reservations(self) -> int:
        """How many are held; expired ones are gone when somebody asks next."""
        return len(self._reserved)

    @property
    def circuits(self) -> int:
        """How many there are."""
        return len(self._circuits)

    @property
    def counts(self) -> dict[str, int]:
        """Everything that is counted now; all of it is 0 when nothing is in use."""
        return {
            "reservations": len(self._reserved),
            "sources of reservations": len(self._by_source),
            "circuits": len(self._circuits),
            "peers of circuits": len(self._of_peer),
            "sources of circuits": len(self._of_source),
        }

    def holds(self, peer: PeerId, now: float) -> bool:
        """True while ``peer`` has a reservation."""
        self._expire(now)
        return peer in self._reserved

    def reserve(self, peer: PeerId, address: str, now: float) -> RelayStatus:
        """OK, and it holds for ``limits.reservation_seconds`` from now; again to renew it."""
        self._expire(now)
        source = self._counted(address)
        held = self._reserved.get(peer)
        if held is None and len(self._reserved) >= self.limits.reservations:
            return self._refuse(RelayStatus.RESERVATION_REFUSED)
        moves = held is None or held[1] != source
        if moves and source is not None and self._by_source[source] >= self.limits.reservations_per_source:
            return self._refuse(RelayStatus.RESERVATION_REFUSED)
        self.release(peer)
        self._reserved[peer] = now + self.limits.reservation_seconds, source
        if source is not None:
            self._by_source[source] += 1
        return RelayStatus.OK

    def release(self, peer: PeerId) -> None:
        """The peer is gone; to say so again does nothing."""
        held = self._reserved.pop(peer, None)
        if held is not None and held[1] is not None:
            _less(self._by_source, held[1])

    def connect(
        self, source: PeerId, target: PeerId, addresses: tuple[str, str], now: float
    ) -> Circuit | RelayStatus:
        """A circuit between two peers at ``addresses``, whose ``end`` must follow; or why there is none."""
        self._expire(now)
        limits = self.limits
        if source == target:
            return self._refuse(RelayStatus.PERMISSION_DENIED)
        if target not in self._reserved:
            return self._refuse(RelayStatus.NO_RESERVATION)
        sources = self._counted(addresses[0]), self._counted(addresses[1])
        if (
            len(self._circuits) >= limits.circuits
            or any(self._of_peer[peer] >= limits.circuits_per_peer for peer in (source, target))
            or any(self._of_source[each] >= limits.circuits_per_source for each in _distinct(sources))
        ):
            return self._refuse(RelayStatus.RESOURCE_LIMIT_EXCEEDED)
        circuit = Circuit((source, target), sources, now, limits)
        self._circuits.add(circuit)
        self._of_peer.update(circuit.ends)
        self._of_source.update(_distinct(sources))
        return circuit

    def started(self, circuit: Circuit, now: float) -> None:
        """The target accepted: its time runs from now."""
        if self.limits.circuit_seconds:
            circuit.deadline = now + self.limits.circuit_seconds

    def spend(self, circuit: Circuit, direction: int, count: int, now: float) -> float:
        """``count`` bytes (at most what is left) pass on; returns the seconds to wait before they do."""
        if not circuit.unlimited:
            circuit.left[direction] -= count
        circuit.moved[direction] += count
        self.bytes_relayed += count
        waits = [self._bucket("peer", circuit.ends[0], self.limits.peer_rate, now).reserve(now, count)]
        if (source := circuit.sources[0]) is not None:
            bucket = self._bucket("source", source, self.limits.source_rate, now)
            waits.append(bucket.reserve(now, count))
        return max(waits)

    def end(self, circuit: Circuit) -> None:
        """The circuit is over; to say so again does nothing."""
        if not circuit.live:
            return
        circuit.live = False
        self._circuits.discard(circuit)
        for peer in circuit.ends:
            _less(self._of_peer, peer)
        for source in _distinct(circuit.sources):
            _less(self._of_source, source)

    def _refuse(self, status: RelayStatus) -> RelayStatus:
        self.refused[status] += 1
        return status

    def _expire(self, now: float) -> None:
        while self._reserved:
            peer, (expires, _) = next(iter(self._reserved.items()))
            if expires > now:
                return
            self.release(peer)

    def _counted(self, address: str) -> str | None:
        """The source that an address counts for; None when it is exempt."""
        ip = ip_address(address.partition("%")[0])
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip in each for each in self.limits.exempt if each.version == ip.version):
            return None
        return source_of(address)

    def _bucket(self, kind: str, name: str, rate: float, now: float) -> TokenBucket:
        bucket = self._buckets.pop((kind, name), None) or TokenBucket(rate, rate * _BURST_SECONDS, now)
        self._buckets[kind, name] = bucket
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket


def _distinct(sources: tuple[str | None, str | None]) -> set[str]:
    return {source for source in sources if source is not None}


Key = TypeVar("Key", bound=str)


def _less(counter: Counter[Key], key: Key) -> None:
    """One less, and no trace when that was the last."""
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
