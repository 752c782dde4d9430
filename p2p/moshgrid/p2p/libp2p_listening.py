"""Listening: whether a port is really free, and where others reach what we listen on."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from multiaddr import Multiaddr

from moshgrid.p2p.addresses import expand_wildcard
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import PeerId

__all__ = ["check_free", "listening_addrs"]


def check_free(listen: Sequence[Multiaddr]) -> None:
    """Raises ConfigurationError when a port is taken.

    py-libp2p shares a port with whoever uses it already; two peers on one port lose half their calls.
    """
    for addr in listen:
        (family, host), (_, port) = addr.items()
        kind = socket.AF_INET if family.name == "ip4" else socket.AF_INET6
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
                probe.listen(1)
            except OSError as error:
                raise ConfigurationError(
                    f"cannot listen on {addr}: {error.strerror}. Give another address or port; "
                    "port 0 takes any free one."
                ) from error


def listening_addrs(swarm: Any, listen: Sequence[Multiaddr], peer: PeerId) -> tuple[str, ...]:
    """Full multiaddrs of what the swarm listens on, wildcards replaced by this computer's addresses."""
    found = []
    for asked in listen:
        listener = swarm.listeners.get(str(asked))
        if listener is None:
            raise ConfigurationError(f"cannot listen on {asked}: py-libp2p does not say why")
        for addr in listener.get_addrs():
            (family, host), (_, port) = addr.items()
            for usable in expand_wildcard(family.name, host):
                found.append(f"/{family.name}/{usable}/tcp/{port}/p2p/{peer}")
    return tuple(dict.fromkeys(found))
