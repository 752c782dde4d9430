"""Two sessions over a pipe that cuts bytes anywhere: every stream arrives whole, within its window."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW
from moshgrid.p2p.yamux_session import YamuxSession
from moshgrid.p2p.yamux_window import MAX_WINDOW


class End:
    """A session, what it has sent on each stream, and what it has read."""

    def __init__(self, initiator: bool) -> None:
        self.session = YamuxSession(initiator, 0.0)
        self.wire = bytearray()
        self.streams: dict[int, object] = {}
        self.sent: dict[int, bytearray] = {}
        self.got: dict[int, bytearray] = {}
        self.to_end: set[int] = set()

    def adopt(self, stream) -> None:
        self.streams[stream.id] = stream
        self.sent[stream.id], self.got[stream.id] = bytearray(), bytearray()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 300))
def test_every_stream_arrives_whole(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    ends = End(True), End(False)
    now = 0.0

    def flush(end: End) -> None:
        if rng.random() < 0.7:
            end.wire += b"".join(end.session.take())
            end.session.written(rng.choice([0.0, 0.01, 0.1]))

    def move(end: End, other: End) -> None:
        size = rng.choice([1, 5, 11, 12, 13, 1000, 100_000, 10_000_000])
        piece = bytes(end.wire[:size])
        taken = other.session.receive(piece, now)
        assert taken == len(piece) or taken > 0
        del end.wire[:taken]
        other.session.opened.clear()
        for stream in other.session.streams.live.values():  # with their first bytes at the latest
            if stream.id not in other.streams:
                other.adopt(stream)

    def read(end: End, stream) -> None:
        assert stream.buffered <= stream.window.size <= MAX_WINDOW
        assert stream.window.credit >= 0
        if rng.random() < 0.5:
            end.got[stream.id] += end.session.read(stream, rng.choice([1, 100, 1 << 20]), now)
        else:
            buffer = bytearray(rng.choice([1, 70_000, 1 << 20]))
            count = end.session.read_into(stream, memoryview(buffer), now)
            end.got[stream.id] += buffer[:count]

    for _ in range(steps):
        now += rng.choice([0.0, 0.001, 0.1])
        end, other = rng.sample(ends, 2)
        act = rng.random()
        if act < 0.1 and len(end.streams) < 8:
            end.adopt(end.session.open(now))
        elif act < 0.4 and end.streams:
            stream = rng.choice(list(end.streams.values()))
            if stream.id not in end.to_end:
                data = rng.randbytes(rng.choice([0, 1, 64, 65507, 65508, 200_000, 600_000]))
                end.session.send(stream, [data[:10], memoryview(data)[10:]])
                end.sent[stream.id] += data
                if rng.random() < 0.2:
                    end.session.end_sending(stream)
                    end.to_end.add(stream.id)
        elif act < 0.6 and end.streams:
            read(end, rng.choice(list(end.streams.values())))
        else:
            flush(end)
            move(end, other)
    for _ in range(2000):
        now += 0.01
        for end, other in (ends, ends[::-1]):
            for stream in end.streams.values():
                if stream.id not in end.to_end:
                    end.session.end_sending(stream)
                    end.to_end.add(stream.id)
                read(end, stream)
            end.wire += b"".join(end.session.take())
            end.session.written(0.0)
            while end.wire:
                move(end, other)
        if not any(end.session.streams.live for end in ends):
            break
    for end, other in (ends, ends[::-1]):
        assert end.session.over is None
        assert end.streams.keys() == other.streams.keys()
        for stream_id, stream in end.streams.items():
            while stream.buffered:
                read(end, stream)
            assert end.got[stream_id] == other.sent[stream_id]
            assert stream.ended_there and stream.lost is None
        assert (
            not end.session.streams.live
            and end.session.streams.buffered == 0
            and end.session.streams._grown == 0
        )


@settings(max_examples=200)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_end_in_a_fault_or_in_nothing(garbage: bytes, initiator: bool) -> None:
    session = YamuxSession(initiator, 0.0)
    session.open(0.0)
    session.receive(garbage, 1.0)
    session.take()
    assert session.streams.buffered <= len(garbage)
    assert sum(stream.buffered for stream in session.streams.live.values()) <= INITIAL_WINDOW
