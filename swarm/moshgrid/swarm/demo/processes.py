"""The demo's processes: started, listened to, killed on purpose, and none left behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from moshgrid.swarm.demo import volunteer
from moshgrid.swarm.demo.messages import BEGIN, LEAVE

__all__ = ["Crew", "Message", "Seat"]

Message = tuple[int, dict[str, Any]]
"""A volunteer's number and what it said."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEAVE_SECONDS = 5.0


@dataclass
class Seat:
    """One volunteer's process."""

    number: int
    process: subprocess.Popen[bytes]
    complaints: deque[str] = field(default_factory=lambda: deque(maxlen=15))
    """The last lines of its stderr."""


class Crew:
    """A context manager: however it is left, no process remains.

    The first Ctrl+C (or SIGTERM, SIGHUP) inside raises KeyboardInterrupt; a second one kills
    everything and ends this process at once.
    """

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.seats: dict[int, Seat] = {}
        self._interrupts = 0
        self._starting = False
        self._handlers: dict[int, Any] = {}
        self._on_holding: Callable[[int, dict[str, Any]], None] = lambda number, message: None

    def on_holding(self, act: Callable[[int, dict[str, Any]], None]) -> None:
        """``act(number, message)`` runs in the reader's thread as soon as a volunteer holds still."""
        self._on_holding = act

    def start(self, number: int) -> Seat:
        """Starts a volunteer's process; what it says arrives in ``inbox``."""
        self._starting = True
        # Volunteers inherit the blocked signals: Ctrl+C reaches the conductor alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(volunteer.__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
            seat = self.seats[number] = Seat(number, process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._starting = False
        if self._interrupts:
            raise KeyboardInterrupt
        for read, pipe in ((self._read_messages, process.stdout), (self._read_complaints, process.stderr)):
            threading.Thread(target=read, args=(seat, pipe), daemon=True).start()
        return seat

    def begin(self, number: int) -> None:
        """Lets a volunteer that is ready go to work."""
        self._write(number, BEGIN)

    def kill(self, number: int) -> float:
        """Ends a volunteer with SIGKILL; returns the time of it."""
        now = time.time()
        self.seats[number].process.kill()
        return now

    def dismiss(self) -> None:
        """Asks all to leave, waits a little, and ends those that did not."""
        for number in self.seats:
            self._write(number, LEAVE)
        deadline = time.monotonic() + _LEAVE_SECONDS
        for seat in self.seats.values():
            try:
                seat.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        self.end()

    def end(self) -> None:
        """Kills whoever is still there and waits until they are gone."""
        for seat in self.seats.values():
            seat.process.kill()
        for seat in self.seats.values():
            seat.process.wait()

    def __enter__(self) -> Crew:
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            for seat in self.seats.values():
                seat.process.kill()
            os._exit(128 + number)
        if not self._starting:
            raise KeyboardInterrupt

    def _write(self, number: int, line: bytes) -> None:
        pipe = self.seats[number].process.stdin
        try:
            if pipe is not None:
                pipe.write(line)
                pipe.flush()
        except (BrokenPipeError, ValueError):
            return  # it ended; the reader tells

    def _read_messages(self, seat: Seat, pipe: IO[bytes]) -> None:
        for line in pipe:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # cut off by SIGKILL
            if message["kind"] == "holding":
                self._on_holding(seat.number, message)
            self.inbox.put((seat.number, message))
        code = seat.process.wait()
        self.inbox.put((seat.number, {"kind": "ended", "code": code}))

    def _read_complaints(self, seat: Seat, pipe: IO[bytes]) -> None:
        for line in pipe:
            seat.complaints.append(line.decode(errors="replace").rstrip())
