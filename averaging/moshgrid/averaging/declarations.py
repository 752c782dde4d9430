"""Declarations: who said that it seeks, or will seek, a group under which key for which round. Pure."""

from __future__ import annotations

from collections.abc import Collection

from moshgrid.dht import Record
from moshgrid.p2p.identity import PeerId

__all__ = ["Declarations", "round_in"]


def round_in(record: Record) -> int:
    """The round that a record names; 0 when it names none (a stranger may write anything)."""
    value = record.value
    number = value.get("round") if isinstance(value, dict) else None
    return number if isinstance(number, int) and 0 < number < 2**40 else 0


class Declarations:
    """The newest of every peer under every group key that is followed."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[PeerId, int]] = {}
        self._elsewhere: dict[PeerId, int] = {}
        """The highest round that each peer was declared for under keys that are not followed any more."""

    def note(self, group_key: str, peer: PeerId, round_number: int) -> None:
        """A peer is under that key for that round."""
        self._rounds.setdefault(group_key, {})[peer] = round_number

    def take_back(self, group_key: str, peer: PeerId) -> None:
        """A peer is not under that key any more."""
        self._rounds.get(group_key, {}).pop(peer, None)

    def forget(self, peer: PeerId) -> bool:
        """A peer is gone; False when it was declared nowhere."""
        found = [declared.pop(peer, None) for declared in (*self._rounds.values(), self._elsewhere)]
        return any(number is not None for number in found)

    def retire(self, group_key: str, peers: Collection[PeerId]) -> None:
        """A key is not followed any more; how far ``peers`` are, who take part still, stays known."""
        declared = self._rounds.pop(group_key, {})
        self._elsewhere = {
            peer: max(declared.get(peer, 0), self._elsewhere.get(peer, 0))
            for peer in peers
            if peer in declared or peer in self._elsewhere
        }

    def latest(self) -> dict[PeerId, int]:
        """The highest round that each peer is declared for."""
        latest = dict(self._elsewhere)
        for declared in self._rounds.values():
            for peer, at in declared.items():
                latest[peer] = max(at, latest.get(peer, 0))
        return latest

    def seekers(self, group_key: str, round_number: int) -> list[PeerId]:
        """Who is declared under a key for that round and for no later one anywhere."""
        latest = self.latest()
        declared = self._rounds.get(group_key, {})
        return [peer for peer, at in declared.items() if at == round_number == latest[peer]]
