"""A ``Stream`` over a stream of a libp2p connection."""

from __future__ import annotations

from moshgrid.p2p.libp2p_yamux import YamuxStream
from moshgrid.p2p.yamux_duplex import YamuxDuplex

__all__ = ["Libp2pStream"]


class Libp2pStream(YamuxDuplex):
    """One stream; ``protocol`` is set once it was negotiated."""

    def __init__(self, muxed: YamuxStream) -> None:
        super().__init__(muxed.conn.driver, muxed.state)
        self.connection = muxed.conn
