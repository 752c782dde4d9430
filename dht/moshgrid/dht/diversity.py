"""Diversity: how much of a table, a shortlist or a set of storers one address block may fill.

Identities cost nothing and can be made to lie next to any key; addresses cost something. So where there
are more peers than places, few of them may come from one block (2 of a /24, 3 of a /16; for IPv6 /48
and /32). Where places are free nobody is turned away: many honest volunteers sit behind one address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from moshgrid.p2p.identity import PeerId

__all__ = [
    "TABLE_PER_BLOCK",
    "Crowd",
    "Place",
    "Placing",
    "crowded",
    "diverse",
    "place_of",
    "placing_by",
]

_PER_BLOCK = 2
_PER_RANGE = 3
TABLE_PER_BLOCK = 10

Place = tuple[str, str]
"""The block (/24) and the range (/16) of an address."""

Placing = Callable[[PeerId], Place | None]
"""Where a peer is; None exempts it."""

Item = TypeVar("Item")


@lru_cache(maxsize=16_384)
def place_of(addr: str, exempt_local: bool = True) -> Place | None:
    """The place of a multiaddr; None when it has none, and for loopback and LAN when those are exempt.

    All that are known by a host name count as one place, as names cost as little as identities.
    """
    _, kind, host, *_ = [*addr.split("/"), "", ""]
    if kind.startswith("dns"):
        return ("names", "names")
    if kind not in ("ip4", "ip6"):
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if exempt_local and (address.is_loopback or address.is_private or address.is_link_local):
        return None
    block, wide = (24, 16) if address.version == 4 else (48, 32)
    return _network(address, block), _network(address, wide)


def placing_by(addrs_of: Callable[[PeerId], Sequence[str]], exempt_local: bool) -> Placing:
    """Places peers by the first of their known addresses: the one they were last reached at."""

    def placing(peer: PeerId) -> Place | None:
        addrs = addrs_of(peer)
        return place_of(addrs[0], exempt_local) if addrs else None

    return placing


def _network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> str:
    return str(ipaddress.ip_network((address, bits), strict=False))


class Crowd:
    """Counts peers by place."""

    def __init__(self, per_block: int = _PER_BLOCK, per_range: int = _PER_RANGE) -> None:
        self._per_block = per_block
        self._per_range = per_range
        self._blocks: dict[str, int] = {}
        self._ranges: dict[str, int] = {}

    def admit(self, place: Place | None) -> bool:
        """Counts one more of ``place`` unless its block or range is full; True when it was counted."""
        if place is None:
            return True
        block, wide = place
        of_block, of_range = self._blocks.get(block, 0), self._ranges.get(wide, 0)
        if of_block >= self._per_block or of_range >= self._per_range:
            return False
        self._blocks[block] = of_block + 1
        self._ranges[wide] = of_range + 1
        return True


def diverse(items: Iterable[tuple[Place | None, Item]], count: int) -> list[Item]:
    """The first ``count`` items within the caps; when there are fewer, the first of the others too.

    The order of the items is kept.
    """
    crowd, taken, passed = Crowd(), list[tuple[int, Item]](), list[tuple[int, Item]]()
    for at, (place, item) in enumerate(items):
        if len(taken) == count:
            break
        (taken if crowd.admit(place) else passed).append((at, item))
    if len(taken) < count and passed:
        taken += passed[: count - len(taken)]
        taken.sort(key=lambda each: each[0])
    return [item for _, item in taken]


def crowded(places: Sequence[tuple[Place | None, Item]]) -> Iterator[Item]:
    """The items over the caps, the last first; those that came first keep their places."""
    crowd = Crowd()
    over = [item for place, item in places if not crowd.admit(place)]
    return reversed(over)
