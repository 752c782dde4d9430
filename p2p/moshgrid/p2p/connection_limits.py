"""How many connections strangers may hold, and whose turn it is to go: counting only, no sockets.

Every budget belongs to a source (an IPv4 address, or the /56 of an IPv6 one). Nothing that one source does
closes the door for the others: when all places are taken, the source that holds most of them loses its
oldest connection to the newcomer, unless the newcomer's source holds as many. Whoever broke the rules of a
connection is refused for a while: the peer at once, its source when that goes on.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from moshgrid.p2p.penalty_box import PenaltyBox
from moshgrid.p2p.token_bucket import TokenBucket

__all__ = ["HOME", "Admission", "ConnectionLimits", "Guest", "Refusal", "source_of"]

_MAX_SOURCES = 8192
_SITE = 8
"""A site, the /48 of an IPv6 address, has as much as so many sources."""

Range = IPv4Network | IPv6Network

HOME: tuple[Range, ...] = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
"""Loopback and local networks: nobody there is a crowd of strangers."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds on connections that others make to us; the defaults suit a public peer.

    Behind one address there may be many honest peers: 24 volunteers of one household or university work.
    """

    unauthenticated_per_source: int = 16
    """Connections of one source that have not proved who they are."""
    authenticated_per_source: int = 64
    """Connections of one source that have."""
    arrivals_per_second: float = 20.0
    """New connections of one source in the long run: each may cost us a handshake's arithmetic."""
    arrival_burst: float = 128.0
    """How many may come at once after a pause."""
    per_peer: int = 8
    """Connections with one peer, whoever dialled; another one ends the oldest."""
    transient: int = 512
    """Unauthenticated connections in all."""
    total: int = 1024
    """Authenticated connections in all that others made."""
    handshake_seconds: float = 10.0
    """From a connection's first moment until it is secured and multiplexed."""
    idle_seconds: float = 60.0
    """How long a connection that another made may be without a stream; those of exempt sources for ever."""
    peer_penalty_seconds: tuple[float, float] = (1.0, 600.0)
    """How long a peer that broke the rules is refused: the first time, and at most."""
    source_penalty_seconds: tuple[float, float] = (1.0, 16.0)
    """The same for a source, from the third time on; at most so short, because others may live there too."""
    exempt: tuple[Range, ...] = HOME
    """Sources without limits of their own; the sums in all bind them too."""
    streams_per_peer: int = 1024
    """Streams that one peer may have open here, over all its connections."""
    negotiation_seconds: float = 10.0
    """From a stream's first moment until its protocol is agreed on."""
    orphan_seconds: float = 30.0
    """How long a stream's handler may go on after the connection is lost; then it is cancelled."""

    def fitted(self, descriptors: int) -> ConnectionLimits:
        """The same within what a process with so many file descriptors can hold: three quarters of them."""
        return ConnectionLimits(
            **{
                **{name: getattr(self, name) for name in self.__slots__},
                "transient": max(8, min(self.transient, descriptors // 4)),
                "total": max(16, min(self.total, descriptors // 2)),
            }
        )


class Refusal(Enum):
    """Why a connection was closed unheard."""

    TOO_OFTEN = "this address connects too often"
    UNAUTHENTICATED = "too many connections of this address have not said who they are"
    AUTHENTICATED = "too many connections from this address"
    FULL = "all places are taken"
    BARRED = "it broke the rules not long ago"


def source_of(address: str) -> str:
    """Whose budget a connection from ``address`` is charged to."""
    ip = ip_address(address.partition("%")[0])
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip_network((ip, 56), strict=False))


def site_of(source: str) -> str | None:
    """The site, a /48, of an IPv6 source; None for an IPv4 one."""
    return str(IPv6Network(source).supernet(new_prefix=48)) if "/" in source else None


class Guest:
    """One connection that somebody made to us, until it has left."""

    __slots__ = ("crowd", "dismiss", "exempt", "site", "source")

    def __init__(self, source: str, exempt: bool, dismiss: Callable[[], None]) -> None:
        self.source = source
        self.site = site_of(source)
        self.exempt = exempt
        self.dismiss = dismiss
        self.crowd: _Crowd | None = None


class Admission:
    """Says who may come in and who may stay."""

    def __init__(self, limits: ConnectionLimits, *, members_only: bool = False) -> None:
        self.limits = limits
        self.refused = dict.fromkeys(Refusal, 0)
        """How many were, since the start."""
        self._members_only = members_only
        self._rates: OrderedDict[str, TokenBucket] = OrderedDict()
        self._bad_peers = PenaltyBox(0, *limits.peer_penalty_seconds)
        self._bad_sources = PenaltyBox(2, *limits.source_penalty_seconds)
        self._strangers = _Crowd(limits.unauthenticated_per_source, limits.transient)
        self._known = _Crowd(limits.authenticated_per_source, limits.total)

    @property
    def unauthenticated(self) -> int:
        """Connections now that have not said who they are."""
        return self._strangers.size

    @property
    def authenticated(self) -> int:
        """Connections now of peers that have."""
        return self._known.size

    def arrived(self, address: str, dismiss: Callable[[], None], now: float) -> Guest | Refusal:
        """Somebody connected. ``dismiss`` is called when the place is needed for another."""
        ip = ip_address(address.partition("%")[0])
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        exempt = any(ip in home for home in self.limits.exempt if home.version == ip.version)
        guest = Guest(source_of(address), exempt, dismiss)
        if not exempt:
            if self._bad_sources.holds(guest.source, now):
                return self._refuse(Refusal.BARRED)
            rates = [self._rate_of(guest.source, 1, now)]
            if guest.site is not None:
                rates.append(self._rate_of(guest.site, _SITE, now))
            if not all(rate.take(now) for rate in rates):
                return self._refuse(Refusal.TOO_OFTEN)
        return self._seat(guest, self._strangers, Refusal.UNAUTHENTICATED) or guest

    def _refuse(self, refusal: Refusal) -> Refusal:
        self.refused[refusal] += 1
        return refusal

    def _rate_of(self, source: str, shares: int, now: float) -> TokenBucket:
        if (bucket := self._rates.pop(source, None)) is None:
            rate, burst = self.limits.arrivals_per_second, self.limits.arrival_burst
            bucket = TokenBucket(shares * rate, shares * burst, now)
        self._rates[source] = bucket
        if len(self._rates) > _MAX_SOURCES:
            self._rates.popitem(last=False)
        return bucket

    def authenticate(self, guest: Guest, peer: str, now: float) -> Refusal | None:
        """The guest proved to be ``peer``; None when it may stay: a private network's member always may."""
        self.left(guest)
        guest.exempt = guest.exempt or self._members_only
        if not guest.exempt and self._bad_peers.holds(peer, now):
            return self._refuse(Refusal.BARRED)
        return self._seat(guest, self._known, Refusal.AUTHENTICATED)

    def offended(self, guest: Guest, peer: str, now: float) -> None:
        """The guest broke the rules of its connection, which is over."""
        if not guest.exempt:
            self._bad_peers.offended(peer, now)
            self._bad_sources.offended(guest.source, now)

    def left(self, guest: Guest) -> None:
        """The connection is over; to say so again does nothing."""
        if guest.crowd is not None:
            guest.crowd.remove(guest)

    def make_room(self) -> None:
        """Dismisses one that has not said who it is: the process has no descriptors left."""
        if (oldest := self._strangers.oldest()) is not None:
            self._dismiss(oldest)

    def _seat(self, guest: Guest, crowd: _Crowd, crowded: Refusal) -> Refusal | None:
        refusal = None
        if not guest.exempt and crowd.is_full_for(guest):
            refusal = crowded
        elif crowd.size >= crowd.places:
            oldest = crowd.oldest()
            if oldest is None or (
                not guest.exempt and crowd.count(oldest.source) <= crowd.count(guest.source)
            ):
                refusal = Refusal.FULL
            else:
                self._dismiss(oldest)
        if refusal is not None:
            return self._refuse(refusal)
        crowd.add(guest)
        return None

    def _dismiss(self, guest: Guest) -> None:
        self.left(guest)
        guest.dismiss()


class _Crowd:
    """Guests by source, and sources by how many guests they have, so that the largest is found at once."""

    def __init__(self, per_source: int, places: int) -> None:
        self.per_source = per_source
        self.places = places
        self.size = 0
        self._guests: dict[str, dict[Guest, None]] = {}
        self._levels: dict[int, dict[str, None]] = {}
        self._sites: Counter[str] = Counter()

    def is_full_for(self, guest: Guest) -> bool:
        """True when its source, or its site, has what it may."""
        at_site = self._sites[guest.site] if guest.site is not None else 0
        return self.count(guest.source) >= self.per_source or at_site >= _SITE * self.per_source

    def count(self, source: str) -> int:
        return len(self._guests.get(source, ()))

    def add(self, guest: Guest) -> None:
        guest.crowd = self
        self.size += 1
        if not guest.exempt:
            self._guests.setdefault(guest.source, {})[guest] = None
            self._moved(guest.source, +1)
            if guest.site is not None:
                self._sites[guest.site] += 1

    def remove(self, guest: Guest) -> None:
        guest.crowd = None
        self.size -= 1
        if guest.exempt:
            return
        del self._guests[guest.source][guest]
        self._moved(guest.source, -1)
        if not self._guests[guest.source]:
            del self._guests[guest.source]
        if guest.site is not None:
            self._sites[guest.site] -= 1
            if not self._sites[guest.site]:
                del self._sites[guest.site]

    def oldest(self) -> Guest | None:
        """The oldest guest of the source that has most; None when all guests are exempt."""
        if not self._levels:
            return None
        source = next(iter(self._levels[max(self._levels)]))
        return next(iter(self._guests[source]))

    def _moved(self, source: str, step: int) -> None:
        now = self.count(source)
        if now - step:
            level = self._levels[now - step]
            del level[source]
            if not level:
                del self._levels[now - step]
        if now:
            self._levels.setdefault(now, {})[source] = None
