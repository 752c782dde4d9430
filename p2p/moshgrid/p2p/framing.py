"""Length-prefixed frames over a stream, with the limit checked before anything is allocated.

A frame is a 4-byte big-endian length and that many bytes. An end of stream inside a frame is an
error, so a truncated message can never pass for a complete one.
"""

from __future__ import annotations

from collections.abc import Callable

from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.network import Buffer, Stream

__all__ = ["FrameReader", "frame_header", "read_exactly", "send_frame"]

_SMALL = 64 * 1024


def frame_header(length: int) -> bytes:
    """The 4 bytes that announce a frame of ``length`` bytes."""
    return length.to_bytes(4, "big")


async def send_frame(stream: Stream, *chunks: Buffer) -> None:
    """Sends the chunks as one frame; large ones are not copied together first."""
    await stream.send([frame_header(sum(len(chunk) for chunk in chunks)), *chunks])


async def read_exactly(stream: Stream, size: int) -> bytes:
    """The next ``size`` bytes, not one more. Raises StreamReset, also for a clean end before them.

    For a few bytes: each piece is copied to the end of those before it. The caller sets the deadline.
    """
    data = b""
    while len(data) < size:
        piece = await stream.receive(size - len(data))
        if not piece:
            raise StreamReset(stream.peer, [(stream.protocol, "it ended the stream")])
        data += piece
    return data


class FrameReader:
    """Reads frames of at most ``limit`` bytes from a stream.

    ``allocate``, given a size, makes the writable buffers that large frames are received into.
    """

    def __init__(
        self, stream: Stream, limit: int, allocate: Callable[[int], bytearray | memoryview] = bytearray
    ) -> None:
        self._stream = stream
        self._limit = limit
        self._allocate = allocate
        self._ahead = bytearray()
        """What was read beyond the last frame."""
        self._large: bytearray | memoryview | None = None
        """A large frame that is being received, for the case that ``read`` was cancelled in its midst."""
        self._filled = 0

    async def begins(self) -> bool:
        """Waits for the first byte of the next frame; False after a clean end instead."""
        return self._large is not None or await self._fill(1, at_boundary=True)

    def take_whole(self) -> bytes | None:
        """The next frame if it is short and all of it is here; None, too, for one over the limit."""
        if self._large is None and len(self._ahead) >= 4:
            length = int.from_bytes(self._ahead[:4], "big")
            if length <= min(self._limit, _SMALL, len(self._ahead) - 4):
                return self._take(length)
        return None

    async def read(self) -> bytes | None:
        """The next frame, or None after a clean end between frames.

        Raises RemoteProtocolError for a frame over the limit, StreamReset for an end inside one. When it
        is cancelled nothing is lost: call it again.
        """
        frame = await self.read_buffer()
        return frame if frame is None or isinstance(frame, bytes) else bytes(frame)

    async def read_buffer(self) -> bytes | bytearray | memoryview | None:
        """As ``read``; a large frame comes in the buffer that it was received into, without a last copy."""
        if self._large is None:
            if not await self._fill(4, at_boundary=True):
                return None
            length = int.from_bytes(self._ahead[:4], "big")
            if length > self._limit:
                raise RemoteProtocolError(
                    self._stream.peer,
                    f"announced a frame of {length} bytes on {self._stream.protocol}; "
                    f"at most {self._limit} are allowed",
                )
            if length <= _SMALL:
                await self._fill(4 + length, at_boundary=False)
                return self._take(length)
            start = self._take(length)
            self._large, self._filled = self._allocate(length), len(start)
            self._large[: len(start)] = start
        large = self._large
        view = memoryview(large)
        while self._filled < len(large):
            count = await self._stream.receive_into(view[self._filled :])
            if not count:
                raise self._cut_short()
            self._filled += count
        self._large = None
        return large

    def _take(self, length: int) -> bytes:
        """What is here of a frame of ``length``."""
        with memoryview(self._ahead) as view:
            frame = bytes(view[4 : 4 + length])
        del self._ahead[: 4 + length]
        return frame

    async def _fill(self, size: int, *, at_boundary: bool) -> bool:
        while len(self._ahead) < size:
            data = await self._stream.receive(_SMALL)
            if not data:
                if at_boundary and not self._ahead:
                    return False
                raise self._cut_short()
            self._ahead += data
        return True

    def _cut_short(self) -> StreamReset:
        cut = (self._stream.protocol, "the stream ended in the middle of a message")
        return StreamReset(self._stream.peer, [cut])
