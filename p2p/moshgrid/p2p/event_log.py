"""The event log: one JSON line per thing that happened, for outside checks and for people.

``MOSHGRID_EVENTS=FILE`` appends ``{"t": unix seconds, "peer": …, "event": …, …}`` lines. Several
processes may share a file: each line is one write in append mode.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.identity import PeerId

__all__ = ["EventLog", "EventSink"]

EventSink = Callable[[Mapping[str, Any]], None]
"""Called in the loop with each event; must be quick and must not raise."""

_log = logging.getLogger("moshgrid.events")


class EventLog:
    """Emits events to the file named by ``MOSHGRID_EVENTS`` and to any sinks."""

    def __init__(self, peer: PeerId, clock: Clock, path: str | None = None) -> None:
        self._peer = peer
        self._clock = clock
        self._sinks: list[EventSink] = []
        self._file: int | None = None
        path = path if path is not None else os.environ.get("MOSHGRID_EVENTS")
        if path:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                _log.warning("MOSHGRID_EVENTS=%s cannot be written (%s); going on without it", path, error)

    def add_sink(self, sink: EventSink) -> None:
        """Hands every later event to ``sink`` as a mapping with the fields of the JSON line."""
        self._sinks.append(sink)

    def emit(self, event: str, **fields: Any) -> None:
        """Records that ``event`` (past tense, snake case) happened now."""
        if self._file is None and not self._sinks:
            return
        entry = {"t": self._clock.wall_ms() / 1000, "peer": self._peer, "event": event, **fields}
        if self._file is not None:
            try:
                os.write(self._file, (json.dumps(entry, separators=(",", ":")) + "\n").encode())
            except OSError as error:
                _log.warning("the event log cannot be written (%s); going on without it", error)
                self.close()
        for sink in self._sinks:
            sink(entry)

    def close(self) -> None:
        """Closes the file; later events go to the sinks only."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
