"""This computer's own addresses and the networks that they are in, as the system says now."""

from __future__ import annotations

import socket
import time
from ipaddress import IPv4Network, IPv6Network, ip_network

import psutil

from moshgrid.p2p.ip_ranges import is_home, plain_ip

__all__ = ["Interfaces"]

_SHARED = ip_network("100.64.0.0/10")
_SECONDS = 5.0


class Interfaces:
    """Asked at most every five seconds."""

    def __init__(self) -> None:
        self._looked: float | None = None
        self._hosts: frozenset[str] = frozenset()
        self._networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def hosts(self) -> frozenset[str]:
        """IP addresses of this computer, loopback too."""
        self._look()
        return self._hosts

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks that the interfaces are in, by their masks."""
        self._look()
        return self._networks

    @staticmethod
    def lead_to(host: str) -> bool:
        """True when packets to the IP address ``host`` could be sent, and answers come back; none is sent.

        Over IPv6 that takes an address of this computer that means something outside.
        """
        six = plain_ip(host).version == 6
        try:
            with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect((host, 9))
                return not (six and not is_home(host) and is_home(str(sock.getsockname()[0])))
        except OSError:
            return False

    def look_again(self) -> None:
        """They have changed."""
        self._looked = None

    def _look(self) -> None:
        now = time.monotonic()
        if self._looked is not None and now - self._looked < _SECONDS:
            return
        self._looked = now
        hosts, networks = set[str](), list[IPv4Network | IPv6Network]()
        for addresses in psutil.net_if_addrs().values():
            for each in addresses:
                if each.family not in (socket.AF_INET, socket.AF_INET6) or not each.netmask:
                    continue
                ip = plain_ip(each.address)
                hosts.add(str(ip))
                bits = bin(int(plain_ip(each.netmask))).count("1")
                # Whoever shares what a provider or a virtual network hands out is one network, whatever
                # the mask says.
                networks.append(_SHARED if ip in _SHARED else ip_network((ip, bits), strict=False))
        self._hosts, self._networks = frozenset(hosts), tuple(networks)
