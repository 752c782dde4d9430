"""What peers that seek a group say to each other."""

from __future__ import annotations

import msgspec

__all__ = [
    "MAX_NAMED",
    "MAX_OUTLINE",
    "MAX_WEIGHT",
    "Accepted",
    "Begin",
    "Directness",
    "Disbanded",
    "Draft",
    "Excluded",
    "Handover",
    "Join",
    "Leave",
    "MatchMessage",
    "Offer",
    "Refused",
    "Tagged",
]

MAX_WEIGHT = 1e9
MAX_NAMED = 64
"""Peers that a message of matchmaking names."""
MAX_OUTLINE = 512
"""Characters in which an offer describes its first arrays."""
_MAX_BANDWIDTH = 1e15


class Tagged(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A message: its name and its fields."""


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """What a peer brings to a group."""

    weight: float
    bandwidth: float
    """Bytes per second it can move, measured by itself; 0 when not known yet."""
    schema: bytes
    codec: str
    reduces: bool
    reducer: str = "mean"
    reference: bytes = b""
    """Digest of the state that this peer can subtract before encoding; empty for none."""
    home: bool = False
    """Strangers cannot dial this peer: who is direct to it has to be found out."""
    direct: tuple[str, ...] = ()
    """For a peer at home: which of those that seek a group with it it is direct to."""
    outline: str = ""
    """Shape and dtype of the first arrays, so that who refuses the schema can say what differs."""

    @property
    def is_sound(self) -> bool:
        """False for numbers that no honest peer would send (negative, huge, not finite)."""
        sane = 0 <= self.weight <= MAX_WEIGHT and 0 <= self.bandwidth <= _MAX_BANDWIDTH
        sane = sane and len(self.outline) <= MAX_OUTLINE
        return sane and len(self.reference) in (0, 32) and len(self.direct) <= MAX_NAMED


class Join(Tagged, frozen=True):
    """Asks the receiver to lead; the sender's rank follows from its peer id.

    ``seen_in``: the address block in which the sender sees the receiver, which cannot see that itself.
    """

    group_key: str
    round: int
    offer: Offer
    seen_in: str = ""


class Accepted(Tagged, frozen=True):
    """The sender leads and has noted the receiver."""

    group_key: str
    round: int


class Refused(Tagged, frozen=True):
    """The sender will not lead the receiver; ``try_instead`` may, ``taken`` are in a group already."""

    group_key: str
    round: int
    reason: str
    try_instead: str
    taken: tuple[str, ...]


class Leave(Tagged, frozen=True):
    """The sender follows somebody else, or gave up."""

    group_key: str
    round: int


class Disbanded(Tagged, frozen=True):
    """The sender no longer leads."""

    group_key: str
    round: int
    try_instead: str


class Draft(Tagged, frozen=True):
    """The leader's roster as it may become: to whom of these is the receiver direct?"""

    group_key: str
    round: int
    members: tuple[str, ...]


class Directness(Tagged, frozen=True):
    """The answer to Draft, after trying: to whom of them the sender has a direct connection."""

    group_key: str
    round: int
    direct: tuple[str, ...]


class Handover(Tagged, frozen=True):
    """The receiver's group, by the leader it followed: the first member leads it from now on."""

    group_key: str
    round: int
    members: tuple[tuple[str, Offer], ...]


class Excluded(Tagged, frozen=True):
    """The leader found no group that the receiver could be in."""

    group_key: str
    round: int
    reason: str


class Begin(Tagged, frozen=True):
    """The group is closed; the leader's signed manifest."""

    manifest: bytes


MatchMessage = (
    Join | Accepted | Refused | Leave | Disbanded | Draft | Directness | Handover | Excluded | Begin
)
