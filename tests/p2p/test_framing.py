"""Frames: found again however the bytes are cut, and never trusted."""

from __future__ import annotations

import pytest
import trio

from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.framing import FrameReader, frame_header, send_frame


class Pieces:
    """A stream that gives what it was given, in the same pieces, and keeps what is sent."""

    peer, protocol = "12D3KooWpeer", "/test/1"

    def __init__(self, *pieces):
        self.pieces, self.sent = list(pieces), b""

    async def receive(self, max_bytes=65536):
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > max_bytes:
            self.pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]

    async def receive_into(self, buffer):
        data = await self.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def send(self, data):
        self.sent += data if isinstance(data, bytes) else b"".join(data)


def read_all(*pieces, limit=1000):
    async def main():
        reader, frames = FrameReader(Pieces(*pieces), limit), []
        while (frame := await reader.read()) is not None:
            frames.append(frame)
        return frames

    return trio.run(main)


FRAMES = [b"", b"a", b"hello", b"x" * 1000]
WIRE = b"".join(frame_header(len(frame)) + frame for frame in FRAMES)


def test_byte_by_byte_and_all_at_once():
    assert read_all(*(WIRE[at : at + 1] for at in range(len(WIRE)))) == FRAMES
    assert read_all(WIRE) == FRAMES
    for cut in range(1, len(WIRE), 7):
        assert read_all(WIRE[:cut], WIRE[cut:]) == FRAMES


def test_an_end_inside_a_frame_is_no_end():
    whole = {0, 4, 9, 18, len(WIRE)}
    for cut in range(len(WIRE) + 1):
        if cut in whole:
            read_all(WIRE[:cut])
        else:
            with pytest.raises(StreamReset):
                read_all(WIRE[:cut])


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(RemoteProtocolError, match="at most 1000"):
        read_all(frame_header(1001))
    with pytest.raises(RemoteProtocolError):
        read_all(frame_header(2**32 - 1))


@pytest.mark.parametrize("size", [0, 10, 70_000, 300_000])
def test_what_is_sent_is_read(size):
    async def main():
        stream = Pieces()
        await send_frame(stream, b"head", memoryview(bytes(size)))
        return stream.sent

    assert read_all(trio.run(main), limit=400_000) == [b"head" + bytes(size)]


def test_a_short_frame_that_is_here_needs_no_waiting():
    async def main():
        reader = FrameReader(Pieces(WIRE[:6], WIRE[6:], frame_header(1001) + bytes(1001)), 1000)
        assert reader.take_whole() is None and await reader.begins()
        assert reader.take_whole() == b"" and reader.take_whole() is None, "the second is half here"
        assert await reader.read() == b"a"
        assert [reader.take_whole(), reader.take_whole()] == FRAMES[2:]
        assert await reader.begins() and reader.take_whole() is None, "it is over the limit"
        with pytest.raises(RemoteProtocolError):
            await reader.read()

    trio.run(main)
