"""A py-libp2p host with only what we use of it: TCP, Noise and our yamux connections.

No plaintext, no mplex, no dialling on its own account, no identify of everybody who connects.
"""

from __future__ import annotations

import logging
from typing import Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_yamux import ConnectionWatcher, YamuxConnection, YamuxUpgrade

__all__ = ["QuietHost", "make_host"]

_log = logging.getLogger("moshgrid.p2p")

_MAX_CONNECTIONS = 1024
_HANDSHAKE_SECONDS = 10.0


def make_host(identity: Identity, watcher: ConnectionWatcher) -> QuietHost:
    """A host that is not running yet; ``watcher`` hears of its connections."""
    keys = create_new_key_pair(identity.private_bytes())
    store = PeerStore()
    peer = ID.from_pubkey(keys.public_key)
    store.add_key_pair(peer, keys)
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    upgrader = TransportUpgrader({TProtocol(NOISE_ID): noise}, {TProtocol(YAMUX_ID): Yamux})
    upgrader.muxer_multistream = YamuxUpgrade(watcher)
    swarm = QuietSwarm(
        peer,
        store,
        upgrader,
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=_MAX_CONNECTIONS,
            high_watermark=_MAX_CONNECTIONS,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=8,
            inbound_upgrade_timeout=_HANDSHAKE_SECONDS,
            outbound_upgrade_timeout=_HANDSHAKE_SECONDS,
        ),
    )
    swarm.auto_connector = NoAutoConnector()  # type: ignore[assignment]
    return QuietHost(network=swarm, disable_identify_address_discovery=True)


class QuietSwarm(Swarm):
    """Lets go of an inbound connection when it ends, and never dials by itself."""

    async def _do_handle_inbound_connection(
        self, read_write_closer: ReadWriteCloser, maddr: Multiaddr, failure_event: Any
    ) -> None:
        # The stock method keeps the task and its place under the connection limit until the whole
        # swarm stops, so that a node grows deaf after so many connections in its life.
        raw = RawConnection(read_write_closer, False)
        try:
            connection = await self.upgrade_inbound_raw_conn(raw, maddr)
        except Exception as error:  # the root of this connection's task; a stranger can cause anything
            _log.debug("an inbound connection failed: %r", error)
            await raw.close()
        else:
            assert isinstance(connection, YamuxConnection)
            await connection.over.wait()

    def _schedule_auto_connect(self) -> None:
        pass


class NoAutoConnector:
    """Stands where the stock one dials whomever it has heard of, whatever its limits say."""

    async def start(self) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Does nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Does nothing."""

    def record_disconnect(self, peer: ID) -> None:
        """Does nothing."""


class QuietHost(BasicHost):
    """Answers identify and ping, and asks nobody."""

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        pass
