"""IPv6 in the lab: public hosts and homes get addresses of the world, homes behind a firewall or without.

    connect_host(lab, relay.host, group=0)
    connect_home(lab, home, group=2, router=Six.FIREWALL)

One /32 for each `group`. The lab is without IPv6 until somebody is connected so; what is not stays without.
"""

from __future__ import annotations

import itertools
from enum import Enum

from lab import Home, Host, Lab
from namespaces import Namespace

_GATEWAY = "fe80::1"
_numbers = itertools.count(1)

_RULES = """
table ip6 fw {{
  chain forward {{
    type filter hook forward priority 0; policy {policy};
    ct state established,related accept
    iifname "lan" accept
  }}
}}
"""


class Six(Enum):
    """What a home's router does with calls from outside over IPv6; it translates no addresses."""

    OPEN = "open"
    FIREWALL = "firewall"  # only answers come in, as home routers have it


def connect_host(lab: Lab, host: Host, group: int) -> str:
    """Give a public host an address; that address."""
    address = f"{_prefix(group)}::1"
    _connect(lab, host.namespace, f"{address}/128", address)
    return address


def connect_home(lab: Lab, home: Home, group: int, router: Six) -> list[str]:
    """Give every peer of a home (behind one router) an address; those."""
    network, outer = _prefix(group), home.routers[0].namespace
    _connect(lab, outer, f"{network}::/64", f"{network}::ffff")
    outer.set("ipv6/conf/all/forwarding", 1)
    outer.nft(_RULES.format(policy="accept" if router is Six.OPEN else "drop"))
    outer.ip(f"address add {network}::1/64 dev lan nodad", f"route replace {network}::/64 dev lan")
    addresses = []
    for number, host in enumerate(home.peers, 2):
        address = f"{network}::{number}"
        _enable(host.namespace)
        host.namespace.ip(
            f"address add {address}/64 dev eth0 nodad", f"route add default via {network}::1 dev eth0"
        )
        addresses.append(address)
    return addresses


def _prefix(group: int) -> str:
    return f"2a10:{group + 1:x}:0:{next(_numbers):x}"


def _connect(lab: Lab, namespace: Namespace, route: str, address: str) -> None:
    internet, cable = lab.internet_end(namespace)
    _enable(internet)
    _enable(namespace)
    internet.set("ipv6/conf/all/forwarding", 1)
    internet.ip(f"address add {_GATEWAY}/64 dev {cable} nodad")
    namespace.ip(f"address add {address}/128 dev wan nodad", f"route add default via {_GATEWAY} dev wan")
    there = f"fe80::2:{next(_numbers):x}"
    namespace.ip(f"address add {there}/64 dev wan nodad")
    internet.ip(f"route add {route} via {there} dev {cable}")


def _enable(namespace: Namespace) -> None:
    for which in ("all", "default"):
        namespace.set(f"ipv6/conf/{which}/accept_dad", 0)
        namespace.set(f"ipv6/conf/{which}/disable_ipv6", 0)
