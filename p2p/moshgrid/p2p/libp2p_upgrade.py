"""From a socket to a multiplexed connection with a known peer, every step bounded: it may be anybody."""

from __future__ import annotations

from collections.abc import Callable

import trio
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_bytes
from moshgrid.p2p.libp2p_layered_connection import LayeredConnection
from moshgrid.p2p.libp2p_negotiation import RawLine, SecureLine
from moshgrid.p2p.libp2p_private_network import PrivateBytes
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, close_quietly, raw_bytes_of
from moshgrid.p2p.libp2p_security import security_transports
from moshgrid.p2p.libp2p_yamux import ConnectionWatcher, YamuxConnection
from moshgrid.p2p.multistream import GREETING_BYTES, NegotiationFailed, accept, propose
from moshgrid.p2p.xsalsa20 import NONCE_BYTES

__all__ = ["Upgrade"]

_GOODBYE_SECONDS = 1.0


class Upgrade(TransportUpgrader):
    """Secures and multiplexes raw connections; with ``psk``, those of the private network only.

    The caller sets the deadline. What fails leaves nothing open.
    """

    def __init__(self, identity: Identity, watcher: ConnectionWatcher, psk: bytes | None) -> None:
        self._security = security_transports(identity)
        super().__init__(self._security, {TProtocol(YAMUX_ID): Yamux})
        self._psk = psk
        self._watcher = watcher
        self.greeting_bytes = GREETING_BYTES + (0 if psk is None else NONCE_BYTES)
        """What a server says before it was asked anything."""

    async def connect(
        self,
        raw: IRawConnection,
        peer: ID | None,
        authenticated: Callable[[PeerId], None] = lambda peer: None,
    ) -> YamuxConnection:
        """A connection, not running yet, with ``peer``, or with whoever called when that is None.

        ``authenticated`` is called with the peer between security and multiplexing, and may raise to end it.
        Raises SecurityUpgradeFailure, MuxerUpgradeFailure, or HandshakeRefused.
        """
        done, closing = False, raw
        try:
            closing = secured = await self.upgrade_security(raw, peer is not None, peer)
            authenticated(peer_id_from_bytes(secured.get_remote_peer().to_bytes()))
            connection = await self.upgrade_connection(secured, secured.get_remote_peer())
            done = True
        finally:
            if not done:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_SECONDS):
                    await close_quietly(closing)
        return connection

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        """The secured connection."""
        if self._psk is not None:
            raw_conn = LayeredConnection(raw_conn, PrivateBytes(raw_bytes_of(raw_conn), self._psk))
        line = RawLine(raw_bytes_of(raw_conn))
        try:
            if not is_initiator:
                protocol = await accept(line, self._security)
                if protocol is None:
                    raise SecurityUpgradeFailure("the peer gave up")
                return await self._security[TProtocol(protocol)].secure_inbound(raw_conn)
            assert peer_id is not None
            protocol = await propose(line, list(self._security))
            return await self._security[TProtocol(protocol)].secure_outbound(raw_conn, peer_id)
        except (NegotiationFailed, ChannelBroken) as error:
            raise SecurityUpgradeFailure(f"no security protocol was agreed on: {error}") from error

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> YamuxConnection:
        """The multiplexed connection."""
        line = SecureLine(conn)
        try:
            if conn.is_initiator:
                await propose(line, [YAMUX_ID])
            elif await accept(line, (YAMUX_ID,)) is None:
                raise MuxerUpgradeFailure("the peer gave up")
        except (NegotiationFailed, ChannelBroken) as error:
            raise MuxerUpgradeFailure(f"no multiplexer was agreed on: {error}") from error
        return YamuxConnection(conn, peer_id, self._watcher)
