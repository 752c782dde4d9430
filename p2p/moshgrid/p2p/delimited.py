"""Messages after their length in a varint, as libp2p frames its own; not a byte is read beyond."""

from __future__ import annotations

from moshgrid.p2p.canonical import encode_uvarint
from moshgrid.p2p.network import Stream
from moshgrid.p2p.protobuf import Malformed

__all__ = ["read_delimited", "send_delimited"]


async def send_delimited(stream: Stream, message: bytes) -> None:
    """Sends one message. Raises StreamReset."""
    await stream.send(encode_uvarint(len(message)) + message)


async def read_delimited(stream: Stream, limit: int) -> bytes:
    """The next message of at most ``limit`` bytes; what follows it stays on the stream.

    The caller sets the deadline. Raises Malformed, also for an end of the stream, and StreamReset.
    """
    length = shift = 0
    while True:
        (byte,) = await _exactly(stream, 1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if length > limit or shift > 28:
            raise Malformed(f"a message has at most {limit} bytes")
        if byte < 0x80:
            return await _exactly(stream, length)


async def _exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive(size - len(data))
        if not piece:
            raise Malformed("the stream ended inside a message")
        data += piece
    return data
