"""Length-prefixed frames over a stream, with the limit checked before anything is allocated.

A frame is a 4-byte big-endian length and that many bytes. An end of stream inside a frame is an
error, so a truncated message can never pass for a complete one.
"""

from __future__ import annotations

from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.network import Stream

__all__ = ["FrameReader", "frame_header", "send_frame"]

_COALESCE = 64 * 1024


def frame_header(length: int) -> bytes:
    """The 4 bytes that announce a frame of ``length`` bytes."""
    return length.to_bytes(4, "big")


async def send_frame(stream: Stream, *chunks: bytes | bytearray | memoryview) -> None:
    """Sends the chunks as one frame; large ones are not copied together first."""
    length = sum(len(chunk) for chunk in chunks)
    if length <= _COALESCE:
        await stream.send(b"".join((frame_header(length), *chunks)))
        return
    await stream.send(frame_header(length))
    for chunk in chunks:
        await stream.send(chunk)


class FrameReader:
    """Reads frames of at most ``limit`` bytes from a stream."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._buffer = bytearray()

    async def read(self) -> bytes | None:
        """The next frame, or None after a clean end between frames.

        Raises RemoteProtocolError for a frame over the limit, StreamReset for an end inside one.
        """
        if not await self._fill(4, at_boundary=True):
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > self._limit:
            raise RemoteProtocolError(
                self._stream.peer,
                f"announced a frame of {length} bytes on {self._stream.protocol}; "
                f"at most {self._limit} are allowed",
            )
        await self._fill(4 + length, at_boundary=False)
        frame = bytes(memoryview(self._buffer)[4 : 4 + length])
        del self._buffer[: 4 + length]
        return frame

    async def _fill(self, size: int, *, at_boundary: bool) -> bool:
        while len(self._buffer) < size:
            data = await self._stream.receive(max(65536, size - len(self._buffer)))
            if not data:
                if at_boundary and not self._buffer:
                    return False
                cut = (self._stream.protocol, "the stream ended in the middle of a message")
                raise StreamReset(self._stream.peer, [cut])
            self._buffer += data
        return True
