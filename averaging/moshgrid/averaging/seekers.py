"""Seekers: the others that one search for a group knows of, and what it has heard from each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moshgrid.averaging.offers import MISFITS
from moshgrid.averaging.seats import NO_SEAT
from moshgrid.averaging.topology import rank
from moshgrid.p2p.identity import PeerId

__all__ = ["Seekers"]

_ASK_AT_ONCE = 3
_MAX_SEEKERS = 1024


class Seekers:
    """Everybody declared or heard of under one group key and round, but this peer."""

    def __init__(self, me: PeerId, group_key: str, round_number: int) -> None:
        self._me = me
        self._key = group_key
        self._round = round_number
        self._known: set[PeerId] = set()
        self._asked: set[PeerId] = set()
        self._ever_asked: set[PeerId] = set()
        self._answered: set[PeerId] = set()
        self._passed_over: set[PeerId] = set()
        self.taken: list[PeerId] = []
        """Who is in a group already."""
        self.misfits: dict[PeerId, str] = {}
        """Who cannot be in one group with this peer, and why."""
        self.turned_away: set[PeerId] = set()
        """Who has no seat with this peer, or this peer none with it."""
        self.no_seat = ""
        """Why this peer had none with another."""

    def __len__(self) -> int:
        return len(self._known)

    def rank(self, peer: PeerId) -> bytes:
        """Lower leads."""
        return rank(self._key, self._round, peer)

    def outranks(self, peer: PeerId) -> bool:
        """Whether ``peer`` is to lead this one."""
        return self.rank(peer) < self.rank(self._me)

    @property
    def present(self) -> set[PeerId]:
        """Those who may yet come into a group with this peer."""
        gone = self._passed_over | self.turned_away | set(self.taken)
        return self._known - gone - self.misfits.keys()

    @property
    def why_none_came(self) -> str:
        """For a search that ends alone, in words."""
        if not self._known:
            return "no other peer was looking for a group"
        if self.no_seat:
            return self.no_seat
        if not self.misfits:
            return f"{len(self)} other peers were declared but none joined in time"
        peer, why = next(iter(self.misfits.items()))
        return (
            f"{len(self.misfits)} of {max(len(self), len(self.misfits))} peers that were there "
            "cannot average with this one; "
            f"{peer} says: {why}"
        )

    @property
    def candidates(self) -> list[PeerId]:
        """Whom to ask to lead, the best first."""
        return sorted(filter(self.outranks, self.present), key=self.rank)[:_ASK_AT_ONCE]

    @property
    def unanswered(self) -> set[PeerId]:
        """Candidates that have not answered."""
        return set(self.candidates) - self._answered

    @property
    def asked_in_vain(self) -> list[PeerId]:
        """Who was asked to lead and has not answered: it may keep the request until it seeks a group."""
        return sorted(self._ever_asked - self._answered - set(self.taken))

    def see(self, peer: PeerId) -> bool:
        """Somebody is there; True when that is news."""
        is_new = bool(peer) and peer != self._me and peer not in self._known
        if is_new and len(self._known) < _MAX_SEEKERS:
            self._known.add(peer)
        return peer in self._known and is_new

    def forget(self, peer: PeerId) -> None:
        """Somebody is gone."""
        for known in (self._known, self._asked, self._answered):
            known.discard(peer)

    def to_ask(self) -> list[PeerId]:
        """Candidates not asked yet; they count as asked from now on."""
        fresh = [peer for peer in self.candidates if peer not in self._asked]
        self.ask(fresh)
        return fresh

    def ask(self, peers: Sequence[PeerId]) -> None:
        """These were asked, or are to be followed by another leader's word."""
        self._asked.update(peers)
        self._ever_asked.update(peers)
        self.turned_away.difference_update(peers)

    def was_asked(self, peer: PeerId) -> bool:
        """Whether ``peer`` was ever asked to lead, whatever it said; but not after one had no seat."""
        return peer in self._ever_asked and peer not in self.turned_away

    def accepted(self, peer: PeerId) -> None:
        """A peer leads this one; it may have refused an earlier request."""
        self._passed_over.discard(peer)
        self._asked.add(peer)
        self._answered.add(peer)

    def refused(self, peer: PeerId, reason: str, taken: Iterable[str]) -> None:
        """A peer will not lead this one, and these are in a group."""
        if reason.startswith(MISFITS):
            self.misfits[peer] = reason
        elif reason.startswith(NO_SEAT):
            self.no_seat = reason
            self.turned_away.add(peer)
        self._answered.add(peer)
        self._passed_over.add(peer)
        self.take(taken)

    def turn_away(self, peer: PeerId, reason: str) -> None:
        """This peer will not lead another; who was refused a seat is not waited for."""
        if reason.startswith(NO_SEAT):
            self.turned_away.add(peer)

    def pass_over(self, peer: PeerId) -> None:
        """A peer does not lead any more."""
        self._passed_over.add(peer)

    def pass_over_silent(self) -> None:
        """Who has not answered by now is not waited for."""
        self._passed_over |= self._asked - self._answered

    def take(self, peers: Iterable[str]) -> None:
        """These are in a group."""
        self.taken = sorted({*self.taken, *(PeerId(name) for name in peers)})

    def begin_anew(self) -> None:
        """The leader is gone: others that refused because they followed it may lead now."""
        self._passed_over.clear()
        self._asked.clear()
        self._answered.clear()
