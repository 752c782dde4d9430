"""Raw connections over bytes of ours: a WebSocket's frames, a private network's cipher, a relayed stream."""

from __future__ import annotations

from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from multiaddr import Multiaddr

from moshgrid.p2p.libp2p_raw_bytes import RawBytes

__all__ = ["BytesConnection", "LayeredConnection"]

_READ_BYTES = 4096


class BytesConnection(IRawConnection):
    """``RawBytes`` where py-libp2p expects a raw connection; where the peer is, a subclass says."""

    def __init__(self, below: RawBytes, *, initiator: bool) -> None:
        self.is_initiator = initiator
        self._bytes = below

    def raw_bytes(self) -> RawBytes:
        """The same bytes, for a secured session."""
        return self._bytes

    async def read(self, n: int | None = None) -> bytes:
        """At most ``n`` bytes; ``b""`` at the end."""
        buffer = memoryview(bytearray(_READ_BYTES if n is None else min(n, _READ_BYTES)))
        while True:
            await self._bytes.wait()
            if (size := self._bytes.read_into(buffer)) is not None:
                return bytes(buffer[:size])

    async def write(self, data: bytes) -> None:
        """Sends all of ``data``."""
        await self._bytes.send(data)

    async def close(self) -> None:
        """Closes the connection."""
        await self._bytes.close()


class LayeredConnection(BytesConnection):
    """``connection``, read and written through ``layer``; ``suffix`` is what it adds to the address."""

    def __init__(self, connection: IRawConnection, layer: RawBytes, suffix: str = "") -> None:
        super().__init__(layer, initiator=connection.is_initiator)
        self._connection = connection
        self._suffix = suffix

    def get_remote_address(self) -> tuple[str, int] | None:
        """Where the peer is."""
        return self._connection.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Where the peer is, as multiaddrs."""
        addrs = self._connection.get_transport_addresses()
        return [addr.encapsulate(self._suffix) for addr in addrs] if self._suffix else addrs

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self._connection.get_connection_type()
