"""Two raw connections in memory, joined by a wire that a test may cut, change or listen to."""

from __future__ import annotations

from collections.abc import Callable

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException

Tamper = Callable[[bytes, int], bytes]
"""Called with what was sent and its offset in that direction; returns what arrives."""


class Wire:
    """One direction."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.total = 0
        self.ended = False
        self.tamper: Tamper | None = None
        self._news = trio.Event()

    def put(self, data: bytes) -> None:
        if self.ended:
            raise IOException("the wire is cut")
        offset, self.total = self.total, self.total + len(data)
        self.buffer += data if self.tamper is None else self.tamper(data, offset)
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def end(self) -> None:
        self.ended = True
        self.wake()

    async def take(self, size: int | None) -> bytes:
        while not self.buffer and not self.ended:
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        data = bytes(self.buffer[:size])
        del self.buffer[: len(data)]
        return data


class PipeEnd(IRawConnection):
    """One end of a pipe."""

    def __init__(self, incoming: Wire, outgoing: Wire, *, is_initiator: bool) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.is_initiator = is_initiator

    async def read(self, n: int | None = None) -> bytes:
        return await self.incoming.take(n)

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.outgoing.put(data)

    async def close(self) -> None:
        self.outgoing.end()
        self.incoming.end()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


def pipe() -> tuple[PipeEnd, PipeEnd]:
    """The initiator's end and the responder's."""
    there, back = Wire(), Wire()
    return PipeEnd(back, there, is_initiator=True), PipeEnd(there, back, is_initiator=False)
