"""The bytes below encryption: waiting and reading apart, so that nobody holds a buffer while waiting.

A TCP socket is read with one system call for all that has arrived. Whatever else py-libp2p calls a raw
connection (WebSocket, a relayed stream) is read through its own ``read``.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

import trio
from libp2p.abc import IRawConnection
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection

from moshgrid.p2p.libp2p_tcp import TcpBytes

__all__ = [
    "STALL_SECONDS",
    "ChannelBroken",
    "HeldBytes",
    "RawBytes",
    "SocketBytes",
    "raw_bytes_of",
    "stalled",
]

_READ_BYTES = 64 * 1024
STALL_SECONDS = 30.0
_LOST = (IOException, RawConnError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)
"""What py-libp2p raises when a connection is gone, depending on what it runs over."""


class ChannelBroken(IOException):
    """The connection broke, was cut short, or carried what its peer cannot have sent; the text says which."""


class RawBytes(Protocol):
    """What a raw connection offers to a secured one."""

    async def wait(self) -> None:
        """Returns when ``read_into`` has something to say. Raises ChannelBroken."""

    def read_into(self, buffer: memoryview) -> int | None:
        """How much was read, 0 at the end, None when nothing is there yet. Raises ChannelBroken."""

    async def send(self, data: bytes | memoryview) -> None:
        """Sends all of ``data``. Raises ChannelBroken, also when the peer takes nothing for 30 s."""

    async def close(self) -> None:
        """Closes the raw connection; never raises."""


def raw_bytes_of(connection: IRawConnection) -> RawBytes:
    """The fastest way to the bytes of ``connection``."""
    if (own := getattr(connection, "raw_bytes", None)) is not None:
        return own()  # type: ignore[no-any-return]
    if type(connection) is RawConnection and hasattr(os, "readv"):
        stream = connection.stream
        if isinstance(stream, TrioTCPStream) and type(stream) in (TcpBytes, TrioTCPStream):
            return SocketBytes(connection, stream.stream)
    foreign = ForeignBytes(connection)
    # Whoever asks again gets the same, which may hold bytes that nobody has read yet.
    connection.raw_bytes = lambda: foreign  # type: ignore[attr-defined]
    return foreign


def stalled() -> ChannelBroken:
    """What is raised when the peer takes nothing for ``STALL_SECONDS``."""
    return ChannelBroken(f"the peer took no bytes for {STALL_SECONDS:g} s")


class SocketBytes:
    """A TCP socket."""

    def __init__(self, connection: IRawConnection, stream: trio.SocketStream) -> None:
        self._connection = connection
        self._stream = stream
        self._socket = stream.socket
        self._drained = True

    async def wait(self) -> None:
        """Asks the system only when the last read took all there was."""
        try:
            if self._drained:
                await trio.lowlevel.wait_readable(self._handle())
            else:
                await trio.lowlevel.checkpoint()
        except (trio.ClosedResourceError, OSError, ValueError) as error:
            raise ChannelBroken("the connection is closed") from error

    def read_into(self, buffer: memoryview) -> int | None:
        """One system call."""
        # Straight to the descriptor: trio's own recv_into lets other tasks run after it has read, and they
        # may borrow the same buffer.
        try:
            size = os.readv(self._handle(), [buffer])
        except (BlockingIOError, InterruptedError):
            self._drained = True
            return None
        except OSError as error:
            raise ChannelBroken(f"the connection was lost: {error.strerror}") from error
        self._drained = size < len(buffer)
        return size

    async def send(self, data: bytes | memoryview) -> None:
        """As much as the socket takes at once, then the rest."""
        rest = memoryview(data)
        await trio.lowlevel.checkpoint()
        while rest := rest[self.send_now(rest) :]:
            await self.wait_to_send()

    def send_now(self, data: memoryview) -> int:
        """One system call; how much of ``data`` the socket took, 0 when it is full. Raises ChannelBroken."""
        try:
            return os.write(self._handle(), data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ChannelBroken(f"the connection was lost: {error.strerror}") from error

    async def wait_to_send(self) -> None:
        """Returns when a good part of the system's memory for this socket is free again."""
        try:
            with trio.fail_after(STALL_SECONDS):
                await trio.lowlevel.wait_writable(self._handle())
        except trio.TooSlowError as error:
            raise stalled() from error
        except (trio.ClosedResourceError, OSError, ValueError) as error:
            raise ChannelBroken("the connection is closed") from error

    def _handle(self) -> int:
        if (handle := self._socket.fileno()) < 0:
            raise ChannelBroken("the connection is closed")
        return handle

    async def close(self) -> None:
        """Closes the socket."""
        await close_quietly(self._connection)


class HeldBytes:
    """Bytes that come in pieces of somebody else's choice: the last piece is held until it is read."""

    def __init__(self) -> None:
        self._held = memoryview(b"")
        self._over = False

    async def receive(self) -> bytes:
        """The next piece, ``b""`` at the end. Raises ChannelBroken."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Receives a piece when none is left of the last."""
        if self._held or self._over:
            await trio.lowlevel.checkpoint()
            return
        self._held = memoryview(await self.receive())
        self._over = not self._held

    def read_into(self, buffer: memoryview) -> int | None:
        """Copies what ``wait`` received."""
        if not self._held:
            return 0 if self._over else None
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size


class ForeignBytes(HeldBytes):
    """Any raw connection, through its own ``read`` and ``write``."""

    def __init__(self, connection: IRawConnection) -> None:
        super().__init__()
        self._connection = connection

    async def receive(self) -> bytes:
        """One read."""
        try:
            return await self._connection.read(_READ_BYTES)
        except _LOST as error:
            raise ChannelBroken("the connection was lost") from error

    async def send(self, data: bytes | memoryview) -> None:
        """Sends a copy: what is below may keep it."""
        try:
            await self._connection.write(bytes(data))
        except _LOST as error:
            raise ChannelBroken("the connection was lost") from error

    async def close(self) -> None:
        """Closes the connection."""
        await close_quietly(self._connection)


async def close_quietly(connection: IRawConnection) -> None:
    """Closes a connection that may be closed or broken already."""
    with contextlib.suppress(*_LOST):  # it is gone, which is what was wanted
        await connection.close()
