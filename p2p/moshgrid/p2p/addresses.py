"""Multiaddrs as text: what a peer can be dialled at, and a bounded book of what is known about whom."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import trio
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError
from multiaddr.utils import get_network_addrs

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import PeerId, peer_id_to_bytes

__all__ = [
    "MAX_ADDRS",
    "AddressBook",
    "Carrier",
    "carrier_of",
    "expand_wildcard",
    "parse_listen",
    "read_binary",
    "relay_of",
    "resolve",
    "split_addr",
]

MAX_ADDRS = 16
_MAX_PEERS = 5000
_MAX_BYTES = 4096
_MAX_LEARNED = 64
_TOLD_BESIDES = 4
"""So many unsigned addresses are kept of a peer that signed others."""
_MAX_CHARACTERS = 512
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
_FORM = (
    "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooW… (also /ip6, /dns4, /dns6; after the port /ws for a WebSocket, "
    "/wss for one behind a web server's TLS; through a relay its address, then /p2p-circuit/p2p/12D3KooW…)"
)
_CIRCUIT = "/p2p-circuit"


class Carrier(Enum):
    """What carries a connection's bytes."""

    TCP = ""
    WEBSOCKET = "/ws"
    WEB_TLS = "/wss"
    """A WebSocket inside the TLS of a web server; dialled only."""


_CARRIERS = {
    ("tcp",): Carrier.TCP,
    ("tcp", "ws"): Carrier.WEBSOCKET,
    ("tcp", "wss"): Carrier.WEB_TLS,
    ("tcp", "tls", "ws"): Carrier.WEB_TLS,
}


def carrier_of(addr: Multiaddr) -> Carrier | None:
    """What carries the bytes to a transport address; None when it is not one that we know."""
    names = tuple(protocol.name for protocol in addr.protocols())
    return _CARRIERS.get(names[1:]) if names and names[0] in _HOSTS else None


def read_binary(raw: bytes) -> Multiaddr:
    """A multiaddr from a stranger's bytes, every part of which can be read. Raises ValueError."""
    try:
        addr = Multiaddr(raw)
        str(addr)
    except (MultiaddrError, ValueError, TypeError) as error:  # the latter for a number that is cut off
        raise ValueError(f"not a multiaddr: {error}") from error
    if not raw:
        raise ValueError("an empty multiaddr")
    return addr


def relay_of(addr: str) -> str | None:
    """The full multiaddr of the relay that ``addr`` goes through; None when it is a direct one."""
    relay, circuit, _ = addr.partition(_CIRCUIT)
    return relay if circuit else None


def split_addr(addr: str) -> tuple[Multiaddr, PeerId]:
    """The place and the peer of a full multiaddr; the place of a relayed one ends in ``/p2p-circuit``.

    Raises ValueError with a plain text.
    """
    if len(addr) > _MAX_CHARACTERS:
        raise ValueError(f"an address has at most {_MAX_CHARACTERS} characters")
    try:
        parsed = Multiaddr(addr)
        text = str(parsed)
    except (MultiaddrError, ValueError) as error:
        raise ValueError(f"not a multiaddr ({error}); the form is {_FORM}") from error
    if (relay := relay_of(text)) is None:
        return _split_direct(parsed)
    peer = PeerId(text[len(relay + _CIRCUIT) :].removeprefix("/p2p/"))
    peer_id_to_bytes(peer)
    _, relaying = _split_direct(Multiaddr(relay))
    if relaying == peer:
        raise ValueError("a peer cannot be reached through itself")
    return Multiaddr(relay + _CIRCUIT), peer


def _split_direct(parsed: Multiaddr) -> tuple[Multiaddr, PeerId]:
    names = [protocol.name for protocol in parsed.protocols()]
    if names.count("p2p") != 1 or names[-1] != "p2p":
        raise ValueError(f"not an address that can be dialled; the form is {_FORM}")
    peer = PeerId(str(parsed.value_for_protocol("p2p")))
    peer_id_to_bytes(peer)
    place = parsed.decapsulate(f"/p2p/{peer}")
    if carrier_of(place) is None:
        raise ValueError(f"not an address that can be dialled; the form is {_FORM}")
    return place, peer


