"""Finds frames again in bytes that come in any pieces; payload is handed on as it comes, not collected."""

from __future__ import annotations

from abc import ABC, abstractmethod

from moshgrid.p2p.yamux_frames import HEADER, HEADER_SIZE

__all__ = ["FrameSplitter"]


class FrameSplitter(ABC):
    """Calls ``on_frame`` for each header and ``on_payload`` for what follows it."""

    def __init__(self, frames_per_turn: int) -> None:
        self.over: str | None = None
        """Why nothing is taken in any more."""
        self._frames_per_turn = frames_per_turn
        self._turn = 0
        self._head = bytearray()
        self._left = 0

    def split(self, data: bytes | memoryview, now: float) -> int:
        """Takes in what came; returns how much of it: a turn takes only so many frames."""
        at, size = 0, len(data)
        self._turn = self._frames_per_turn
        view = memoryview(data)
        while at < size and self.over is None:
            if self._left:
                count = min(self._left, size - at)
                self._left -= count
                self.on_payload(view[at : at + count], not self._left, now)
                at += count
            elif self._turn <= 0:
                break
            elif self._head or size - at < HEADER_SIZE:
                count = min(HEADER_SIZE - len(self._head), size - at)
                self._head += view[at : at + count]
                at += count
                if len(self._head) == HEADER_SIZE:
                    self._turn -= 1
                    header = HEADER.unpack(self._head)
                    self._head.clear()
                    self._left = self.on_frame(now, *header)
            else:
                self._turn -= 1
                at += HEADER_SIZE
                self._left = self.on_frame(now, *HEADER.unpack_from(view, at - HEADER_SIZE))
        return at

    def spend_turn(self, frames: int) -> None:
        """What came costs as much as so many frames: this turn takes in fewer others."""
        self._turn -= frames

    @abstractmethod
    def on_frame(self, now: float, version: int, kind: int, flags: int, stream_id: int, length: int) -> int:
        """A header came; returns the length of the payload that follows."""

    @abstractmethod
    def on_payload(self, data: memoryview, last: bool, now: float) -> None:
        """A part of the payload came; ``last`` with its end."""
