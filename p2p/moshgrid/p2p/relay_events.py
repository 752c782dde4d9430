"""What a peer hears about relays, and what it has done: the words of ``relay_choice``."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.p2p.identity import PeerId

__all__ = [
    "Advertise",
    "Effect",
    "Event",
    "Found",
    "Granted",
    "Heard",
    "LookFor",
    "Lost",
    "Refused",
    "Release",
    "Reserve",
    "Silent",
    "Wanted",
]

# Events.


@dataclass(frozen=True, slots=True)
class Wanted:
    """Reservations are needed, or not: this peer can be reached without."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A peer that may be a relay. A low ``rank`` is asked early; it is random: all shall have their share."""

    relay: PeerId
    rank: float


@dataclass(frozen=True, slots=True)
class Granted:
    """A reservation was made or renewed, for ``seconds``; we are reached at ``addrs``."""

    relay: PeerId
    seconds: float
    addrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A relay did not grant one; ``never`` when it is none at all."""

    relay: PeerId
    never: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The last connection with a peer ended, and with it the reservation."""

    relay: PeerId


@dataclass(frozen=True, slots=True)
class Silent:
    """A relay does not answer, though the connection is there: it may be dead, or very busy."""

    relay: PeerId


@dataclass(frozen=True, slots=True)
class Heard:
    """A relay that was silent answers again."""

    relay: PeerId


# Effects.


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask ``relay``; Granted or Refused must follow."""

    relay: PeerId


@dataclass(frozen=True, slots=True)
class Release:
    """The reservation is not needed any more, or is gone."""

    relay: PeerId


@dataclass(frozen=True, slots=True)
class LookFor:
    """Look for more relays; Found follows for each."""


@dataclass(frozen=True, slots=True)
class Advertise:
    """These are all our relayed addresses now."""

    addrs: tuple[str, ...]


Event = Wanted | Found | Granted | Refused | Lost | Silent | Heard
Effect = Reserve | Release | LookFor | Advertise
