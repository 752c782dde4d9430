"""How others can reach this peer, in words; and what the machine that finds out hears and asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.observed_addrs import Place

__all__ = [
    "LAYER",
    "Announce",
    "Answered",
    "AskForCalls",
    "CallOver",
    "Event",
    "Family",
    "ListeningOn",
    "Mapped",
    "Observed",
    "PeerCame",
    "PeerLeft",
    "Proven",
    "Reachability",
    "Verdict",
    "family_of",
    "reachability_of",
]

LAYER = "reachability"
"""What keeps finding out is called this in ``Host.layers``."""

Verdict = Literal["public", "punchable", "private", "unknown"]
Family = Literal["ip4", "ip6"]


def family_of(host: str) -> Family:
    """Of an IP address."""
    return "ip6" if ":" in host else "ip4"


@dataclass(frozen=True, slots=True)
class Reachability:
    """What is known of how others can reach this peer."""

    verdict: Verdict
    places: tuple[Place, ...]
    """Where strangers came through, when public; else where the listening port was seen."""
    why: str
    """What the verdict rests on, for people."""
    improve: str
    """What would make it better; empty when nothing would."""
    families: Mapping[Family, Reachability] = field(default_factory=dict)
    """The same over IPv4 and over IPv6, of each that this computer has."""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.why}" + (f". {self.improve}" if self.improve else "")


def reachability_of(host: Host) -> Reachability:
    """What ``host`` knows; of one on an in-memory network nothing."""
    watch = host.layers.get(LAYER)
    if watch is None:
        return Reachability("unknown", (), "this network does not tell", "")
    found: Reachability = watch.reachability
    return found


# Events.


@dataclass(frozen=True, slots=True)
class ListeningOn:
    """This computer's own addresses changed, or are known for the first time."""

    port: int | None
    """The TCP port that is listened on; None when none is that others could call."""
    hosts: tuple[str, ...] = ()
    """IP addresses of this computer that mean something to the world."""
    home_hosts: tuple[str, ...] = ()
    """And those that mean something at home: with others, this is another home."""
    family: Family = "ip4"
    leads_outside: bool = True
    """Whether packets of this family have a way to the world at all."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A peer at ``observer`` saw our call come from ``host`` and ``port``."""

    observer: str
    host: str
    port: int
    listening_port: bool


@dataclass(frozen=True, slots=True)
class PeerCame:
    """A peer that may introduce us to witnesses is connected directly."""

    peer: PeerId
    host: str
    called: bool = False
    """We called it, and so it is no stranger's choice."""


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The last connection with a peer ended."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Mapped:
    """A router forwards ``place`` to us; None when none does any more."""

    place: Place | None


@dataclass(frozen=True, slots=True)
class Proven:
    """Somebody at ``witness``, whom we never contacted, brought the nonce that was for ``place``."""

    place: Place
    witness: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Of an introducer's witnesses ``tried`` called ``places``, ``missed`` of them came through to none."""

    places: tuple[Place, ...]
    tried: int
    missed: int


Event = ListeningOn | Observed | PeerCame | PeerLeft | Mapped | Proven | Answered


# Effects.


@dataclass(frozen=True, slots=True)
class AskForCalls:
    """Ask ``peer`` to have us called at ``places``."""

    peer: PeerId
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class CallOver:
    """Call ``peer`` over this family too, so that it sees where we are in it."""

    peer: PeerId
    family: Family


@dataclass(frozen=True, slots=True)
class Announce:
    """From now on this holds."""

    reachability: Reachability
