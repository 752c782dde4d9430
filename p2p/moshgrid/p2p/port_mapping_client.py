"""Asks the home router to forward the listening port, by PCP, NAT-PMP or UPnP; best effort, and renewed."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from moshgrid.p2p.ip_ranges import is_home
from moshgrid.p2p.observed_addrs import Place
from moshgrid.p2p.port_mapping import (
    GATEWAY_PORT,
    LEASE_SECONDS,
    NONCE_BYTES,
    Forwarding,
    ask_external_address,
    ask_nat_pmp,
    ask_pcp,
    default_gateway,
    read_external_address,
    read_nat_pmp,
    read_pcp,
)

__all__ = ["PortMapping", "ask_gateway", "ask_upnp", "gateway_here"]

_log = logging.getLogger("moshgrid.p2p")

_REPEATS = (0.25, 0.5, 1.0)
_UPNP_SECONDS = 6.0
_UPNP_DISCOVERY_MS = 1000
_AGAIN_SECONDS = 900.0
_SHORTEST_LEASE = 120.0
_GOODBYE_SECONDS = 0.3


def gateway_here() -> str | None:
    """The default gateway of this computer when it is a home router; None when that is not known."""
    try:
        gateway = default_gateway(Path("/proc/net/route").read_text())
    except OSError:
        return None
    return gateway if gateway is not None and is_home(gateway) else None


async def ask_gateway(
    gateway: str, port: int, seconds: int = LEASE_SECONDS, udp_port: int = GATEWAY_PORT
) -> Forwarding | None:
    """What ``gateway`` grants within two seconds, by PCP, else by NAT-PMP; None when it grants nothing."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    granted: Forwarding | None = None
    host: str | None = None
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect((gateway, udp_port))
            own = sock.getsockname()[0]
            questions = [
                ask_pcp(own, port, nonce, seconds),
                ask_external_address(),
                ask_nat_pmp(port, seconds),
            ]
            for wait in _REPEATS:
                for question in questions:
                    await sock.send(question)
                with trio.move_on_after(wait):
                    while granted is None or host is None:
                        data = await sock.recv(1100)
                        if (by_pcp := read_pcp(data, port, nonce)) is not None:
                            return by_pcp
                        granted = read_nat_pmp(data, port) or granted
                        host = read_external_address(data) or host
                if granted is not None and host is not None:
                    return Forwarding(host, granted.port, granted.seconds, granted.protocol)
        except OSError as error:
            _log.debug("the gateway %s maps no ports: %s", gateway, error)
    return None


async def ask_upnp(port: int, description: str | None = None) -> Forwarding | None:
    """What a router that speaks UPnP grants; None when none does.

    ``description``: its URL; None: it is sought in the local network.

    The library blocks, and so works in a thread, which ends by itself.
    """

    def ask() -> Forwarding | None:
        import miniupnpc

        router = miniupnpc.UPnP()
        router.discoverdelay = _UPNP_DISCOVERY_MS
        if description is None and not router.discover():
            return None
        router.selectigd(*([] if description is None else [description]))
        if not router.addportmapping(port, "TCP", router.lanaddr, port, "moshgrid", "", LEASE_SECONDS):
            return None
        return Forwarding(router.externalipaddress() or None, port, LEASE_SECONDS, "UPnP")

    with trio.move_on_after(_UPNP_SECONDS):
        try:
            run: Any = trio.to_thread.run_sync  # its stubs are older than itself
            granted: Forwarding | None = await run(ask, abandon_on_cancel=True)
            return granted
        except Exception as error:  # of a library in C, and of whatever box answers it
            _log.debug("no port was mapped by UPnP: %s", error)
    return None


class PortMapping:
    """Holds a mapping of TCP ``port`` while it runs. ``mapped`` is told where, and of its end."""

    def __init__(self, port: int, mapped: Callable[[Place | None], None]) -> None:
        self._port = port
        self._mapped = mapped
        self.held: Forwarding | None = None
        """What a router promised last."""

    async def run(self, gateway: str | None = None, udp_port: int = GATEWAY_PORT) -> None:
        """Until cancelled. ``gateway`` None: the default one, and UPnP wherever it answers."""
        seek = gateway is None
        gateway = gateway or gateway_here()
        try:
            while gateway is not None:
                forwarding = await ask_gateway(gateway, self._port, udp_port=udp_port)
                if forwarding is None and seek:
                    forwarding = await ask_upnp(self._port)
                self._take(forwarding)
                lease = _AGAIN_SECONDS if forwarding is None else forwarding.seconds / 2
                await trio.sleep(max(_SHORTEST_LEASE, lease))
        finally:
            if self.held is not None and gateway is not None and self.held.protocol != "UPnP":
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_SECONDS):
                    await ask_gateway(gateway, self._port, 0, udp_port)

    def _take(self, forwarding: Forwarding | None) -> None:
        if forwarding is not None and not forwarding.is_public:
            _log.info(
                "the router forwards port %d, but is itself behind another one (%s)",
                self._port,
                forwarding.host,
            )
            forwarding = None
        if forwarding is not None and forwarding.host is not None and forwarding != self.held:
            _log.info(
                "the router forwards %s port %d to this peer (%s)",
                *(forwarding.host, forwarding.port, forwarding.protocol),
            )
        if forwarding is None and self.held is None:
            return
        self.held = forwarding
        self._mapped(None if forwarding is None else (str(forwarding.host), forwarding.port))
