"""The seam between a secured connection and what runs over it: whole runs of bytes, out and in.

``SecureChannel`` is what yamux sees of Noise and of TLS; ``Records`` is what they differ in, without
any I/O, so that both are tested by feeding bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Outgoing", "RecordError", "Records", "SecureChannel"]


class SecureChannel(Protocol):
    """An authenticated, encrypted connection. One task receives while another sends."""

    async def receive_some(self) -> bytes | memoryview:
        """What has arrived, one byte at least; ``b""`` after the peer's clean end.

        A memoryview holds only until the next call. Raises ChannelBroken when the connection broke,
        was cut short, or was tampered with.
        """
        ...

    def send_now(self, chunks: Sequence[bytes | memoryview]) -> bool:
        """Sends the chunks as one run of bytes, as far as the system takes them at once.

        True when that was all. Otherwise ``finish_sending`` must be called before anything else is sent,
        and the chunks stay as they are until it returns. Raises ChannelBroken.
        """
        ...

    async def finish_sending(self) -> None:
        """Sends what ``send_now`` left, however long the peer takes. Raises ChannelBroken.

        Cancelling never cuts it in half.
        """
        ...


class RecordError(Exception):
    """The peer, or somebody in between, sent bytes that no honest peer sends; the text says which."""


class Records(Protocol):
    """How a protocol cuts bytes into encrypted records, with the keys of one connection."""

    @property
    def ended(self) -> bool:
        """True when the peer said inside the encryption that nothing more follows."""
        ...

    @property
    def must_say_goodbye(self) -> bool:
        """True when a connection that ends without such a word was cut short."""
        ...

    def seal(self, outgoing: Outgoing, out: memoryview) -> int:
        """Encrypts the next part of ``outgoing``, as much as ``out`` holds; the length written."""
        ...

    def open(self, received: memoryview, out: memoryview) -> tuple[int, int]:
        """Decrypts all whole records in ``received`` to ``out``, which is no smaller.

        Returns how much was consumed and written. Raises RecordError.
        """
        ...

    def goodbye(self) -> bytes:
        """The record that tells the peer that nothing more follows, if the protocol has one."""
        ...


class Outgoing:
    """Chunks to be sent as one run of bytes, whatever their borders."""

    def __init__(self, chunks: Sequence[bytes | bytearray | memoryview]) -> None:
        views = [memoryview(chunk).cast("B") for chunk in chunks]
        self._chunks = [view for view in views if view]
        self._index = 0
        self._offset = 0
        self.left = sum(map(len, self._chunks))
        """Bytes not taken yet."""

    def take(self, size: int, staging: memoryview) -> memoryview:
        """The next ``size`` bytes in one piece; copied to ``staging`` only if they are in several."""
        chunk = self._chunks[self._index]
        if len(chunk) - self._offset < size:
            self.copy_to(staging[:size])
            return staging[:size]
        piece = chunk[self._offset : self._offset + size]
        self._advance(size)
        return piece

    def copy_to(self, target: memoryview) -> None:
        """Fills ``target`` with the next bytes."""
        chunk, start, size = self._chunks[self._index], self._offset, len(target)
        end = start + size
        if end < len(chunk):  # most of the time
            target[:] = chunk[start:end]
            self._offset = end
            self.left -= size
            return
        filled = 0
        while filled < size:
            chunk, start = self._chunks[self._index], self._offset
            piece = chunk[start : start + size - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._advance(len(piece))

    def _advance(self, size: int) -> None:
        self.left -= size
        self._offset += size
        if self._offset == len(self._chunks[self._index]):
            self._index += 1
            self._offset = 0
