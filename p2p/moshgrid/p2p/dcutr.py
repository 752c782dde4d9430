"""DCUtR, "direct connection upgrade through relay": what both sides say before they punch a hole together.

As in libp2p's specification ``relay/DCUtR``. Two peers that are connected through a relay tell each other
where they were seen (CONNECT), and then call each other at the same moment, so that each one's router takes
the other's call for an answer. That moment is the arrival of SYNC on one side, and half a round trip after
sending it on the other. Who was called over the relay begins; who called over the relay is the client of
whatever runs over the new connection, as both sides may have opened it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from multiaddr.protocols import P_P2P

from moshgrid.p2p.addresses import Carrier, carrier_of, read_binary
from moshgrid.p2p.ip_ranges import is_home, is_nowhere
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.protobuf import Malformed, encode_message, parse_message

__all__ = [
    "DCUTR",
    "MAX_MESSAGE_BYTES",
    "Heard",
    "HolePunch",
    "HolePunchType",
    "HolePunching",
    "Punch",
    "Say",
    "places_of",
]

DCUTR = "/libp2p/dcutr"
MAX_MESSAGE_BYTES = 4096
_MAX_ADDRS = 16
_MAX_PLACES = 8
_MAX_HOSTS = 4
"""A peer could name strangers that we would then call: few of them."""

Place = tuple[str, int]
"""An IP address as text, and a TCP port."""


class HolePunchType(IntEnum):
    """What a message is."""

    CONNECT = 100
    SYNC = 300


@dataclass(frozen=True, slots=True)
class HolePunch:
    """The one message of the protocol. ``addrs`` are binary multiaddrs, without a peer id."""

    type: HolePunchType
    addrs: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The protobuf; as many addresses as fit."""
        addrs = list(self.addrs[:_MAX_ADDRS])
        while len(data := encode_message({1: int(self.type), 2: addrs})) > MAX_MESSAGE_BYTES:
            addrs.pop()
        return data

    @classmethod
    def decode(cls, data: bytes) -> HolePunch:
        """What ``encode`` or another implementation made. Raises Malformed."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise Malformed(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        fields = parse_message(data)
        try:
            kind = HolePunchType(fields.number(1) or 0)
        except ValueError:
            raise Malformed("neither CONNECT nor SYNC") from None
        return cls(kind, tuple(fields.texts(2)[:_MAX_ADDRS]))


def places_of(addrs: Sequence[bytes], home_too: bool = False) -> list[Place]:
    """Where TCP can call among binary multiaddrs, at most 8 places on 4 hosts.

    Places that mean something within one home only are left out unless ``home_too``; what cannot be read
    or is not plain TCP always is.
    """
    places: dict[Place, None] = {}
    hosts: set[str] = set()
    for raw in addrs:
        try:
            addr = read_binary(raw).decapsulate_code(P_P2P)  # with which js-libp2p ends them
            if carrier_of(addr) is not Carrier.TCP:
                continue
            (kind, host), (_, port) = addr.items()
            if not kind.name.startswith("ip") or is_nowhere(str(host)) or not int(port):
                continue
            if is_home(str(host)) and not home_too:
                continue
        except ValueError:
            continue
        hosts.add(str(host))
        if len(hosts) > _MAX_HOSTS or len(places) == _MAX_PLACES:
            break
        places[str(host), int(port)] = None
    return list(places)


@dataclass(frozen=True, slots=True)
class Heard:
    """The other side said ``message``."""

    message: HolePunch


@dataclass(frozen=True, slots=True)
class Say:
    """Send ``message``."""

    message: HolePunch


@dataclass(frozen=True, slots=True)
class Punch:
    """Call now at ``addrs``; ``as_client`` whoever opened the connection."""

    addrs: tuple[bytes, ...]
    as_client: bool


class HolePunching:
    """One try, on either side. ``begins``: this side was called over the relay, and opens the stream.

    ``handle`` raises Malformed when the other side speaks out of turn.
    """

    def __init__(self, own_addrs: Sequence[bytes], *, begins: bool, called: bool) -> None:
        self._own = tuple(own_addrs)
        self._begins = begins
        self._as_client = not called
        self._said_at: float | None = None
        self.deadline: float | None = None
        self.round_trip: float | None = None
        """Seconds, as measured by the side that begins."""
        self.theirs: tuple[bytes, ...] | None = None
        """What the other side said of where it was seen."""

    def begin(self, now: float) -> list[Say]:
        """The first words, of the side that begins."""
        assert self._begins and self._said_at is None
        self._said_at = now
        return [Say(HolePunch(HolePunchType.CONNECT, self._own))]

    def own_are(self, addrs: Sequence[bytes]) -> None:
        """What to say of ourselves, for the side that hears first where the other one is."""
        self._own = tuple(addrs)

    def handle(self, event: Heard | DeadlinePassed, now: float) -> list[Say | Punch]:
        """What to do now."""
        if isinstance(event, DeadlinePassed):
            if self.deadline is None or now < self.deadline:
                return []
            self.deadline = None
            return [Punch(self.theirs or (), self._as_client)]
        message = event.message
        is_connect = message.type is HolePunchType.CONNECT
        if is_connect != (self.theirs is None) or (self._begins and not is_connect):
            raise Malformed(f"{message.type.name} out of turn")
        if not is_connect:
            assert self.theirs is not None
            return [Punch(self.theirs, self._as_client)]
        self.theirs = message.addrs
        if not self._begins:
            return [Say(HolePunch(HolePunchType.CONNECT, self._own))]
        assert self._said_at is not None
        self.round_trip = now - self._said_at
        self.deadline = now + self.round_trip / 2
        return [Say(HolePunch(HolePunchType.SYNC))]
