"""Home routers: the nftables rules of every type of NAT, and what passed through, by remote address."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from namespaces import Namespace


class Nat(Enum):
    """How a router maps and filters. Mapping keeps the port everywhere except for SYMMETRIC."""

    OPEN = "open"  # every port above 1023 is forwarded to the one peer
    FULL_CONE = "full"  # whoever it is may use a mapping that exists
    ADDRESS_RESTRICTED = "addr"  # who was sent something may, from any port
    PORT_RESTRICTED = "port"  # only from the very port to which something was sent
    SYMMETRIC = "sym"  # as before, and every destination sees another random port
    UDP_BLOCKED = "noudp"  # port-restricted, and nothing but TCP
    DOUBLE = "double"  # a port-restricted router behind another


ONE_PEER_ONLY = (Nat.OPEN, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED)

# Some kernels show the forward chain what the LAN's bridge passes on: from `lan` to `lan`.
# Without the drop on `input`, Linux would remember an early packet of the other side as a flow of its
# own; the flow from inside that comes a moment later would then get another port. Routers at home drop.
_RULES = """
table ip nat {{
  {sets}
  chain out {{
    type filter hook forward priority 0; policy accept;
    {learn}
  }}
  chain pre {{
    type nat hook prerouting priority dstnat;
    {forward}
  }}
  chain post {{
    type nat hook postrouting priority srcnat;
    oifname "wan" masquerade {masquerade}
  }}
}}
table ip fw {{
  set sent {{ type ipv4_addr; flags dynamic; counter; size 4096; }}
  set received {{ type ipv4_addr; flags dynamic; counter; size 4096; }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname "wan" ct state established,related accept
    iifname "wan" drop
  }}
  chain forward {{
    type filter hook forward priority 10; policy drop;
    iifname "lan" oifname "lan" accept
    iifname "lan" oifname "wan" {only} accept
    iifname "wan" oifname "lan" ct state established,related accept
    iifname "wan" oifname "lan" ct status dnat accept
  }}
  chain counting {{
    type filter hook forward priority 20; policy accept;
    oifname "wan" add @sent {{ ip daddr }}
    iifname "wan" add @received {{ ip saddr }}
  }}
}}
"""
_OPENED = "set opened {{ type {key}; flags dynamic,timeout; timeout 2m; }}"


@dataclass(frozen=True, slots=True)
class Passed:
    """Packets and bytes (of IP packets) that a router let through."""

    packets: int = 0
    bytes: int = 0


def rules(nat: Nat, peer: str) -> str:
    """The rules of a router with devices `lan` and `wan`, whose first or only peer has this address."""
    sets = learn = forward = ""
    if nat is Nat.OPEN:
        forward = f'iifname "wan" meta l4proto {{ tcp, udp }} th dport 1024-65535 dnat to {peer}'
    elif nat is Nat.FULL_CONE:
        sets = _OPENED.format(key="inet_proto . inet_service")
        learn = 'iifname "lan" oifname "wan" update @opened { meta l4proto . th sport }'
        forward = f'iifname "wan" meta l4proto . th dport @opened dnat to {peer}'
    elif nat is Nat.ADDRESS_RESTRICTED:
        sets = _OPENED.format(key="ipv4_addr . inet_proto . inet_service")
        learn = 'iifname "lan" oifname "wan" update @opened { ip daddr . meta l4proto . th sport }'
        forward = f'iifname "wan" ip saddr . meta l4proto . th dport @opened dnat to {peer}'
    return _RULES.format(
        sets=sets,
        learn=learn,
        forward=forward,
        masquerade="fully-random" if nat is Nat.SYMMETRIC else "",
        only="meta l4proto tcp" if nat is Nat.UDP_BLOCKED else "",
    )


@dataclass(frozen=True, slots=True)
class Router:
    """A router at work: its namespace has the devices `lan` and `wan`."""

    namespace: Namespace
    address: str  # of `wan`

    def sent(self) -> dict[str, Passed]:
        """What went out since the start, by remote address."""
        return self._counters("sent")

    def received(self) -> dict[str, Passed]:
        """What came in and was let through, by remote address."""
        return self._counters("received")

    def _counters(self, name: str) -> dict[str, Passed]:
        return counters(self.namespace.nft_json("set", "ip", "fw", name))


def counters(listing: str) -> dict[str, Passed]:
    """The elements of a set of addresses that counts, from nftables' JSON."""
    found = {}
    for item in json.loads(listing)["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            key = element["elem"]["val"]
            name = " ".join(key["concat"]) if isinstance(key, dict) else key
            counter = element["elem"]["counter"]
            found[name] = Passed(counter["packets"], counter["bytes"])
    return found
