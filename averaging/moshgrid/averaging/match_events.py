"""What happens to a search for a group (events) and what it asks for (effects)."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.averaging.messages import MatchMessage, Offer
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = [
    "Formed",
    "MatchEffect",
    "MatchEvent",
    "NoGroup",
    "OthersAwaited",
    "Overtaken",
    "PeerLost",
    "SeekerGone",
    "SeekerSeen",
    "Tell",
    "Told",
]


@dataclass(frozen=True, slots=True)
class SeekerSeen:
    """A peer is declared under this group key for this round."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class SeekerGone:
    """A peer's declaration now names another round, or is withdrawn."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Told:
    """A message of this group key and round came."""

    peer: PeerId
    message: MatchMessage
    block: str | None = None
    """Where its sender is seen; see ``address_blocks``."""


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The connection to a peer is gone, or it cannot be reached."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class OthersAwaited:
    """Whether peers that took part lately have not declared themselves for this round anywhere yet."""

    any: bool


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Another group sealed this round: when nobody else is left for it here, it is over."""


MatchEvent = SeekerSeen | SeekerGone | Told | PeerLost | OthersAwaited | Overtaken | DeadlinePassed


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a peer."""

    peer: PeerId
    message: MatchMessage


@dataclass(frozen=True, slots=True)
class Formed:
    """This peer leads these members (itself first); the manifest is to be signed and sent."""

    members: tuple[tuple[PeerId, Offer], ...]
    is_settled: bool = False
    """True when it is known who is direct to whom, and the offers say who reduces."""


@dataclass(frozen=True, slots=True)
class NoGroup:
    """No group came about; ``reason`` is for a person."""

    reason: str
    is_final: bool = False
    """True when looking on elsewhere would not help in this round."""


MatchEffect = Tell | Formed | NoGroup
