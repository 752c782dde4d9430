"""Asks a peer what it says of itself and of us, by libp2p's identify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from moshgrid.p2p.delimited import read_delimited
from moshgrid.p2p.identified import Identified
from moshgrid.p2p.libp2p_yamux import YamuxConnection

if TYPE_CHECKING:
    from moshgrid.p2p.libp2p_network import Libp2pNetwork

__all__ = ["identify"]

_IDENTIFY = "/ipfs/id/1.0.0"
_MAX_BYTES = 8192


async def identify(network: Libp2pNetwork, connection: YamuxConnection) -> Identified:
    """Asks over this very connection. Raises Unreachable, RemoteProtocolError, StreamReset, Malformed."""
    stream = await network.open_on(connection, _IDENTIFY)
    try:
        await stream.close_write()
        return Identified.decode(await read_delimited(stream, _MAX_BYTES))
    finally:
        with trio.CancelScope(shield=True):
            await stream.reset()
