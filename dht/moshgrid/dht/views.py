"""Views: what each storer was seen to hold under a key, so that the next reading fetches what changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moshgrid.dht.record import SignedRecord, supersedes
from moshgrid.p2p.identity import PeerId

__all__ = ["View", "Views", "doubtful", "merge"]

Records = dict[bytes, SignedRecord]
"""Of one key, by subkey."""

_MOST_KEYS = 256
_MOST_PEERS = 8


@dataclass(slots=True)
class View:
    """One storer's records under one key. They stay true until they expire: storers only add to them."""

    records: Records = field(default_factory=dict)
    stamp: int = 0
    """The storer's, up to which ``records`` tell all."""
    more: bool = False
    """True while further pages have not been read."""

    def extended(self, records: Iterable[SignedRecord], stamp: int, now_ms: int) -> View:
        """This view with what the storer stored since."""
        held = {subkey: record for subkey, record in self.records.items() if record.expires > now_ms}
        merge(held, records)
        return View(held, stamp)


class Views:
    """The last views of the keys read lately."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, dict[PeerId, View]] = OrderedDict()

    def of(self, key: bytes, peer: PeerId) -> View:
        """What ``peer`` was last seen to hold; empty when nothing is known."""
        return self._kept.get(key, {}).get(peer) or View()

    def keep(self, key: bytes, views: Mapping[PeerId, View]) -> None:
        """The whole views of the peers nearest to ``key``, nearest first."""
        self._kept[key] = dict(list(views.items())[:_MOST_PEERS])
        self._kept.move_to_end(key)
        if len(self._kept) > _MOST_KEYS:
            self._kept.popitem(last=False)

    def forget(self, key: bytes, peer: PeerId) -> None:
        """``peer`` does not remember what it told."""
        self._kept.get(key, {}).pop(peer, None)


def merge(into: Records, records: Iterable[SignedRecord]) -> None:
    """Adds records by subkey, keeping the one that supersedes."""
    for record in records:
        held = into.get(record.subkey)
        if held is None or supersedes(record, held):
            into[record.subkey] = record


def doubtful(nearest: Sequence[Mapping[bytes, int]], heard: Iterable[Mapping[bytes, int]]) -> bool:
    """True when the nearest peers do not say the same, or that there is nothing, or somebody knew more.

    Each says its seqs by subkey. Whoever else was asked on the way need hold nothing.
    """
    if not nearest or not nearest[0] or any(seqs != nearest[0] for seqs in nearest):
        return True
    best = nearest[0]
    return any(best.get(subkey, 0) < seq for seqs in heard for subkey, seq in seqs.items())
