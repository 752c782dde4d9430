"""Kinds of IP addresses: those that mean something to one home only, and groups that one party may own."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["group_of", "inner_ip", "is_home", "is_loopback", "is_nowhere", "plain_ip"]

_HOME: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10", "fec0::/10"),
    )
)
"""Loopback, local networks, and what a provider shares among its customers (RFC 6598)."""


_TRANSLATED = ip_network("64:ff9b::/96")
"""IPv4 behind a translator (RFC 6052)."""


@lru_cache(maxsize=4096)
def plain_ip(text: str) -> IPv4Address | IPv6Address:
    """The address without its zone; an IPv4 one inside IPv6 as what it is. Raises ValueError."""
    ip = ip_address(text.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def is_home(text: str) -> bool:
    """True for what is dialled within one home, office or provider only. Raises ValueError."""
    ip = inner_ip(text)
    return any(ip in each for each in _HOME if each.version == ip.version)


def inner_ip(text: str) -> IPv4Address | IPv6Address:
    """The IPv4 address that packets to an IPv6 one would end at, where it is made of one; else the address
    itself. Raises ValueError."""
    ip = plain_ip(text)
    if isinstance(ip, IPv6Address):
        if ip in _TRANSLATED:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.sixtofour is not None:
            return ip.sixtofour
    return ip


def is_loopback(text: str) -> bool:
    """True for this computer. Raises ValueError."""
    return plain_ip(text).is_loopback


def is_nowhere(text: str) -> bool:
    """True where no peer can be: wildcards, multicast, what is reserved, links without a zone."""
    ip = inner_ip(text)
    return ip.is_unspecified or ip.is_multicast or ip.is_link_local or str(ip) == "255.255.255.255"


@lru_cache(maxsize=4096)
def group_of(text: str) -> str:
    """The /16 of an IPv4 address, the /32 of an IPv6 one: what one party may well own alone."""
    ip = plain_ip(text)
    return str(ip_network((ip, 16 if ip.version == 4 else 32), strict=False))
