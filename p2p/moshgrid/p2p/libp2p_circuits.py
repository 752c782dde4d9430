"""Relayed connections: secured and multiplexed end to end, over a stream that a relay passes on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import relay_of
from moshgrid.p2p.circuit_info import CircuitInfo, Meter
from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import Closed, MoshgridError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_failures import explain_failure
from moshgrid.p2p.libp2p_layered_connection import BytesConnection
from moshgrid.p2p.libp2p_raw_bytes import STALL_SECONDS, ChannelBroken, HeldBytes, stalled
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.relay_asking import RelayRefused, ask_circuit
from moshgrid.p2p.relay_messages import (
    HOP,
    MAX_MESSAGE_BYTES,
    RelayStatus,
    StopMessage,
    StopType,
)

__all__ = ["Circuits"]

_log = logging.getLogger("moshgrid.p2p")

_PIECE = 256 * 1024
_PER_RELAY = 256
_IN_ALL = 512


Live = Callable[[YamuxConnection], Awaitable[None]]


class Circuits:
    """Makes relayed connections, and takes those that relays bring. ``live`` runs one to its end."""

    def __init__(self, network: Network, upgrade: Upgrade, live: Live, limits: ConnectionLimits) -> None:
        self.relays: set[PeerId] = set()
        """Where we hold a reservation or ask for one: nobody else may bring us connections."""
        self._network = network
        self._upgrade = upgrade
        self._live = live
        self._limits = limits
        self._brought: Counter[PeerId] = Counter()

    async def call(self, addr: str, peer: PeerId) -> YamuxConnection:
        """A connection with ``peer`` at a relayed address, not running yet. Raises DialFailed."""
        relay_addr = relay_of(addr)
        assert relay_addr is not None
        stream: Stream | None = None
        done = False
        try:
            relay = await self._network.dial(relay_addr)
            stream = await self._network.open_stream(relay, HOP)
            limit = await ask_circuit(stream, peer)
            info = CircuitInfo(relay, limit)
            raw = CircuitConnection(stream, addr, info.meter, initiator=True)
            connection = await self._upgrade.connect(raw, ID.from_base58(peer))
            done = True
        except RelayRefused as error:
            raise DialFailed(str(error)) from error
        except RemoteProtocolError as error:
            raise DialFailed(f"the relay {error.reason}") from error
        except Closed as error:
            raise DialFailed(str(error)) from error
        except Unreachable as error:
            why = "; ".join(outcome for _, outcome in error.attempts[:3]) or "no answer"
            raise DialFailed(f"the relay could not be reached: {why}") from error
        except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
            raise DialFailed(explain_failure(error, peer)) from error
        finally:
            if stream is not None and not done:
                with trio.CancelScope(shield=True):
                    await stream.reset()
        connection.circuit = info
        return connection

    async def take(self, stream: Stream) -> None:
        """Serves a ``STOP`` stream: a relay has somebody for us."""
        relay = stream.peer
        if relay not in self.relays:
            await _answer(stream, RelayStatus.PERMISSION_DENIED)
            return
        if self._brought[relay] >= _PER_RELAY or self._brought.total() >= _IN_ALL:
            await _answer(stream, RelayStatus.RESOURCE_LIMIT_EXCEEDED)
            return
        self._brought[relay] += 1
        try:
            if (connection := await self._shake_hands(stream)) is not None:
                await self._live(connection)
        finally:
            self._brought[relay] -= 1
            if not self._brought[relay]:
                del self._brought[relay]

    async def _shake_hands(self, stream: Stream) -> YamuxConnection | None:
        connection: YamuxConnection | None = None
        with trio.move_on_after(self._limits.handshake_seconds):
            try:
                message = StopMessage.parse(await read_delimited(stream, MAX_MESSAGE_BYTES))
            except ValueError as error:
                _log.debug("%s: a relay's message cannot be read: %s", stream.peer, error)
                await _answer(stream, RelayStatus.MALFORMED_MESSAGE)
                return None
            if message.type is not StopType.CONNECT or message.peer is None:
                await _answer(stream, RelayStatus.UNEXPECTED_MESSAGE)
                return None
            await _answer(stream, RelayStatus.OK)
            via = self._network.addrs_of(stream.peer)
            place = f"{via[0]}/p2p-circuit" if via else f"/p2p/{stream.peer}/p2p-circuit"
            info = CircuitInfo(stream.peer, message.limit)
            raw = CircuitConnection(stream, f"{place}/p2p/{message.peer}", info.meter, initiator=False)
            try:
                connection = await self._upgrade.connect(raw, None)
            except Exception as error:  # a stranger can cause anything
                _log.debug("a relayed connection was not secured: %r", error)
        if connection is not None and connection.peer != message.peer:
            _log.debug("%s brought %s and called it %s", stream.peer, connection.peer, message.peer)
            await connection.close()
            return None
        if connection is not None:
            connection.circuit = info
        return connection


async def _answer(stream: Stream, status: RelayStatus) -> None:
    await send_delimited(stream, StopMessage(StopType.STATUS, status=status).encode())


class CircuitConnection(BytesConnection):
    """A stream through a relay."""

    def __init__(self, stream: Stream, addr: str, meter: Meter, *, initiator: bool) -> None:
        super().__init__(StreamBytes(stream, meter), initiator=initiator)
        self._addr = Multiaddr(addr.rpartition("/p2p/")[0])

    def get_remote_address(self) -> tuple[str, int] | None:
        """Nobody knows where the peer is."""
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Through which relay."""
        return [self._addr]

    def get_connection_type(self) -> ConnectionType:
        """Always relayed."""
        return ConnectionType.RELAYED


class StreamBytes(HeldBytes):
    """``RawBytes`` of a stream, counted by ``meter``."""

    def __init__(self, stream: Stream, meter: Meter) -> None:
        super().__init__()
        self._stream = stream
        self._meter = meter

    async def receive(self) -> bytes:
        """What has arrived, a piece at most."""
        try:
            data = await self._stream.receive(_PIECE)
        except StreamReset as error:
            raise ChannelBroken("the relayed connection was lost") from error
        self._meter.received(len(data))
        return data

    async def send(self, data: bytes | memoryview) -> None:
        """Sends all of ``data``, waiting while the relay or the peer takes nothing, for 30 s at most."""
        sent = False
        self._meter.sent(len(data))
        try:
            with trio.move_on_after(STALL_SECONDS):
                await self._stream.send(data)
                sent = True
        except MoshgridError as error:
            raise ChannelBroken("the relayed connection was lost") from error
        if not sent:
            await self._stream.reset()
            raise stalled()

    async def close(self) -> None:
        """Ends the stream; never raises."""
        await self._stream.close()
