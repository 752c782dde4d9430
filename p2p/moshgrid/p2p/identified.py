"""What a peer says of itself and of us by libp2p's identify: where it listens, where it sees us."""

from __future__ import annotations

from typing import NamedTuple

from multiaddr.protocols import P_P2P

from moshgrid.p2p.addresses import Carrier, carrier_of, read_binary
from moshgrid.p2p.observed_addrs import Place
from moshgrid.p2p.protobuf import Malformed, parse_message
from moshgrid.p2p.reachability import Family

__all__ = ["Identified"]

_MAX_ADDRS = 32
_LISTEN_ADDRS = 2
_OBSERVED_ADDR = 4


class Identified(NamedTuple):
    """The bytes of multiaddrs, not looked at yet."""

    listens: tuple[bytes, ...]
    observed: bytes

    @staticmethod
    def decode(message: bytes) -> Identified:
        """From a message whose length was bounded. Raises Malformed."""
        said = parse_message(message)
        return Identified(tuple(said.texts(_LISTEN_ADDRS))[:_MAX_ADDRS], said.text(_OBSERVED_ADDR) or b"")

    def seen_at(self) -> Place:
        """Where the peer sees us. Raises Malformed."""
        try:
            addr = read_binary(self.observed)
            (kind, host), (_, port), *rest = addr.items()
            if not kind.name.startswith("ip") or rest:
                raise Malformed("a place that is not plain TCP")
            return str(host), int(port)
        except ValueError as error:
            raise Malformed(f"not a place: {error}") from error

    def listens_over(self, family: Family) -> list[str]:
        """Multiaddrs without a peer id at which it listens for TCP in this family."""
        found = []
        for raw in self.listens:
            try:
                addr = read_binary(raw).decapsulate_code(P_P2P)  # with which js-libp2p ends them
            except ValueError:
                continue
            if carrier_of(addr) is Carrier.TCP and str(addr).startswith(f"/{family}/"):
                found.append(str(addr))
        return found
