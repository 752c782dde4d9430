"""A peer on an in-memory network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.errors import Closed, RemoteProtocolError, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Stream, StreamHandler
from moshgrid.p2p.serving import serve_stream
from moshgrid.p2p.testing.memory_stream import Circuit, MemoryStream, Pipe

if TYPE_CHECKING:
    from moshgrid.p2p.testing.memory_switch import MemorySwitch

__all__ = ["MemoryNetwork"]

_log = logging.getLogger("moshgrid.p2p")

_DIAL_TIMEOUT = 10.0
_MAX_ADDRS = 16


class MemoryNetwork:
    """A ``Network`` on a ``MemorySwitch``."""

    def __init__(
        self, switch: MemorySwitch, peer: PeerId, number: int, rate: float | None, dialable: bool
    ) -> None:
        self.switch = switch
        self.rate = rate
        self.dialable = dialable
        self.ip: str | None = None
        """What others see as this peer's IP address."""
        self.closed = False
        self.frozen: object = None
        """What tells one freeze from another; None for none."""
        self.streams: dict[MemoryStream, None] = {}  # in order, so that runs repeat
        self._complaints = Complaints(_log)
        self._tasks: dict[trio.CancelScope, None] = {}
        self._peer_id = peer
        self._number = number
        self._handlers: dict[str, StreamHandler] = {}
        self._links: dict[PeerId, MemoryNetwork] = {}
        self._relayed: dict[PeerId, Circuit] = {}
        self._lost_frozen: list[MemoryNetwork] = []
        self._addrs: dict[PeerId, list[str]] = {}
        self._listeners: dict[object, Callable[[PeerId], None]] = {}
        self._link_changed = trio.Event()
        self._uplink_free = 0.0
        self._downlink_free = 0.0

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._peer_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """One address, or none when the peer cannot be dialled; a relayed one for a peer at home."""
        reachability = self.switch.reachability
        is_home = reachability.is_home(self._peer_id)
        if not self.dialable or (is_home and not reachability.relays):
            return ()
        relay = "/p2p-circuit" if is_home else ""
        return (f"/memory/{self._number}{relay}/p2p/{self._peer_id}",)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Hands inbound streams of ``protocol`` to ``handler``."""
        self._handlers[protocol] = handler

    async def dial(self, addr: str) -> PeerId:
        """Connects to ``/memory/<n>/p2p/<id>``, or by a relay to ``/memory/<n>/p2p-circuit/p2p/<id>``."""
        await self.awake()
        parts = addr.replace("/p2p-circuit/", "/", 1).split("/")
        if len(parts) != 5 or parts[1] != "memory" or not parts[2].isdigit() or parts[3] != "p2p":
            raise Unreachable(addr, [(addr, "not an address of the form /memory/<n>/p2p/<peer id>")])
        peer = PeerId(parts[4])
        if peer not in self._links:
            await self._connect(addr, int(parts[2]), peer)
        self.learn_addrs(peer, [addr])
        return peer

    async def _connect(self, addr: str, number: int, peer: PeerId) -> None:
        await trio.sleep(2 * self.switch.delay())
        target = self.switch.at(number)
        if target is None:
            raise Unreachable(peer, [(addr, "refused the connection")])
        reachability = self.switch.reachability
        if reachability.is_home(target.peer_id) and not reachability.relays:
            raise Unreachable(peer, [(addr, "is behind a router, and there is no relay")])
        await self._round_trip(target, addr)
        if target.peer_id != peer:
            raise Unreachable(peer, [(addr, f"is another peer: {target.peer_id}")])
        if target.closed:
            raise Unreachable(peer, [(addr, "the connection was lost during the handshake")])
        self._links[peer] = target
        target._links[self._peer_id] = self
        if self.switch.reachability.is_home(peer):
            circuit = Circuit(self, target, self.switch.reachability.relay_bytes)
            self._relayed[peer] = target._relayed[self._peer_id] = circuit

    async def _round_trip(self, target: MemoryNetwork, tried: str) -> None:
        """Waits until a packet has gone there and back, at most the dial timeout."""
        with trio.move_on_after(_DIAL_TIMEOUT) as scope:
            await trio.sleep(2 * self.switch.delay())
            while target.frozen or self.frozen or self.switch.cut(self._peer_id, target.peer_id):
                await target.wait_link()
        if scope.cancelled_caught:
            raise Unreachable(target.peer_id, [(tried, f"no answer within {_DIAL_TIMEOUT:g} s")])

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream, over a new connection when there is none."""
        await self.awake()
        if peer not in self._links:
            await self._dial_known(peer)
        target = self._links[peer]
        await self._round_trip(target, protocol)
        await self.awake()
        if target.closed or self._links.get(peer) is not target:
            raise Unreachable(peer, [(protocol, "the connection was lost")])
        handler = target._handlers.get(protocol)
        if handler is None:
            raise RemoteProtocolError(peer, f"does not speak {protocol}")
        circuit = self._relayed.get(peer)
        there, back = Pipe(self, target, circuit), Pipe(target, self, circuit)
        ours = MemoryStream(self, peer, protocol, there, back)
        theirs = MemoryStream(target, self._peer_id, protocol, back, there)
        self.streams[ours] = None
        target.streams[theirs] = None
        self.switch.nursery.start_soon(target._serve, handler, theirs)
        return ours

    async def _dial_known(self, peer: PeerId) -> None:
        attempts: list[tuple[str, str]] = []
        for addr in self.addrs_of(peer):
            try:
                await self.dial(addr)
                return
            except Unreachable as error:
                attempts += error.attempts
        raise Unreachable(peer, attempts or [("no address", "none is known")])

    async def _serve(self, handler: StreamHandler, stream: MemoryStream) -> None:
        with trio.CancelScope() as scope:
            self._tasks[scope] = None
            await serve_stream(handler, stream, self._complaints)
        self._tasks.pop(scope)

    def learn_addrs(self, peer: PeerId, addrs: Sequence[str], seq: int | None = None) -> None:
        """Remembers addresses, newest first."""
        known = self._addrs.get(peer, [])
        fresh = list(dict.fromkeys(addr for addr in addrs if addr.endswith(f"/p2p/{peer}")))
        self._addrs[peer] = (fresh + [addr for addr in known if addr not in fresh])[:_MAX_ADDRS]

    def addrs_of(self, peer: PeerId) -> tuple[str, ...]:
        """Addresses known for a peer."""
        return tuple(self._addrs.get(peer, ()))

    def connected(self) -> frozenset[PeerId]:
        """Peers with a live connection."""
        return frozenset(self._links)

    def is_direct(self, peer: PeerId) -> bool:
        """True when the connection to ``peer`` goes over no relay."""
        return peer in self._links and peer not in self._relayed

    def circuit_of(self, peer: PeerId) -> CircuitInfo | None:
        """The relay's circuit under the connection to ``peer``."""
        circuit = self._relayed.get(peer)
        return None if circuit is None else circuit.info

    async def reach_directly(self, peer: PeerId, seconds: float) -> bool:
        """Dials, then punches where the switch's ``reachability`` lets it."""
        await self.awake()
        with trio.move_on_after(seconds):
            if peer not in self._links:
                try:
                    await self._dial_known(peer)
                except Unreachable:
                    return False
            if peer in self._relayed:
                await self._punch(peer)
        return self.is_direct(peer)

    async def _punch(self, peer: PeerId) -> None:
        reachability = self.switch.reachability
        if frozenset((self._peer_id, peer)) in reachability.endless:
            await trio.sleep_forever()
        await trio.sleep(reachability.punch_seconds)
        target = self._links.get(peer)
        if target is not None and reachability.can_punch(self._peer_id, peer):
            if (circuit := self._relayed.pop(peer, None)) is not None:
                circuit.replaced = True
            target._relayed.pop(self._peer_id, None)

    def observed_ip(self, peer: PeerId) -> str | None:
        """The ``ip`` that was given to a directly connected peer."""
        return self._links[peer].ip if self.is_direct(peer) else None

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when a peer is lost."""
        key = object()
        self._listeners[key] = listener

        def take_off() -> None:
            self._listeners.pop(key, None)

        return take_off

    async def aclose(self) -> None:
        """Leaves the network; others lose this peer."""
        await trio.lowlevel.checkpoint()
        self.switch.crash(self._peer_id)

    # What the switch does to a peer.

    def shut(self) -> list[MemoryNetwork]:
        """Ends every task and stream of this peer; returns the peers it was connected to."""
        self.closed = True
        for stream in list(self.streams):
            stream.abort("this peer is gone")
        for scope in self._tasks:
            scope.cancel()
        self.thaw()
        links = list(self._links.values())
        self._links.clear()
        self._relayed.clear()
        return links

    def unlink(self, lost: MemoryNetwork) -> None:
        """Takes note that the connection to ``lost`` is gone."""
        if self.closed or self._links.get(lost.peer_id) is not lost:
            return
        del self._links[lost.peer_id]
        self._relayed.pop(lost.peer_id, None)
        for stream in list(self.streams):
            if stream.other is lost:
                stream.abort("the connection was lost")
        for listener in list(self._listeners.values()):
            listener(lost.peer_id)

    def freeze(self) -> None:
        """Nothing completes from now on."""
        self.frozen = object()

    def thaw(self) -> None:
        """Goes on, and finds out who has given it up."""
        self.frozen = None
        lost, self._lost_frozen = self._lost_frozen, []
        for other in lost:
            self.unlink(other)
        self.wake()

    def lose_all(self) -> None:
        """Everybody gives up this frozen peer."""
        for other in list(self._links.values()):
            other.unlink(self)
            self._lost_frozen.append(other)

    def wake(self) -> None:
        """Lets everything that waits on this peer look again."""
        self._link_changed.set()
        self._link_changed = trio.Event()
        for stream in self.streams:
            stream.wake()

    async def wait_link(self) -> None:
        """Returns when a freeze or partition may have ended."""
        await self._link_changed.wait()

    async def awake(self) -> None:
        """Returns at once unless frozen. Raises Closed."""
        while self.frozen:
            await self._link_changed.wait()
        if self.closed:
            raise Closed("this peer is closed")

    def occupy_uplink(self, start: float, size: int) -> float:
        """When the last byte of ``size`` has left."""
        if self.rate is None:
            return start
        self._uplink_free = max(start, self._uplink_free) + size / self.rate
        return self._uplink_free

    def occupy_downlink(self, reached: float, size: int) -> float:
        """When the last byte has come in, given when it could have at an idle link."""
        if self.rate is None:
            return reached
        start = max(reached - size / self.rate, self._downlink_free)
        self._downlink_free = start + size / self.rate
        return self._downlink_free
