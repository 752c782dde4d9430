"""Sockets that call out from the very port that is listened on, so that a router maps both alike.

A router keeps one outside port for an inside one. Only what calls from the listening port shows others
where the router would let them in, and only from there can a hole be punched for those who dial it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

import trio

__all__ = ["BUSY", "CallingPorts", "connect_from", "share_port"]

BUSY = (errno.EADDRNOTAVAIL, errno.EADDRINUSE)
"""A connection between these two ports exists or is just coming about: the other side's call was first."""

_SHARED: int | None = getattr(socket, "SO_REUSEPORT", None)


def share_port(listener: socket.SocketType | trio.socket.SocketType) -> None:
    """Lets later sockets of this process call out from the port of ``listener``.

    It must listen already: a second process that wants the same port is then still refused.
    """
    if _SHARED is not None:
        listener.setsockopt(socket.SOL_SOCKET, _SHARED, 1)


class CallingPorts:
    """Which address to call from, by family, given what is listened on."""

    def __init__(self, listening: Iterable[tuple[str, int]]) -> None:
        self._sources: dict[bool, tuple[str, int]] = {}
        for host, port in listening:
            self._sources.setdefault(":" in host, (host, port))

    def towards(self, host: str) -> tuple[str, int] | None:
        """Where a call to ``host`` may come from; None when nothing is listened on that reaches it."""
        source = self._sources.get(":" in host)
        if source is None or _SHARED is None or source[0] == "::1" or source[0].startswith("127."):
            return None
        return source

    @property
    def ports(self) -> dict[str, int]:
        """The port listened on, by family: ``ip4``, ``ip6``."""
        return {"ip6" if six else "ip4": port for six, (_, port) in self._sources.items()}


async def connect_from(source: tuple[str, int] | None, host: str, port: int) -> trio.SocketStream:
    """A TCP connection to an address by number, from ``source``, or from any port when that is None.

    Raises OSError; one of ``BUSY`` when the other side's call came first. Cancelled, nothing stays.
    """
    sock = trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if source is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            share_port(sock)
            await sock.bind(source)
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
