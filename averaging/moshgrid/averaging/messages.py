"""What members say to each other: the messages of matchmaking and of a round.

Members are named by their roster index, parts by their index.
"""

from __future__ import annotations

from moshgrid.averaging.match_messages import (
    MAX_NAMED,
    MAX_WEIGHT,
    Accepted,
    Begin,
    Directness,
    Disbanded,
    Draft,
    Excluded,
    Handover,
    Join,
    Leave,
    MatchMessage,
    Offer,
    Refused,
    Tagged,
)

__all__ = [
    "MAX_NAMED",
    "MAX_WEIGHT",
    "Accepted",
    "Alive",
    "Attested",
    "Begin",
    "Decided",
    "Decline",
    "Directness",
    "Disbanded",
    "Draft",
    "Excluded",
    "Fetch",
    "GroupMessage",
    "Handover",
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


# A round ------------------------------------------------------------------------------------------


class Ready(Tagged, frozen=True):
    """Countersigns the manifest, and brings it to whom the leader has not told yet."""

    manifest: bytes
    signature: bytes


class Decline(Tagged, frozen=True):
    """The sender will not take part."""

    reason: str


class Alive(Tagged, frozen=True):
    """Sent while a round lasts, so that silence means something."""


class PartData(Tagged, frozen=True):
    """The sender's own values of a part; the encoded bytes follow."""

    part: int


class ResultData(Tagged, frozen=True):
    """The average of a part; the encoded bytes follow. Bit i of ``contributors`` is member i."""

    part: int
    contributors: int
    digest: bytes


class Attested(Tagged, frozen=True):
    """A reducer's signature over the digests of up to 16 results it made."""

    parts: tuple[int, ...]
    digests: tuple[bytes, ...]
    signature: bytes


class Refusing(Tagged, frozen=True):
    """The sender refuses what a member sent it; for the others' reports, and no more than a claim."""

    member: int
    reason: str


class TakingOver(Tagged, frozen=True):
    """The sender reduces these parts in the place of a lost member."""

    parts: tuple[int, ...]
    instead_of: int


class Prepare(Tagged, frozen=True):
    """Paxos phase 1a."""

    ballot: int


class Promise(Tagged, frozen=True):
    """Paxos phase 1b: what was accepted (ballot −1 for nothing) and one held digest per part."""

    ballot: int
    accepted_ballot: int
    accepted: tuple[bytes, ...]
    held: tuple[bytes, ...]


class TooLow(Tagged, frozen=True):
    """A ballot was refused because the sender promised a higher one."""

    ballot: int
    promised: int


class Propose(Tagged, frozen=True):
    """Paxos phase 2a: one result digest per part."""

    ballot: int
    value: tuple[bytes, ...]


class Vote(Tagged, frozen=True):
    """Paxos phase 2b, to everybody: accepted, and holding all the bytes it names."""

    ballot: int
    value_digest: bytes
    signature: bytes


class Fetch(Tagged, frozen=True):
    """Asks for a result by digest."""

    part: int
    digest: bytes


class NotHeld(Tagged, frozen=True):
    """The answer to Fetch when the bytes are not here."""

    part: int
    digest: bytes


class Learn(Tagged, frozen=True):
    """Asks for the decision."""


class Decided(Tagged, frozen=True):
    """The decision, with the signed votes of more than half of the roster."""

    ballot: int
    value: tuple[bytes, ...]
    votes: tuple[tuple[int, bytes], ...]


class Sealed(Tagged, frozen=True):
    """The sender applied the decision of that ballot."""

    ballot: int


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
