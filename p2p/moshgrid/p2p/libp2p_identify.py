"""Asks a peer what it says of itself and of us by libp2p's identify: where it listens, where it sees us."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio
from multiaddr.protocols import P_P2P

from moshgrid.p2p.addresses import Carrier, carrier_of, read_binary
from moshgrid.p2p.delimited import read_delimited
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.observed_addrs import Place
from moshgrid.p2p.protobuf import Malformed, parse_message
from moshgrid.p2p.reachability import Family

if TYPE_CHECKING:
    from moshgrid.p2p.libp2p_network import Libp2pNetwork

__all__ = ["Identified", "identify"]

_IDENTIFY = "/ipfs/id/1.0.0"
_MAX_BYTES = 8192
_MAX_ADDRS = 32
_LISTEN_ADDRS = 2
_OBSERVED_ADDR = 4


class Identified(NamedTuple):
    """The bytes of multiaddrs, not looked at yet."""

    listens: tuple[bytes, ...]
    observed: bytes

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
                addr = read_binary(raw).decapsulate_code(P_P2P)
            except ValueError:
                continue
            if carrier_of(addr) is Carrier.TCP and str(addr).startswith(f"/{family}/"):
                found.append(str(addr))
        return found


async def identify(network: Libp2pNetwork, connection: YamuxConnection) -> Identified:
    """Asks over this very connection. Raises Unreachable, RemoteProtocolError, StreamReset, Malformed."""
    stream = await network.open_on(connection, _IDENTIFY)
    try:
        await stream.close_write()
        said = parse_message(await read_delimited(stream, _MAX_BYTES))
        return Identified(tuple(said.texts(_LISTEN_ADDRS))[:_MAX_ADDRS], said.text(_OBSERVED_ADDR) or b"")
    finally:
        with trio.CancelScope(shield=True):
            await stream.reset()
