"""``/noise``: the handshake within its bounds, then a secured session."""

from __future__ import annotations

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_raw_bytes import raw_bytes_of
from moshgrid.p2p.libp2p_secure_session import SecureSession
from moshgrid.p2p.libp2p_securing import RawReader, check_peer, handshake_bounds
from moshgrid.p2p.noise_handshake import MAX_MESSAGE, NoiseHandshake
from moshgrid.p2p.secure_channel import RecordError

__all__ = ["NOISE_ID", "NoiseTransport"]

NOISE_ID = "/noise"


class NoiseTransport(ISecureTransport):
    """Noise XX with Ed25519 identities."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
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
            handshake = NoiseHandshake(self._identity, initiator=expected is not None)
            reader = RawReader(raw)
            while not handshake.done:
                if handshake.is_our_turn:
                    message = handshake.write()
                    await raw.send(len(message).to_bytes(2) + message)
                    continue
                size = int.from_bytes(await reader.exactly(2))
                if size > MAX_MESSAGE:
                    raise RecordError(f"announced a Noise handshake message of {size} bytes")
                handshake.read(await reader.exactly(size))
                if handshake.peer is not None:
                    check_peer(expected, handshake.peer)
            assert handshake.peer is not None
            return SecureSession(
                self._keys, handshake.peer, raw, handshake.records(), conn, expected is not None
            )
