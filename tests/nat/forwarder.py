"""A link with delay, loss and rate: takes Ethernet frames from one device and gives them to another.

Started by path with the names of two devices and the settings; each line on stdin prints the counts of
both directions as JSON, and the end of stdin ends it. Frames of one direction keep their order.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass

_ALL = 3  # ETH_P_ALL
_IPV4 = b"\x08\x00"
_SOL_PACKET, _ADD_MEMBERSHIP, _IGNORE_OUTGOING, _PROMISCUOUS = 263, 1, 23, 1
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_BUFFER = 8 << 20
_AT_ONCE = 64  # frames taken from one device before the other has its turn


@dataclass(frozen=True, slots=True)
class Settings:
    """How a link treats the frames of one direction; seconds, shares of one, bits a second."""

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0  # 0: unlimited
    queue: float = 0.25  # seconds of waiting for the rate, above which frames are dropped


class Direction:
    """One direction of a link: when each frame arrives, if it does. Time and chance come from outside."""

    def __init__(self, settings: Settings, chance: random.Random) -> None:
        self._settings = settings
        self._chance = chance
        self._free = 0.0  # when the rate allows the next frame
        self._last = 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()
        self.forwarded = self.lost = self.overflowed = 0

    def take(self, frame: bytes, now: float) -> None:
        """A frame came in. Only IPv4 is lost: lost ARP would be a fault of a LAN, not of a long way."""
        settings = self._settings
        if frame[12:14] == _IPV4 and settings.loss and self._chance.random() < settings.loss:
            self.lost += 1
            return
        ready = now
        if settings.rate:
            ready = max(now, self._free) + 8 * len(frame) / settings.rate
            if ready - now > settings.queue:
                self.overflowed += 1
                return
            self._free = ready
        due = ready + settings.delay + settings.jitter * self._chance.uniform(-1, 1)
        self._last = max(self._last, due)
        self._waiting.append((self._last, frame))

    @property
    def deadline(self) -> float | None:
        """When the next frame is due."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now: float) -> list[bytes]:
        """The frames that arrive by now."""
        frames = []
        while self._waiting and self._waiting[0][0] <= now:
            frames.append(self._waiting.popleft()[1])
        self.forwarded += len(frames)
        return frames

    def counts(self) -> dict[str, int]:
        return {"forwarded": self.forwarded, "lost": self.lost, "overflowed": self.overflowed}


def _device(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    sock.bind((name, 0))
    index = socket.if_nametoindex(name)
    sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("iHH8s", index, _PROMISCUOUS, 0, b""))
    sock.setblocking(False)
    return sock


def _drain(sock: socket.socket, direction: Direction) -> None:
    for _ in range(_AT_ONCE):
        try:
            frame = sock.recv(65535)
        except BlockingIOError:
            return
        direction.take(frame, time.monotonic())


def _send(sock: socket.socket, frames: list[bytes]) -> None:
    for frame in frames:
        try:
            sock.send(frame)
        except OSError:  # the device's queue is full, or it is gone with its namespace
            return


def forward(names: tuple[str, str], settings: Settings, seed: int) -> None:
    """Forward between two devices until stdin ends."""
    here, there = _device(names[0]), _device(names[1])
    out = Direction(settings, random.Random(f"{seed} out"))
    back = Direction(settings, random.Random(f"{seed} back"))
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        _send(there, out.due(now))
        _send(here, back.due(now))
        deadlines = [d.deadline for d in (out, back) if d.deadline is not None]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        readable, _, _ = select.select([here, there, sys.stdin], [], [], patience)
        if here in readable:
            _drain(here, out)
        if there in readable:
            _drain(there, back)
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            print(json.dumps({"out": out.counts(), "back": back.counts()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", nargs=2)
    for name in ("delay", "jitter", "loss", "rate"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    settings = Settings(given.delay, given.jitter, given.loss, given.rate)
    forward((given.devices[0], given.devices[1]), settings, given.seed)


if __name__ == "__main__":
    main()
