"""Seats: who of those that joined a leader has one, where an address block has few of them. Pure.

Identities cost nothing, addresses something. So in a group of eight or more only the first few of a block
have a seat, in the order of joining. With fewer than eight such members the others of their blocks, the
extras, fill up to seven seats: nobody is locked out, and who comes early in great numbers takes no seat from
those who come later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moshgrid.averaging.address_blocks import HOME
from moshgrid.averaging.match_messages import Join, Offer
from moshgrid.p2p.identity import PeerId

__all__ = ["LIMITED_FROM", "NO_SEAT", "Applicant", "Seats", "crowded_block", "seated"]

LIMITED_FROM = 8
"""Members from which on a group's seats are limited by address block."""
NO_SEAT = "no seat for this peer: "
"""How the reasons begin."""
_MAX_BLOCK = 64
"""Characters of an address block; a stranger may write anything."""
_MAX_EXTRAS = 64
"""Applicants without a seat of their own that a leader keeps, in case no others come."""


def seated(applicants: Iterable[tuple[PeerId, str | None]], size: int, per_block: int | None) -> list[PeerId]:
    """Who has a seat in a group of at most ``size``, of ``applicants`` in the order of joining.

    Each comes with the block that it is seen in; None and ``HOME`` are not counted. ``per_block`` None: no
    limit.
    """
    everybody = list(applicants)
    if per_block is None or size < LIMITED_FROM:
        return [peer for peer, _ in everybody][:size]
    own = _with_a_seat_of_their_own(everybody, per_block)
    if len(own) >= LIMITED_FROM:
        return own[:size]
    extras = [peer for peer, _ in everybody if peer not in own]
    chosen = {*own, *extras[: LIMITED_FROM - 1 - len(own)]}
    return [peer for peer, _ in everybody if peer in chosen]


def crowded_block(blocks: Sequence[str | None], per_block: int | None) -> str | None:
    """The block with more members than it may have in a group of which ``blocks`` are all members' places.

    ``HOME`` and None are not counted. None when there is no such block.
    """
    if per_block is None or len(blocks) < LIMITED_FROM:
        return None
    counts = Counter(block for block in blocks if block not in (None, HOME))
    return next((block for block, count in counts.items() if count > per_block), None)


def _with_a_seat_of_their_own(
    applicants: Iterable[tuple[PeerId, str | None]], per_block: int
) -> list[PeerId]:
    counts = Counter[str | None]()
    own = []
    for peer, block in applicants:
        counts[block] += 1
        if block in (None, HOME) or counts[block] <= per_block:
            own.append(peer)
    return own


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who joined a leader."""

    offer: Offer
    block: str | None = None
    """Where the leader sees it; see ``address_blocks``."""
    sees_leader_in: str = ""
    """In which block it sees the leader, as it says."""

    @classmethod
    def of(cls, join: Join, block: str | None) -> Applicant:
        """Who sent ``join`` and is seen in ``block``."""
        return cls(join.offer, block, join.seen_in[:_MAX_BLOCK])


@dataclass(frozen=True, slots=True)
class Seats:
    """The seats of one leader's group. ``others``: who joined ``leader``, in that order."""

    leader: PeerId
    size: int
    per_block: int | None = None

    @property
    def are_limited(self) -> bool:
        """Whether blocks count at all."""
        return self.per_block is not None and self.size >= LIMITED_FROM

    def taken(self, others: Mapping[PeerId, Applicant]) -> list[PeerId]:
        """Who is in the group if it closes now, the leader first."""
        return seated(self._placed(others), self.size, self.per_block)

    def are_all_taken(self, others: Mapping[PeerId, Applicant]) -> bool:
        """True when nobody who may yet come could have a seat."""
        return len(self.taken(others)) >= self.size

    def refusal(self, others: Mapping[PeerId, Applicant], peer: PeerId, applicant: Applicant) -> str:
        """Why ``peer`` is not even to wait for a seat; empty when it may."""
        if peer in others:
            return ""
        if self.are_all_taken(others):
            return "the group is full"
        if len(others) < self.size + _MAX_EXTRAS or peer in self.taken({**others, peer: applicant}):
            return ""
        return self.why

    @property
    def why(self) -> str:
        """What is said to those who have none."""
        return f"{NO_SEAT}in a group of {LIMITED_FROM} or more an address block has {self.per_block}"

    def _placed(self, others: Mapping[PeerId, Applicant]) -> list[tuple[PeerId, str | None]]:
        """Everybody with the block that others see it in, as far as it is known.

        The leader cannot see its own; each block has one word on that. Its neighbours are seen in its own.
        """
        if not self.are_limited:
            return [(peer, None) for peer in (self.leader, *others)]
        said = {
            each.block: each.sees_leader_in
            for each in others.values()
            if each.block not in (None, HOME) and each.sees_leader_in not in ("", HOME)
        }
        own = next((block for block, _ in Counter(said.values()).most_common(1)), None)
        places = ((peer, own if each.block == HOME else each.block) for peer, each in others.items())
        return [(self.leader, own), *places]