def parse_listen(addr: str) -> Multiaddr:
    """A listening address. Raises ConfigurationError."""
    try:
        parsed = Multiaddr(addr)
        names = [protocol.name for protocol in parsed.protocols()]
    except (MultiaddrError, ValueError) as error:
        raise ConfigurationError(f"listen={addr!r} is not a multiaddr: {error}") from error
    carrier = carrier_of(parsed)
    if carrier is Carrier.WEB_TLS:
        (family, host), (_, port), *_ = parsed.items()
        raise ConfigurationError(
            f"listen={addr!r}: TLS with a certificate for a name is a web server's business. Listen on "
            f"/{family.name}/{host}/tcp/{port}/ws behind one that passes WebSockets "
            "on (nginx, Caddy), and give others its address, /dns4/NAME/tcp/443/wss/p2p/<peer id>"
        )
    if names[:1] not in (["ip4"], ["ip6"]) or carrier is None:
        raise ConfigurationError(
            f"listen={addr!r} cannot be listened on; allowed are /ip4/…/tcp/PORT and /ip6/…/tcp/PORT, for "
            "example /ip4/0.0.0.0/tcp/31337 (all interfaces) or /ip4/0.0.0.0/tcp/0 (any free port), and "
            "the same with /ws at the end for WebSockets"
        )
    return parsed


def expand_wildcard(family: str, host: str) -> list[str]:
    """The addresses behind ``0.0.0.0`` or ``::`` that others may use, the loopback one last."""
    if host == "0.0.0.0":
        return [*get_network_addrs(4), "127.0.0.1"]
    if host == "::":
        return [*get_network_addrs(6), "::1"]
    return [host]


async def resolve(addr: Multiaddr) -> list[tuple[str, int]]:
    """The host by number and the port, once for each of a host name's addresses; empty for an unknown name.

    By the system's resolver, which knows /etc/hosts and the local network, and orders the addresses.
    """
    (kind, host), (_, port), *_ = addr.items()
    if kind.name in ("ip4", "ip6"):
        return [(host, int(port))]
    families = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    try:
        found = await trio.socket.getaddrinfo(
            host, int(port), families.get(kind.name, socket.AF_UNSPEC), socket.SOCK_STREAM
        )
    except OSError:
        return []
    return list(dict.fromkeys((str(item[4][0]), int(port)) for item in found))


class AddressBook:
    """Known addresses of peers: at most 16 and 4 KiB of text each, and 5,000 peers, the last used.

    What a peer signed outranks what others say of it, and its record with a higher sequence number replaces
    the one before. Where it answered comes first.
    """

    def __init__(self, max_peers: int = _MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._known: OrderedDict[PeerId, _Known] = OrderedDict()

    def learn(self, peer: PeerId, addrs: Sequence[str], seq: int | None = None) -> None:
        """Remembers those of ``addrs`` that are well formed and of this peer.

        ``seq``: they are all that the peer's own signed record with this sequence number says.
        """
        fresh = [addr for addr in dict.fromkeys(addrs[:_MAX_LEARNED]) if _is_of(peer, addr)][:MAX_ADDRS]
        known = self._known.get(peer, _NOBODY)
        if seq is not None:
            if seq <= known.seq:
                return
            known = _Known(seq, tuple(fresh), known.reached, known.told[:_TOLD_BESIDES])
        elif fresh:
            told = dict.fromkeys([*fresh, *known.told])
            known = _Known(known.seq, known.signed, known.reached, tuple(told))
        else:
            return
        self._keep(peer, known)

    def reached(self, peer: PeerId, addr: str) -> None:
        """``peer`` answered at ``addr``."""
        if not _is_of(peer, addr):
            return
        known = self._known.get(peer, _NOBODY)
        self._keep(peer, _Known(known.seq, known.signed, addr, known.told))

    def of(self, peer: PeerId) -> tuple[str, ...]:
        """Full multiaddrs: where it answered, what it signed, what others say, the newest first."""
        known = self._known.get(peer)
        return () if known is None else known.addrs

    def _keep(self, peer: PeerId, known: _Known) -> None:
        self._known[peer] = known.bounded()
        self._known.move_to_end(peer)
        while len(self._known) > self._max_peers:
            self._known.popitem(last=False)


@dataclass(frozen=True)
class _Known:
    seq: int
    signed: tuple[str, ...] = ()
    reached: str = ""
    told: tuple[str, ...] = ()

    @cached_property
    def addrs(self) -> tuple[str, ...]:
        first = [self.reached] if self.reached else []
        return tuple(dict.fromkeys([*first, *self.signed, *self.told]))[:MAX_ADDRS]

    def bounded(self) -> _Known:
        """Within the limits, what counts least left out."""
        room, kept = _MAX_BYTES, set[str]()
        for addr in self.addrs:
            room -= len(addr)
            if room < 0:
                break
            kept.add(addr)
        signed = tuple(addr for addr in self.signed if addr in kept)
        told = tuple(addr for addr in self.told if addr in kept and addr not in signed)
        if self.signed:
            told = told[:_TOLD_BESIDES]
        return _Known(self.seq, signed, self.reached if self.reached in kept else "", told)


_NOBODY = _Known(-1)


def _is_of(peer: PeerId, addr: str) -> bool:
    try:
        return split_addr(addr)[1] == peer
    except ValueError:
        return False
