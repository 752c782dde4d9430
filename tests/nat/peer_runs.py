"""What a peer's process does with runs: averages arrays whose mean tells who contributed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

_RAMP = 1024
"""Values go from 0 to this; a power of two, so that sums of few of them are exact."""


class Runs:
    """The averagers of this process, one for a node."""

    def __init__(self, node_of: Callable[[int], Node]) -> None:
        self._node_of = node_of
        self._averagers: dict[int, Averager] = {}
        self._arrays: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self._events: dict[int, _Events] = {}

    def join_run(self, node: int, run: str, floats: int, **options: Any) -> dict[str, Any]:
        """Take part in a run with one array of so many values; options are Averager's."""
        array = np.zeros(floats, np.float32)
        averager = Averager(self._node_of(node), run, [array], **options)
        self._events[node] = events = _Events()
        averager.add_event_sink(lambda entry: events.hear(str(entry["event"])))
        self._averagers[node], self._arrays[node] = averager, array
        return {}

    def step(self, node: int, offset: float, weight: float = 1.0) -> dict[str, Any]:
        """Average a ramp plus ``offset``: the report, the average's offset and how far any value is off."""
        array, started = self._arrays[node], time.monotonic()
        ramp = np.arange(len(array), dtype=np.float32) % _RAMP
        array[:] = ramp + offset
        report = self._averagers[node].step([array], weight=weight)
        difference = array - ramp
        mean = float(difference.astype(np.float64).mean())
        return {
            "committed": report.committed,
            "reason": report.reason,
            "group": list(report.group),
            "contributors": dict(report.contributors),
            "dropped": dict(report.dropped),
            "digest": report.digest,
            "offset": mean,
            "off": float(np.abs(difference - mean).max()),
            "hash": hashlib.sha256(array.tobytes()).hexdigest(),
            "text": str(report),
            "seconds": round(time.monotonic() - started, 3),
        }

    def wait_event(self, node: int, event: str, seconds: float) -> dict[str, Any]:
        """Until an event of this kind comes; whether it came."""
        return {"came": self._events[node].wait(event, seconds)}

    def run_peers(self, node: int) -> dict[str, Any]:
        return {"peers": list(self._averagers[node].peers)}

    def close_run(self, node: int) -> None:
        if (averager := self._averagers.pop(node, None)) is not None:
            averager.close()


class _Events:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count: dict[str, int] = {}

    def hear(self, event: str) -> None:
        with self._changed:
            self._count[event] = self._count.get(event, 0) + 1
            self._changed.notify_all()

    def wait(self, event: str, seconds: float) -> bool:
        with self._changed:
            before = self._count.get(event, 0)
            return self._changed.wait_for(lambda: self._count.get(event, 0) > before, seconds)
