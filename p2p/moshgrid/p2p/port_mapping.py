"""What is said to a home router so that it forwards a port: PCP (RFC 6887) and NAT-PMP (RFC 6886).

Both are one UDP packet each way, to port 5351 of the gateway. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from moshgrid.p2p.ip_ranges import is_home, is_nowhere

__all__ = [
    "GATEWAY_PORT",
    "LEASE_SECONDS",
    "Forwarding",
    "ask_external_address",
    "ask_nat_pmp",
    "ask_pcp",
    "default_gateway",
    "read_external_address",
    "read_nat_pmp",
    "read_pcp",
]

GATEWAY_PORT = 5351
LEASE_SECONDS = 3600
NONCE_BYTES = 12
_TCP = 6
_MAP_TCP, _ADDRESS = 2, 0
_RESPONSE = 128
_PCP_VERSION, _PCP_MAP = 2, 1
_PCP_HEAD, _PCP_BODY = "!BBHI16s", "!12sB3xHH16s"
_PCP_ANSWER = "!BBxBII12x12sB3xHH16s"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A router's promise. ``host`` None: not said; ``seconds``: for how long from now on."""

    host: str | None
    port: int
    seconds: int
    protocol: str
    """How it was asked for."""

    @property
    def is_public(self) -> bool:
        """False where the router itself is behind another one, or does not say where it is."""
        return self.host is not None and not is_home(self.host) and not is_nowhere(self.host)


def ask_nat_pmp(port: int, seconds: int = LEASE_SECONDS) -> bytes:
    """Forward TCP ``port``, the same outside if possible; 0 seconds takes it back."""
    return struct.pack("!BBHHHI", 0, _MAP_TCP, 0, port, port if seconds else 0, seconds)


def ask_external_address() -> bytes:
    """Which is your outside address?"""
    return bytes((0, _ADDRESS))


def ask_pcp(own_host: str, port: int, nonce: bytes, seconds: int = LEASE_SECONDS) -> bytes:
    """Forward TCP ``port`` to us at ``own_host``; 0 seconds takes it back. The nonce names this mapping."""
    client = IPv6Address(f"::ffff:{own_host}").packed
    nowhere = IPv6Address("::ffff:0.0.0.0").packed
    head = struct.pack(_PCP_HEAD, _PCP_VERSION, _PCP_MAP, 0, seconds, client)
    return head + struct.pack(_PCP_BODY, nonce, _TCP, port, port, nowhere)


def read_nat_pmp(data: bytes, port: int) -> Forwarding | None:
    """What the router granted; None for a refusal, or for what is no answer to this."""
    if len(data) < 16:
        return None
    version, code, result, _, inside, outside, seconds = struct.unpack("!BBHIHHI", data[:16])
    if (version, code, result, inside) != (0, _RESPONSE + _MAP_TCP, 0, port) or not outside or not seconds:
        return None
    return Forwarding(None, outside, seconds, "NAT-PMP")


def read_external_address(data: bytes) -> str | None:
    """The router's outside address; None when this is no such answer."""
    if len(data) < 12:
        return None
    version, code, result, _, host = struct.unpack("!BBHI4s", data[:12])
    return str(IPv4Address(host)) if (version, code, result) == (0, _RESPONSE + _ADDRESS, 0) else None


def read_pcp(data: bytes, port: int, nonce: bytes) -> Forwarding | None:
    """What the router granted; None for a refusal, or for what is no answer to this."""
    if len(data) < 60:
        return None
    version, code, result, seconds, _, said, protocol, inside, outside, host = struct.unpack(
        _PCP_ANSWER, data[:60]
    )
    if (version, code, result) != (_PCP_VERSION, _RESPONSE + _PCP_MAP, 0) or not outside or not seconds:
        return None
    if (said, protocol, inside) != (nonce, _TCP, port):
        return None
    address = IPv6Address(host)
    return Forwarding(str(address.ipv4_mapped or address), outside, seconds, "PCP")


def default_gateway(routes: str) -> str | None:
    """The IPv4 gateway in what Linux lists as ``/proc/net/route``; None when there is none."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[2] == "00000000":
            continue
        try:
            return str(IPv4Address(bytes.fromhex(fields[2])[::-1]))
        except ValueError:
            continue
    return None
