"""A secured connection in memory, with latency, a rate, and ways to break it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

_SEGMENT = 16 * 1024
_READ = 1 << 20


class Way:
    """One direction. ``rate`` is in bytes a second, ``room`` what the sender's system holds of it."""

    def __init__(self, latency: float, rate: float | None, room: int) -> None:
        self.latency = latency
        self.rate = rate
        self.room = room
        self.sent = 0
        self.frozen = False
        self.ended = False
        self.broken = False
        self.segments: deque[tuple[float, bytes]] = deque()
        self._busy_until = 0.0
        self._news = trio.Event()

    async def send(self, data: bytes) -> None:
        if not self.send_now(data):
            await self.finish()
        await trio.lowlevel.checkpoint()

    def send_now(self, data: bytes) -> bool:
        """As a socket: True when the sender's system holds it all."""
        if self.broken:
            raise trio.BrokenResourceError("the pipe is broken")
        self.sent += len(data)
        for at in range(0, len(data), _SEGMENT):
            piece = data[at : at + _SEGMENT]
            self._busy_until = max(self._busy_until, trio.current_time())
            self._busy_until += len(piece) / self.rate if self.rate else 0.0
            self.segments.append((self._busy_until + self.latency, piece))
        self.wake()
        return self._free_at <= trio.current_time()

    @property
    def _free_at(self) -> float:
        return self._busy_until - self.room / self.rate if self.rate else 0.0

    async def finish(self) -> None:
        await trio.sleep_until(self._free_at)

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def receive(self, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.broken:
                raise trio.BrokenResourceError("the pipe is broken")
            now = trio.current_time()
            if not self.frozen and self.segments and self.segments[0][0] <= now:
                break
            if self.ended and not self.segments:
                return b""
            due = self.segments[0][0] if self.segments and not self.frozen else float("inf")
            with trio.move_on_at(due):
                await self._news.wait()
        out = bytearray()
        while self.segments and self.segments[0][0] <= now and len(out) < limit:
            piece = self.segments.popleft()[1]
            if len(out) + len(piece) > limit:
                self.segments.appendleft((now, piece[limit - len(out) :]))
                piece = piece[: limit - len(out)]
            out += piece
        return bytes(out)


class MemoryChannel:
    """One end: a ``SecureChannel``."""

    def __init__(self, out: Way, into: Way) -> None:
        self.out = out
        self.into = into

    async def receive_some(self) -> bytes:
        return await self.into.receive(_READ)

    async def send_all(self, chunks: Sequence[bytes | memoryview]) -> None:
        await self.out.send(b"".join(chunks))

    def send_now(self, chunks: Sequence[bytes | memoryview]) -> bool:
        return self.out.send_now(b"".join(chunks))

    async def finish_sending(self) -> None:
        await self.out.finish()

    async def close(self) -> None:
        """As closing a socket: the other end sees the end after what was sent."""
        self.out.ended = True
        self.into.broken = True
        self.out.wake()
        self.into.wake()


def channel_pair(
    latency: float = 0.0, rate: float | None = None, room: int = 256 * 1024
) -> tuple[MemoryChannel, MemoryChannel]:
    """Two ends."""
    there, back = Way(latency, rate, room), Way(latency, rate, room)
    return MemoryChannel(there, back), MemoryChannel(back, there)
