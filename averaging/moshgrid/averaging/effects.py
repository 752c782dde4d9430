"""What a round's machines ask for and are told: its events (past tense) and effects (imperative).

Members are roster indices. Payload bytes never enter a machine: the driver keeps inputs by
(sender, part) and results by (part, digest), and the machines speak of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moshgrid.averaging.messages import GroupMessage
from moshgrid.p2p.machine import DeadlinePassed

__all__ = [
    "Abort",
    "Commit",
    "Emit",
    "Finish",
    "Heard",
    "LinkDown",
    "MemberLost",
    "PartArrived",
    "Received",
    "Reduce",
    "Reduced",
    "ResultArrived",
    "ResultTaken",
    "RoundEffect",
    "RoundEvent",
    "Send",
    "SendPart",
    "SendResult",
]

# Events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """A message without payload came from a member."""

    member: int
    message: GroupMessage


@dataclass(frozen=True, slots=True)
class Heard:
    """Some bytes came from a member, whatever they belong to, and ``size`` in all since the last time."""

    member: int
    size: int = 0


@dataclass(frozen=True, slots=True)
class PartArrived:
    """A member's values of a part came, have the right size and are kept."""

    member: int
    part: int


@dataclass(frozen=True, slots=True)
class ResultArrived:
    """A result came, its bytes fit its digest, and it is kept."""

    member: int
    part: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Reduced:
    """The average asked for with ``Reduce`` was made and is kept under ``digest``.

    ``refused`` are members whose values could not be used (not finite, not decodable).
    """

    part: int
    digest: bytes
    refused: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberLost:
    """The connection to a member is gone, or what it sent was ``refused``: it broke the protocol."""

    member: int
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The relay between a member and this peer is gone; within ``seconds`` they may find another way."""

    member: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ResultTaken:
    """The link has taken a result for a member, after the round was over here."""

    member: int


RoundEvent = (
    LinkDown
    | ResultTaken
    | Received
    | Heard
    | PartArrived
    | ResultArrived
    | Reduced
    | MemberLost
    | DeadlinePassed
)

# Effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a member."""

    member: int
    message: GroupMessage


@dataclass(frozen=True, slots=True)
class SendPart:
    """Send this peer's own values of a part to its reducer."""

    member: int
    part: int


@dataclass(frozen=True, slots=True)
class SendResult:
    """Send a kept result to a member."""

    member: int
    part: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Reduce:
    """Average the kept values of ``contributors`` (at least one), then report ``Reduced``."""

    part: int
    contributors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """The decision is final and all its bytes are kept: apply them. ``value``: a digest per part."""

    ballot: int
    value: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """The round cannot be decided here; the tensors stay as they are."""

    reason: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Write an event to the event log."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Nobody needs this member's memory of the round any more; forget it."""


RoundEffect = Send | SendPart | SendResult | Reduce | Commit | Abort | Emit | Finish
