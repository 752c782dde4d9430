"""Relaying for others: reservations and circuits as the table decides, each circuit in a task of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import trio
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import relay_of
from moshgrid.p2p.clock import Clock
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.errors import Closed, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.protobuf import Malformed
from moshgrid.p2p.relay_forwarding import CircuitExhausted, forward
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_messages import (
    HOP,
    MAX_MESSAGE_BYTES,
    STOP,
    CircuitLimit,
    HopMessage,
    HopType,
    RelayStatus,
    Reserved,
    StopMessage,
    StopType,
)
from moshgrid.p2p.relay_table import Circuit, RelayTable
from moshgrid.p2p.relay_voucher import make_voucher

__all__ = ["RelayServer"]

_log = logging.getLogger("moshgrid.p2p")

_REQUEST_SECONDS = 10.0
_TARGET_SECONDS = 20.0
_MAX_ADDR_BYTES = 3072


class RelayServer:
    """Serves ``HOP`` on ``network`` from its start.

    ``address_of`` gives the IP address that a connected peer comes from, None when it comes through a relay.
    """

    def __init__(
        self,
        network: Network,
        identity: Identity,
        clock: Clock,
        address_of: Callable[[PeerId], str | None],
        limits: RelayLimits | None = None,
    ) -> None:
        self.table = RelayTable(limits or RelayLimits())
        self._network = network
        self._identity = identity
        self._clock = clock
        self._address_of = address_of
        self._unanswered: Counter[PeerId] = Counter()

    def start(self) -> None:
        """Takes requests from now on."""
        self._network.on_lost(self.table.release)
        self._network.serve(HOP, self._take)

    def needs(self, peer: PeerId) -> bool:
        """True when the connection with ``peer`` must not end for being idle."""
        return self.table.holds(peer, self._clock.now())

    async def _take(self, stream: Stream) -> None:
        peer = stream.peer
        if self._unanswered[peer] >= self.table.limits.requests_per_peer:
            await stream.reset()
            return
        self._unanswered[peer] += 1
        try:
            circuit = await self._answer(stream)
        finally:
            self._unanswered[peer] -= 1
            if not self._unanswered[peer]:
                del self._unanswered[peer]
        if circuit is not None:
            await self._pass_on(*circuit, stream)

    async def _answer(self, stream: Stream) -> tuple[Circuit, Stream] | None:
        """Answers one request; the circuit that is to be passed on, if there is one."""
        message = None
        with trio.move_on_after(_REQUEST_SECONDS):
            try:
                message = HopMessage.parse(await read_delimited(stream, MAX_MESSAGE_BYTES))
            except ValueError as error:
                _log.debug("%s asked this relay for nothing that can be read: %s", stream.peer, error)
                await self._say(stream, RelayStatus.MALFORMED_MESSAGE)
                return None
        if message is None:
            await stream.reset()
            return None
        if message.type is HopType.STATUS:
            await self._say(stream, RelayStatus.UNEXPECTED_MESSAGE)
            return None
        address = self._address_of(stream.peer)
        if address is None:  # relays are no chains
            await self._say(stream, RelayStatus.PERMISSION_DENIED)
            return None
        if message.type is HopType.RESERVE:
            await self._reserve(stream, address)
            return None
        if message.peer is None:
            await self._say(stream, RelayStatus.MALFORMED_MESSAGE)
            return None
        return await self._connect(stream, address, message.peer)

    async def _reserve(self, stream: Stream, address: str) -> None:
        status = self.table.reserve(stream.peer, address, self._clock.now())
        if status is not RelayStatus.OK:
            await self._say(stream, status)
            return
        if stream.peer not in self._network.connected():  # it went while we thought
            self.table.release(stream.peer)
            return
        expires = self._clock.wall_ms() // 1000 + self.table.limits.reservation_seconds
        voucher = make_voucher(self._identity, stream.peer, expires)
        answer = HopMessage(
            HopType.STATUS,
            reserved=Reserved(expires, self._addrs(), voucher),
            limit=self._limit,
            status=RelayStatus.OK,
        )
        await self._send(stream, answer)

    def _addrs(self) -> tuple[bytes, ...]:
        """Where this relay can be dialled, so many that the message is not too long."""
        addrs = [Multiaddr(addr).to_bytes() for addr in self._network.addrs if relay_of(addr) is None]
        while sum(map(len, addrs)) > _MAX_ADDR_BYTES:
            addrs.pop()
        return tuple(addrs)

    @property
    def _limit(self) -> CircuitLimit | None:
        limits = self.table.limits
        if not limits.circuit_seconds and not limits.circuit_bytes:
            return None
        return CircuitLimit(limits.circuit_seconds, limits.circuit_bytes)

    async def _connect(self, stream: Stream, address: str, target: PeerId) -> tuple[Circuit, Stream] | None:
        there = self._address_of(target)
        if there is None:
            await self._say(stream, RelayStatus.NO_RESERVATION)
            return None
        circuit = self.table.connect(stream.peer, target, (address, there), self._clock.now())
        if isinstance(circuit, RelayStatus):
            await self._say(stream, circuit)
            return None
        stop: Stream | None = None
        done = False
        try:
            stop = await self._reach(stream.peer, target)
            if stop is None:
                await self._say(stream, RelayStatus.CONNECTION_FAILED)
                return None
            self.table.started(circuit, self._clock.now())
            await self._send(stream, HopMessage(HopType.STATUS, limit=self._limit, status=RelayStatus.OK))
            done = True
            return circuit, stop
        finally:
            if not done:
                self.table.end(circuit)
                if stop is not None:
                    await stop.reset()

    async def _reach(self, source: PeerId, target: PeerId) -> Stream | None:
        """A stream to ``target``, which accepted ``source``; None when it did not, or not in time."""
        stop: Stream | None = None
        accepted = False
        try:
            with trio.move_on_after(_TARGET_SECONDS):
                stop = await self._network.open_stream(target, STOP)
                await send_delimited(stop, StopMessage(StopType.CONNECT, source, self._limit).encode())
                answer = StopMessage.parse(await read_delimited(stop, MAX_MESSAGE_BYTES))
                accepted = answer.type is StopType.STATUS and answer.status == RelayStatus.OK
        except (Unreachable, RemoteProtocolError, Malformed, ValueError, Closed) as error:
            _log.debug("%s could not be reached for %s: %s", target, source, error)
        finally:
            if stop is not None and not accepted:
                await stop.reset()
        return stop if accepted else None

    async def _pass_on(self, circuit: Circuit, stop: Stream, stream: Stream) -> None:
        whole = False
        try:
            with trio.CancelScope(deadline=trio.current_time() + circuit.deadline - self._clock.now()):
                await forward(
                    stream,
                    stop,
                    lambda way: circuit.left[way] if not circuit.unlimited else 1 << 62,
                    lambda way, count: self.table.spend(circuit, way, count, self._clock.now()),
                )
                whole = True
        except (StreamReset, CircuitExhausted) as error:
            _log.debug("the circuit from %s to %s ended: %r", *circuit.ends, error)
        finally:
            self.table.end(circuit)
            with trio.CancelScope(shield=True):
                if whole:
                    await stop.close()
                else:
                    await stop.reset()
                    await stream.reset()

    async def _say(self, stream: Stream, status: RelayStatus) -> None:
        await self._send(stream, HopMessage(HopType.STATUS, status=status))

    async def _send(self, stream: Stream, message: HopMessage) -> None:
        sent = False
        with trio.move_on_after(_REQUEST_SECONDS):
            await send_delimited(stream, message.encode())
            sent = True
        if not sent:
            raise StreamReset(stream.peer, [(HOP, "does not read the answer")])
