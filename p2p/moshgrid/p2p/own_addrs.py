"""What this peer says of where it can be reached: its own addresses by how they became known."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from moshgrid.p2p.addresses import MAX_ADDRS, split_addr
from moshgrid.p2p.identity import PeerId

__all__ = ["SOURCES", "OwnAddrs"]

SOURCES = ("listening", "mapped", "observed", "relayed")
"""What we listen on, what a router forwards to us, what others saw of us, and where relays wait for us.

In the order in which they are told.
"""


class OwnAddrs:
    """The addresses of each source, together at most 16; whoever asks gets what holds now."""

    def __init__(self, peer: PeerId) -> None:
        self._peer = peer
        self._known: dict[str, tuple[str, ...]] = dict.fromkeys(SOURCES, ())
        self._all: tuple[str, ...] = ()
        self._listeners: dict[object, Callable[[], None]] = {}

    def set(self, source: str, addrs: Iterable[str]) -> None:
        """From now on these are all that ``source`` (one of ``SOURCES``) knows.

        ``addrs`` are full multiaddrs of this peer. Raises ValueError for others.
        """
        if source not in self._known:
            raise ValueError(f"{source!r} is none of {', '.join(SOURCES)}")
        fresh = tuple(dict.fromkeys(addrs))
        for addr in fresh:
            if split_addr(addr)[1] != self._peer:
                raise ValueError(f"{addr} is another peer's address")
        self._known[source] = fresh
        before, self._all = self._all, self._collect()
        if self._all != before:
            for listener in list(self._listeners.values()):
                listener()

    def of(self, source: str) -> tuple[str, ...]:
        """What ``source`` knows."""
        return self._known[source]

    def all(self) -> tuple[str, ...]:
        """What others are told. When there are too many, it is interfaces that are left out."""
        return self._all

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls ``listener`` whenever ``all`` changed. Returns a function that takes it off again."""
        key = object()
        self._listeners[key] = listener

        def take_off() -> None:
            self._listeners.pop(key, None)

        return take_off

    def _collect(self) -> tuple[str, ...]:
        learned = [addr for source in SOURCES[1:] for addr in self._known[source]]
        room = max(1, MAX_ADDRS - len(dict.fromkeys(learned)))
        return tuple(dict.fromkeys([*self._known["listening"][:room], *learned]))[:MAX_ADDRS]
