"""In which order to try a peer's addresses: direct, near, TCP first; then relayed, far, WebSocket ones."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from itertools import chain, zip_longest

from moshgrid.p2p.addresses import relay_of

__all__ = ["dial_order"]


def dial_order(addrs: Sequence[str]) -> list[str]:
    """Multiaddrs sorted: this computer, its networks, the rest; in each TCP first, IPv6 and IPv4 by turns.

    A WebSocket costs more, and is there for networks that let nothing else out. Relayed addresses come
    last: they take another peer's time. Among equals the given order stays, which is that of the last
    success.
    """
    ordered: list[str] = []
    ranks = {addr: (relay_of(addr) is not None, _distance(addr), _is_web(addr)) for addr in addrs}
    for rank in sorted(set(ranks.values())):
        alike = [addr for addr in ranks if ranks[addr] == rank]
        six = [addr for addr in alike if addr.startswith(("/ip6/", "/dns6/"))]
        other = [addr for addr in alike if addr not in six]
        pairs = zip_longest(six, other)
        ordered += [addr for addr in chain.from_iterable(pairs) if addr is not None]
    return ordered


def _is_web(addr: str) -> bool:
    return (relay_of(addr) or addr).rpartition("/p2p/")[0].endswith(("/ws", "/wss"))


def _distance(addr: str) -> int:
    _, kind, host, *_ = addr.split("/")
    if not kind.startswith("ip"):
        return 0 if host == "localhost" else 2
    ip = ip_address(host)
    return 0 if ip.is_loopback else 1 if ip.is_private else 2
