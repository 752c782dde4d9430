"""Placement: one record on its way to the ``k`` peers nearest to its key.

The lookup asks each peer to hold the record instead of asking whom it knows: the record carries the
prefixes of those that get it, and a storer answers with whom the sender missed. So a peer that knows the
neighbourhood of the key pays one message for each storer and no question before, and one that knows it
wrongly is put right on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moshgrid.dht.keys import prefixes_of
from moshgrid.dht.lookup import Answered, Ask, Done, Effect, Event, Failed, Lookup
from moshgrid.dht.record import SignedRecord
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["Placement"]

_WIDEN_SECONDS = 0.03
"""After this long the storers that were to follow are asked too: the first ones are slow, or far."""


class Placement:
    """One record's storers. ``start`` first; each call returns whom to send the record now."""

    def __init__(self, record: SignedRecord, lookup: Lookup, own: PeerId, acks: int, *, mine: bool) -> None:
        """``mine``: this peer is among the nearest, and holds the record already."""
        self.record = record
        self._lookup = lookup
        self._own = own
        self.acks = acks
        self._mine = mine
        self._widen_at: float | None = None
        self.stored_at: list[PeerId] = [own] if mine else []
        self.refused: dict[PeerId, str] = {}
        self.failed: list[PeerId] = []
        self.waiting: dict[PeerId, None] = {}
        self.promised: dict[PeerId, None] = {}
        """Everybody who was said to get the record from here."""
        self._named: Sequence[PeerId] | None = None
        self._also = b""
        self.closest: tuple[PeerId, ...] | None = None
        """Who is nearest, of those that answered; None until all of those have."""

    @property
    def deadline(self) -> float | None:
        """When to call ``passed``."""
        if self.is_over:
            return None
        lookup, widen = self._lookup.deadline, self._widen_at
        if lookup is None or widen is None:
            return widen if lookup is None else lookup
        return min(lookup, widen)

    @property
    def is_over(self) -> bool:
        """True when the nearest have answered; some that are farther may still be waited for."""
        return self.closest is not None

    @property
    def is_elsewhere(self) -> bool:
        """True when somebody but this peer holds the record."""
        return any(peer != self._own for peer in self.stored_at)

    @property
    def lacks(self) -> bool:
        """True when some failed and others did not fill their places: somebody may be there unheard of."""
        answered = len(self.stored_at) + len(self.refused) - len(self.failed)
        return bool(self.failed) and self.is_over and answered < self._lookup.need + self._mine

    def also(self) -> bytes:
        """What the messages that go out now say about who gets the record."""
        if (known := self._lookup.known()) is not self._named:
            self._named = known
            self.promised.update(dict.fromkeys(known))
            self._also = prefixes_of([self._own, *known] if self._mine else known)
        return self._also

    def start(self, now: float) -> list[PeerId]:
        """The first storers."""
        self._widen_at = now + _WIDEN_SECONDS
        return self._perform(self._lookup.start(now))

    def answered(self, peer: PeerId, code: str, closer: Sequence[PeerId], now: float) -> list[PeerId]:
        """``peer`` holds the record when ``code`` is empty, and named peers nearer to the key."""
        self.waiting.pop(peer, None)
        if code:
            self.refused[peer] = code
        else:
            self.stored_at.append(peer)
        return self._handle(Answered(peer, closer), now)

    def lost(self, peer: PeerId, why: str, now: float) -> list[PeerId]:
        """``peer`` could not be reached."""
        self.waiting.pop(peer, None)
        self.refused[peer] = why
        self.failed.append(peer)
        return self._handle(Failed(peer), now)

    def passed(self, now: float) -> list[PeerId]:
        """The deadline passed."""
        if self._widen_at is not None and now >= self._widen_at:
            self._widen_at = None
            self._lookup.widen()
        return self._handle(DeadlinePassed(), now)

    def more(self, peers: Iterable[PeerId]) -> list[PeerId]:
        """Others that turned out to be storers: which of them are to be sent the record."""
        settled = {self._own, *self.waiting, *self.stored_at, *self.refused}
        fresh = [peer for peer in peers if peer not in settled]
        self.waiting.update(dict.fromkeys(fresh))
        self.promised.update(dict.fromkeys(fresh))
        return fresh

    def missed(self) -> list[PeerId]:
        """Who was said to get the record from here and did not."""
        held = {*self.stored_at, *self.waiting}
        return [
            peer
            for peer in self.promised
            if peer not in held and (peer in self.failed or peer not in self.refused)
        ]

    def _handle(self, event: Event | DeadlinePassed, now: float) -> list[PeerId]:
        return self._perform(self._lookup.handle(event, now))

    def _perform(self, effects: Iterable[Effect]) -> list[PeerId]:
        asked: list[PeerId] = []
        for effect in effects:
            match effect:
                case Ask(peer):
                    asked.append(peer)
                case Done(closest):
                    self.closest = closest
        self.waiting.update(dict.fromkeys(asked))
        return asked
