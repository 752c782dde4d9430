"""What members say to each other: the messages of matchmaking and of a round.

Members are named by their roster index, parts by their index.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Accepted",
    "Alive",
    "Attested",
    "Begin",
    "Decided",
    "Decline",
    "Disbanded",
    "Fetch",
    "GroupMessage",
    "Join",
    "Learn",
    "Leave",
    "MatchMessage",
    "Message",
    "NotHeld",
    "Offer",
    "PartData",
    "Prepare",
    "Promise",
    "Propose",
    "Ready",
    "Refused",
    "Refusing",
    "ResultData",
    "Sealed",
    "TakingOver",
    "TooLow",
    "Vote",
]


MAX_WEIGHT = 1e9
_MAX_BANDWIDTH = 1e15


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


# Matchmaking -------------------------------------------------------------------------------------


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

    @property
    def is_sound(self) -> bool:
        """False for numbers that no honest peer would send (negative, huge, not finite)."""
        sane = 0 <= self.weight <= MAX_WEIGHT and 0 <= self.bandwidth <= _MAX_BANDWIDTH
        return sane and len(self.reference) in (0, 32)


class Join(_Message, frozen=True):
    """Asks the receiver to lead; the sender's rank follows from its peer id."""

    group_key: str
    round: int
    offer: Offer


class Accepted(_Message, frozen=True):
    """The sender leads and has noted the receiver."""

    group_key: str
    round: int


class Refused(_Message, frozen=True):
    """The sender will not lead the receiver; ``try_instead`` may, ``taken`` are in a group already."""

    group_key: str
    round: int
    reason: str
    try_instead: str
    taken: tuple[str, ...]


class Leave(_Message, frozen=True):
    """The sender follows somebody else, or gave up."""

    group_key: str
    round: int


class Disbanded(_Message, frozen=True):
    """The sender no longer leads."""

    group_key: str
    round: int
    try_instead: str


class Begin(_Message, frozen=True):
    """The group is closed; the leader's signed manifest."""

    manifest: bytes


# A round ------------------------------------------------------------------------------------------


class Ready(_Message, frozen=True):
    """Countersigns the manifest, and brings it to whom the leader has not told yet."""

    manifest: bytes
    signature: bytes


class Decline(_Message, frozen=True):
    """The sender will not take part."""

    reason: str


class Alive(_Message, frozen=True):
    """Sent while a round lasts, so that silence means something."""


class PartData(_Message, frozen=True):
    """The sender's own values of a part; the encoded bytes follow."""

    part: int


class ResultData(_Message, frozen=True):
    """The average of a part; the encoded bytes follow. Bit i of ``contributors`` is member i."""

    part: int
    contributors: int
    digest: bytes


class Attested(_Message, frozen=True):
    """A reducer's signature over the digests of up to 16 results it made."""

    parts: tuple[int, ...]
    digests: tuple[bytes, ...]
    signature: bytes


class Refusing(_Message, frozen=True):
    """The sender refuses what a member sent it; for the others' reports, and no more than a claim."""

    member: int
    reason: str


class TakingOver(_Message, frozen=True):
    """The sender reduces these parts in the place of a lost member."""

    parts: tuple[int, ...]
    instead_of: int


class Prepare(_Message, frozen=True):
    """Paxos phase 1a."""

    ballot: int


class Promise(_Message, frozen=True):
    """Paxos phase 1b: what was accepted (ballot −1 for nothing) and one held digest per part."""

    ballot: int
    accepted_ballot: int
    accepted: tuple[bytes, ...]
    held: tuple[bytes, ...]


class TooLow(_Message, frozen=True):
    """A ballot was refused because the sender promised a higher one."""

    ballot: int
    promised: int


class Propose(_Message, frozen=True):
    """Paxos phase 2a: one result digest per part."""

    ballot: int
    value: tuple[bytes, ...]


class Vote(_Message, frozen=True):
    """Paxos phase 2b, to everybody: accepted, and holding all the bytes it names."""

    ballot: int
    value_digest: bytes
    signature: bytes


class Fetch(_Message, frozen=True):
    """Asks for a result by digest."""

    part: int
    digest: bytes


class NotHeld(_Message, frozen=True):
    """The answer to Fetch when the bytes are not here."""

    part: int
    digest: bytes


class Learn(_Message, frozen=True):
    """Asks for the decision."""


class Decided(_Message, frozen=True):
    """The decision, with the signed votes of more than half of the roster."""

    ballot: int
    value: tuple[bytes, ...]
    votes: tuple[tuple[int, bytes], ...]


class Sealed(_Message, frozen=True):
    """The sender applied the decision of that ballot."""

    ballot: int


MatchMessage = Join | Accepted | Refused | Leave | Disbanded | Begin
GroupMessage = (
    Ready
    | Decline
    | Alive
    | PartData
    | ResultData
    | Attested
    | Refusing
    | TakingOver
    | Prepare
    | Promise
    | TooLow
    | Propose
    | Vote
    | Fetch
    | NotHeld
    | Learn
    | Decided
    | Sealed
)
Message = MatchMessage | GroupMessage
