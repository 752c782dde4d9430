"""In which order to try a peer's addresses: near before far, and neither IP version behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest

__all__ = ["dial_order"]


def dial_order(addrs: Sequence[str]) -> list[str]:
    """Multiaddrs sorted: this computer, its networks, the rest; in each IPv6 and IPv4 by turns.

    Among equals the given order stays, which is that of the last success.
    """
    ordered: list[str] = []
    for distance in range(3):
        near = [addr for addr in dict.fromkeys(addrs) if _distance(addr) == distance]
        six = [addr for addr in near if addr.startswith(("/ip6/", "/dns6/"))]
        other = [addr for addr in near if addr not in six]
        pairs = zip_longest(six, other)
        ordered += [addr for addr in chain.from_iterable(pairs) if addr is not None]
    return ordered


def _distance(addr: str) -> int:
    _, kind, host, *_ = addr.split("/")
    if not kind.startswith("ip"):
        return 0 if host == "localhost" else 2
    ip = ip_address(host)
    return 0 if ip.is_loopback else 1 if ip.is_private else 2
