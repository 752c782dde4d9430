"""A TCP connection as py-libp2p takes it, which knows who is at the other end over IPv6 too."""

from __future__ import annotations

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection

__all__ = ["TcpBytes", "over_tcp"]


class TcpBytes(TrioTCPStream):
    """Stock's knows the other end only where an address is two values; over IPv6 it is four."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._remote: tuple[str, int] | None = None

    def get_remote_address(self) -> tuple[str, int] | None:
        """IP address without a zone and port, also when it has gone; None when it was never asked before."""
        if self._remote is None:
            try:
                host, port, *_ = self.stream.socket.getpeername()
            except OSError:
                return None
            self._remote = str(host).partition("%")[0], int(port)
        return self._remote


def over_tcp(stream: trio.SocketStream, initiator: bool) -> RawConnection:
    """Not secured yet."""
    return RawConnection(TcpBytes(stream), initiator)
