"""``/tls/1.0.0``: the handshake within its bounds, then a secured session."""

from __future__ import annotations

from contextlib import suppress

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, RawBytes, raw_bytes_of
from moshgrid.p2p.libp2p_secure_session import SecureSession
from moshgrid.p2p.libp2p_securing import RawReader, check_peer, handshake_bounds
from moshgrid.p2p.secure_channel import RecordError
from moshgrid.p2p.tls_handshake import HEADER_BYTES, TlsContexts, TlsHandshake

__all__ = ["TLS_ID", "TlsTransport"]

TLS_ID = "/tls/1.0.0"


class TlsTransport(ISecureTransport):
    """TLS 1.3 with Ed25519 identities."""

    def __init__(self, identity: Identity) -> None:
        self._contexts = TlsContexts(identity)
        self._keys = create_new_key_pair(identity.private_bytes()).private_key

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """The session with whoever called. Raises HandshakeRefused."""
        return await self._secure(conn, None)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """The session with ``peer_id``. Raises HandshakeRefused, PeerMismatch for anybody else."""
        return await self._secure(conn, peer_id)

    async def _secure(self, conn: IRawConnection, expected: ID | None) -> ISecureConn:
        raw = raw_bytes_of(conn)
        async with handshake_bounds(raw):
            handshake = TlsHandshake(self._contexts, initiator=expected is not None)
            try:
                await _shake_hands(handshake, raw)
            except RecordError:
                with suppress(ChannelBroken):
                    await raw.send(handshake.last_words())
                raise
            peer = handshake.peer()
            check_peer(expected, peer)
            return SecureSession(self._keys, peer, raw, handshake.records(), conn, expected is not None)


async def _shake_hands(handshake: TlsHandshake, raw: RawBytes) -> None:
    reader = RawReader(raw)
    answer = handshake.start()
    while True:
        if answer:
            await raw.send(answer)
        if handshake.done:
            return
        header = await reader.exactly(HEADER_BYTES)
        answer = handshake.take(header + await reader.exactly(handshake.length_of(header)))
