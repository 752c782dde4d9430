"""A discrete-event simulator for machines: virtual time, seeded delays, FIFO links, crashes and cuts.

No event loop and no threads: the same seed gives the same history on every machine.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Simulation"]


class Simulation:
    """Runs callbacks in order of virtual time.

    ``latency`` are the bounds in seconds of a message's delay, drawn uniformly for each; messages
    of one link (ordered pair) never overtake each other, as on a stream.
    """

    def __init__(self, seed: int = 0, latency: tuple[float, float] = (0.001, 0.02)) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.dead: set[Hashable] = set()
        self._latency = latency
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._last_arrival: dict[tuple[Hashable, Hashable], float] = {}
        self._frozen: dict[Hashable, list[Callable[[], None]]] = {}
        self._cut: set[frozenset[Hashable]] = set()
        self._trace = hashlib.sha256()

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far; equal seeds must give equal digests."""
        return self._trace.hexdigest()

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Calls ``callback`` at virtual time ``when`` (not before now)."""
        heapq.heappush(self._queue, (max(when, self.now), self._order, callback))
        self._order += 1

    def send(self, source: Hashable, target: Hashable, what: Any, deliver: Callable[[], None]) -> None:
        """Delivers after the link's delay, unless the link is cut or the target dead by then."""
        arrival = self.now + self.rng.uniform(*self._latency)
        arrival = max(arrival, self._last_arrival.get((source, target), 0.0))
        self._last_arrival[source, target] = arrival

        def arrive() -> None:
            if target in self.dead or frozenset((source, target)) in self._cut:
                return
            self._trace.update(f"{self.now:.6f} {source} {target} {what}\n".encode())
            if target in self._frozen:
                self._frozen[target].append(deliver)
            else:
                deliver()

        self.at(arrival, arrive)

    def crash(self, peer: Hashable) -> None:
        """Nothing reaches ``peer`` from now on. Whoever runs it must ask ``dead`` before acting."""
        self.dead.add(peer)

    def freeze(self, peer: Hashable) -> None:
        """Holds back what arrives at ``peer`` until ``thaw``."""
        self._frozen.setdefault(peer, [])

    def is_frozen(self, peer: Hashable) -> bool:
        """True between ``freeze`` and ``thaw``."""
        return peer in self._frozen

    def thaw(self, peer: Hashable) -> None:
        """Delivers at once what was held back."""
        for deliver in self._frozen.pop(peer, []):
            deliver()

    def cut(self, one: Hashable, other: Hashable) -> None:
        """Loses everything between two peers until ``mend``."""
        self._cut.add(frozenset((one, other)))

    def mend(self, one: Hashable, other: Hashable) -> None:
        """Ends a ``cut``."""
        self._cut.discard(frozenset((one, other)))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Runs until ``stop()`` holds, nothing is left to do, or virtual time ``until``."""
        while self._queue and not stop():
            when, _, callback = heapq.heappop(self._queue)
            if when > until:
                heapq.heappush(self._queue, (when, self._order, callback))
                self._order += 1
                break
            self.now = when
            callback()
        else:
            return
        self.now = until
